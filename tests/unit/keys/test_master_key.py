"""Replacing the master key: interrupted anywhere, the configured one opens the store; at the end it does so alone."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.support.key_service import KeyBench, MovableClock, written
from tests.support.platform import NOW

from strongroom.base.errors import IntegrityError
from strongroom.cli.main import strongroom
from strongroom.crypto.keys import SigningKey
from strongroom.keys.providers.file import open_master_key
from strongroom.keys.store.database import SCHEMA
from strongroom.keys.store.databases import open_database
from strongroom.keys.store.master_key import add_master_key, open_store_key


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[KeyBench]:
    made = KeyBench(tmp_path)
    made.prepare()
    yield made
    made.store.close()


def use(bench: KeyBench, name: str) -> None:
    """Go on with the master key of this name, as a start with it does."""
    bench.store.close()
    shutil.copy(bench.folder / name, bench.folder / "mek")
    bench.start()
    bench.store.end_master_key_rotation(now=NOW)


def admit(bench: KeyBench, name: str) -> None:
    """Let a new master key of this name open the store as well."""
    bench.store.close()
    present = open_master_key(f"file://{bench.folder}/mek", create=False)
    database = open_database(bench.database, SCHEMA)
    database.writer.begin()
    following = open_master_key(f"file://{bench.folder}/{name}", create=True)
    add_master_key(database.writer, open_store_key(database.writer, present), following)
    database.writer.commit()
    database.close()
    bench.start()


def test_both_master_keys_open_the_store_until_the_new_one_did(bench: KeyBench) -> None:
    shutil.copy(bench.folder / "mek", bench.folder / "old")
    admit(bench, "new")
    for name in ("old", "old", "new", "new"):
        use(bench, name)
        assert bench.owner_unwrap("trips", written(1, bench.trips)).keys
    assert bench.events().count("master-key-rotated") == 1
    with pytest.raises(IntegrityError, match="another master key"):
        use(bench, "old")


def test_a_second_attempt_replaces_the_first_ones_master_key(bench: KeyBench) -> None:
    for name in ("lost", "new"):
        admit(bench, name)
    with pytest.raises(IntegrityError, match="another master key"):
        use(bench, "lost")
    use(bench, "new")
    assert bench.owner_unwrap("trips", written(1, bench.trips)).keys


def test_nothing_of_the_old_wrapping_stays_in_the_files(bench: KeyBench) -> None:
    shutil.copy(bench.folder / "mek", bench.folder / "old")
    with bench.store.reading() as tx:
        (old,) = tx.rows._connection.execute("SELECT value FROM meta WHERE name = 'store-key'").fetchone()
    admit(bench, "new")
    use(bench, "new")
    assert old not in b"".join(path.read_bytes() for path in bench.database.parent.glob("keys.db*"))


def test_the_command_changes_key_and_configuration_and_may_be_run_again(tmp_path: Path) -> None:
    from strongroom.services.key_service import build, launch, read_settings  # noqa: PLC0415 - loads the whole service

    owner, config = SigningKey.generate("ES256"), tmp_path / "config.json"
    settings = {
        "version": 1,
        "url": "https://127.0.0.1:9",
        "host": "127.0.0.1",
        "port": 9,
        "state": str(tmp_path / "state"),
        "master_key": f"file://{tmp_path}/one",
        "owners": [owner.verifying_key.to_jwk()],
        "attestation_services": [{"kind": "azure-attestation", "url": "https://shared.example.attest.azure.net"}],
        "mode": "owner-operated",
        "hardware": "simulated",
        "platform": None,
    }
    config.write_text(json.dumps(settings))
    build(launch(read_settings(config)), clock=MovableClock(), unlocked=None).store.close()
    command = ["key-service", "rotate-master-key", "--config", str(config), "--to", f"file://{tmp_path}/two"]
    for _ in range(2):
        ended = CliRunner().invoke(strongroom, command)
        assert ended.exit_code == 0, ended.output
        assert read_settings(config).master_key == f"file://{tmp_path}/two"
    (tmp_path / "one").unlink()
    service = build(launch(read_settings(config)), clock=MovableClock(), unlocked=None)
    with service.store.transaction() as tx:
        events = [json.loads(leaf)["event"] for leaf in tx.leaves(0, 10)]
    assert events == ["started", "master-key-rotated", "started"]
    refused = CliRunner().invoke(strongroom, [*command[:-1], f"file://{tmp_path}/three"])
    service.store.close()
    config.write_text(json.dumps({**json.loads(config.read_text()), "mode": "attested"}))
    attested = CliRunner().invoke(strongroom, command)
    assert (attested.exit_code, "its identity is sealed with it" in attested.output) == (1, True), attested.output
    assert (refused.exit_code, "another process uses it" in refused.output) == (1, True), refused.output
