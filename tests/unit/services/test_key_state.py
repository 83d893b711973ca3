"""Backup and restore of a real key service, online, from the command line; and what an owner has to say afterwards."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.support.key_service import KeyBench, Tee
from tests.support.postgres import PostgresServer
from tests.support.service_processes import CLOCK, Installation, installation

from strongroom.base.encoding import canonical_json, to_b64url
from strongroom.base.errors import (
    AuthenticationError,
    ConfigurationError,
    ConflictError,
    IntegrityError,
    RefusedError,
    UnavailableError,
    VerificationError,
)
from strongroom.base.secret import SecretBytes
from strongroom.cli.main import strongroom
from strongroom.clients.owner import OwnerClient
from strongroom.crypto.jose import seal_to_recipients, sign_jws
from strongroom.crypto.keys import ReceivingKey, SigningKey
from strongroom.keys.store import backup
from strongroom.services.key_service import read_settings
from strongroom.services.key_state import back_up, restore
from strongroom.wire.restore import RESTORE_ACCEPTANCE_TYP, RestoreAcceptance, RestoreAcceptanceUpload


def run(*arguments: object) -> Result:
    return CliRunner().invoke(strongroom, [str(each) for each in arguments])


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with installation(tmp_path_factory.mktemp("installation")) as made:
        yield made


def datasets(installed: Installation) -> set[str]:
    return {each["dataset"] for each in installed.owner_client().datasets()["datasets"]}


def aside(installed: Installation) -> None:
    """Lose the key service's state."""
    installed.keys.stop()
    shutil.rmtree(installed.folder / "keys")


def test_a_running_service_is_backed_up_and_restored_and_releases_again_when_an_owner_says_so(
    installed: Installation, tmp_path: Path
) -> None:
    owner, config, out = installed.owner_client(), installed.keys.config, tmp_path / "keys.backup"
    owner.create_dataset("kept")
    done = run("key-service", "backup", "--config", config, out)
    assert done.exit_code == 0, done.output
    assert out.stat().st_mode & 0o077 == 0
    assert run("key-service", "backup", "--config", config, out).exit_code != 0  # it is there already
    owner.create_dataset("lost")
    seen = installed.keys.http().request("GET", "/strongroom/v1/log/checkpoint").require_success().decode()
    identity = installed.keys.identity
    assert run("key-service", "restore", "--config", config, out).exit_code != 0  # the service runs
    aside(installed)
    done = run("key-service", "restore", "--config", config, out)
    assert done.exit_code == 0, done.output
    installed.keys = installed.start_keys(config)
    assert installed.keys.identity == identity

    client = installed.owner_client()
    with pytest.raises(UnavailableError, match="restored from a backup"):
        client.datasets()
    assert installed.keys.http().request("GET", "/readyz").status == 503
    pending = client.pending_restore()
    assert pending.restore is not None
    with pytest.raises(ConflictError):
        client.accept_restore("0" * 32, lost_size=0)
    client.accept_restore(pending.restore, lost_size=int(seen.split("\n")[1]))
    assert "kept" in datasets(installed)
    assert "lost" not in datasets(installed)
    assert installed.keys.http().request("GET", "/readyz").status == 200
    with pytest.raises(ConflictError):
        client.accept_restore(pending.restore, lost_size=0)
    installed.keys.stop()
    installed.keys = installed.start_keys(config)
    assert "kept" in datasets(installed)


def test_a_recipient_restores_under_a_new_master_key(installed: Installation, tmp_path: Path) -> None:
    recipient = ReceivingKey.generate_p256()
    public, private = tmp_path / "safe.jwk", tmp_path / "safe.key"
    jwk = {name: recipient.public_jwk[name] for name in ("kty", "crv", "x", "y")}
    public.write_bytes(canonical_json(jwk))  # type: ignore[arg-type]
    private.write_bytes(recipient.to_pem().reveal())
    private.chmod(0o600)
    out, config = tmp_path / "keys.backup", installed.keys.config
    done = run("key-service", "backup", "--config", config, "--recipient", public, out)
    assert done.exit_code == 0, done.output
    settings = json.loads(config.read_text())
    moved = tmp_path / "moved.json"
    moved.write_text(json.dumps({**settings, "state": str(tmp_path / "moved"), "master_key": f"file://{tmp_path}/mek"}))
    assert run("key-service", "restore", "--config", moved, out).exit_code != 0  # there is no master key
    assert not (tmp_path / "mek").exists()
    shutil.rmtree(tmp_path / "moved", ignore_errors=True)
    done = run("key-service", "restore", "--config", moved, "--recipient-key", private, out)
    assert done.exit_code == 0, done.output
    done = run("key-service", "restore", "--config", moved, "--recipient-key", private, out)
    assert done.exit_code != 0
    assert "already" in done.output


def remade(source: Path, *, recipient: ReceivingKey, files: dict[str, bytes], without: str, **changed: Any) -> Path:
    """Make a backup anew, with other files or without a table's rows: as who has its key can."""
    with source.open("rb") as file:
        header, _ = backup.read_header(file)
    with source.open("rb") as file:
        opened = backup.open_backup(file, master_key=None, recipient=recipient)
        rows = [(table, row) for table, row in opened.rows if table != without]
    key = SecretBytes(bytes(32))
    sealed = to_b64url(seal_to_recipients(key.reveal(), recipient_jwks=[public_part(recipient)]))
    made = source.with_suffix(".remade")
    with made.open("wb") as file:
        pieces = backup._Pieces(file, key=key, header=header.model_copy(update={"sealed": sealed, **changed}).to_json())
        pieces.add({"store_key": to_b64url(opened.store_key.reveal())})
        added = {name: SecretBytes(content) for name, content in files.items()}
        for name, content in {**opened.files, **added}.items():
            pieces.add({"file": name, "content": to_b64url(content.reveal())})
        for table, row in rows:
            pieces.add({"table": table, "row": {name: backup._to_json(value) for name, value in row.items()}})
        pieces.end()
    return made


def public_part(recipient: ReceivingKey) -> dict[str, Any]:
    return {name: recipient.public_jwk[name] for name in ("kty", "crv", "x", "y")}


@pytest.mark.parametrize(
    ("changed", "refusal", "says"),
    [
        ({"schema_version": 999}, ConfigurationError, "schema version 999"),
        ({"files": {"../planted": b"a key"}}, IntegrityError, "none of the service's"),
        (
            {"without": "datasets"},
            IntegrityError,
            None,
        ),  # consistent enough to be opened: the audit looks at everything
    ],
    ids=["of another schema", "with a file of somebody's", "without rows"],
)
def test_a_backup_that_was_made_anew_is_not_restored(
    installed: Installation, tmp_path: Path, changed: dict[str, Any], refusal: type[Exception], says: str | None
) -> None:
    recipient, out = ReceivingKey.generate_p256(), tmp_path / "keys.backup"
    settings = read_settings(installed.keys.config)
    installed.owner_client().create_dataset(f"d{len(datasets(installed))}")
    back_up(settings, out, recipients=[public_part(recipient)], clock=CLOCK)

    def restored(name: str, source: Path) -> None:
        moved = {"state": str(tmp_path / name), "master_key": f"file://{tmp_path}/{name}.mek"}
        restore(settings.model_copy(update=moved), source, recipient=recipient, clock=CLOCK)

    restored("good", remade(out, recipient=recipient, files={}, without=""))
    with pytest.raises(refusal, match=says):
        restored("bad", remade(out, recipient=recipient, **{"files": {}, "without": "", **changed}))
    assert not list(tmp_path.rglob("planted"))


def test_a_backup_is_not_restored_beside_keys_of_another_service(installed: Installation, tmp_path: Path) -> None:
    out, settings = tmp_path / "keys.backup", read_settings(installed.keys.config)
    back_up(settings, out, recipients=(), clock=CLOCK)
    elsewhere = settings.model_copy(update={"state": str(tmp_path / "state")})
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "state" / "statement.key").write_bytes(b"another key")
    with pytest.raises(ConflictError, match="another key than the backup's"):
        restore(elsewhere, out, recipient=None, clock=CLOCK)
    assert (tmp_path / "state" / "statement.key").read_bytes() == b"another key"


@pytest.mark.needs_postgres
def test_a_backup_moves_from_one_database_to_the_other(
    installed: Installation, tmp_path: Path, postgres: PostgresServer
) -> None:
    out, config = tmp_path / "keys.backup", installed.keys.config
    assert run("key-service", "backup", "--config", config, out).exit_code == 0
    moved = tmp_path / "moved.json"
    settings = {**json.loads(config.read_text()), "state": str(tmp_path / "moved")}
    moved.write_text(json.dumps({**settings, "state_database": postgres.new_database()}))
    done = run("key-service", "restore", "--config", moved, out)
    assert done.exit_code == 0, done.output
    back, again = tmp_path / "back.json", tmp_path / "again.backup"
    assert run("key-service", "backup", "--config", moved, again).exit_code == 0
    back.write_text(json.dumps({**settings, "state": str(tmp_path / "back")}))
    done = run("key-service", "restore", "--config", back, again)
    assert done.exit_code == 0, done.output


def test_an_interrupted_restore_releases_nothing(
    installed: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, config = tmp_path / "keys.backup", installed.keys.config
    installed.owner_client().create_dataset("precious")
    assert run("key-service", "backup", "--config", config, out).exit_code == 0
    aside(installed)

    def fail(*_: object) -> None:
        raise ConfigurationError("interrupted")

    with monkeypatch.context() as patch:
        patch.setattr("strongroom.services.key_state.open_state", fail)
        with pytest.raises(ConfigurationError, match="interrupted"):
            restore(read_settings(config), out, recipient=None, clock=CLOCK)
    installed.keys = installed.start_keys(config)
    with pytest.raises(UnavailableError, match="releases nothing"):
        installed.owner_client().datasets()
    aside(installed)
    restore(read_settings(config), out, recipient=None, clock=CLOCK)
    installed.keys = installed.start_keys(config)
    pending = installed.owner_client().pending_restore()
    assert pending.restore is not None
    installed.owner_client().accept_restore(pending.restore, lost_size=0)
    assert "precious" in datasets(installed)


def test_only_an_owners_own_fresh_word_about_this_service_counts(tmp_path: Path) -> None:
    bench = KeyBench(tmp_path)
    with bench.store.transaction() as tx:
        tx.append_leaf("restored", now=bench.clock.now(), what={"restore": "a" * 32})

    def word(key: SigningKey, **changed: Any) -> Any:
        fields: dict[str, Any] = {
            "key_service": bench.identity.identity,
            "restore": "a" * 32,
            "lost_size": 0,
            "issued_at": "2025-01-01T00:00:00Z",
            **changed,
        }
        header = {"typ": RESTORE_ACCEPTANCE_TYP, "kid": key.verifying_key.thumbprint}
        statement = sign_jws(RestoreAcceptance(**fields).to_json(), key=key, header=header)
        return RestoreAcceptanceUpload(statement=statement)

    now = bench.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")
    with pytest.raises(VerificationError, match="not signed by an owner"):
        bench.restores.accept(bench.person(word(bench.submitter, issued_at=now)))
    with pytest.raises(VerificationError, match="another key service"):
        bench.restores.accept(bench.person(word(bench.owner, issued_at=now, key_service="0" * 64)))
    with pytest.raises(RefusedError, match="just now"):
        bench.restores.accept(bench.person(word(bench.owner)))
    with pytest.raises(AuthenticationError):
        bench.restores.accept(bench.tee_call(word(bench.owner, issued_at=now).to_json().decode()))
    with pytest.raises(ConflictError, match="no restore of that name"):
        bench.restores.accept(bench.person(word(bench.owner, issued_at=now, restore="b" * 32)))
    bench.restores.accept(bench.person(word(bench.owner, issued_at=now)))
    with pytest.raises(ConflictError, match="no restore of that name"):
        bench.restores.accept(bench.person(word(bench.owner, issued_at=now)))
    with bench.store.reading() as tx:
        assert tx.log_state().restore is None
    assert bench.events()[-1] == "restore-accepted"
    bench.store.close()


def test_a_checkpoint_of_lost_entries_is_refused_until_an_owner_gives_them_up(tmp_path: Path) -> None:
    bench = KeyBench(tmp_path)
    bench.prepare(max_runs=5)
    bench.store.close()
    old = bench.database.read_bytes()
    bench.start()
    bench.open(Tee(), bench.ticket())
    seen = bench.store.checkpoint()
    bench.store.close()
    bench.database.write_bytes(old)
    for leftover in bench.database.parent.glob("keys.db-[sw]*"):
        leftover.unlink()
    bench.start()
    ticket = bench.ticket(checkpoints={bench.identity.identity: seen})
    with pytest.raises(RefusedError, match="older"):
        bench.open(Tee(number=1), ticket)
    with bench.store.transaction() as tx:
        what = {"restore": "a" * 32, "lost_size": int(seen.split("\n")[1])}
        tx.append_leaf("restore-accepted", now=bench.clock.now(), what=what)
    assert bench.open(Tee(number=1), bench.ticket(checkpoints={bench.identity.identity: seen}))
    bench.store.close()


def test_the_owners_client_needs_a_restore_to_accept(installed: Installation) -> None:
    client: OwnerClient = installed.owner_client()
    assert client.pending_restore().restore is None
