"""The key service as a real process: a run over HTTPS with the real clients, and what malformed callers get."""

import base64
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from tests.support.key_runs import Node, approve, described, ticket_for
from tests.support.service_processes import CLOCK, Installation, installation

from strongroom.base.clock import to_rfc3339
from strongroom.base.encoding import from_b64url, parse_json_object, to_b64url
from strongroom.base.errors import (
    AuthenticationError,
    ConflictError,
    NotFoundError,
    RefusedError,
    UnavailableError,
    VerificationError,
)
from strongroom.base.secret import SecretBytes
from strongroom.cli.installation import free_port
from strongroom.clients.pinned import PinnedHttp
from strongroom.crypto.derive import sha256_hex
from strongroom.crypto.keys import SigningKey, VerifyingKey
from strongroom.crypto.x509 import new_identity, public_key, to_pem
from strongroom.log.merkle import leaf_hash, verify_consistency, verify_inclusion
from strongroom.log.note import verify_note
from strongroom.wire import key_service as wire
from strongroom.wire.service import ServiceEvidence, ServiceStatement

V1 = "/strongroom/v1"


def log_key(installed: Installation) -> str:
    """The log's verification key, as the service says it when it starts."""
    return str(installed.keys.ready["log_key"])


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with installation(tmp_path_factory.mktemp("installation")) as made:
        yield made


def test_a_whole_run_with_the_real_clients(installed: Installation) -> None:
    owner = installed.owner_client()
    owner.create_dataset("output")
    application = described(installed, "output")
    approval = approve(installed, "output", application)
    ticket = ticket_for(installed, "output", application.digest)
    driver = Node(installed, ticket=ticket, application=application.digest)
    executor = Node(installed, ticket=ticket, application=application.digest)
    _, secrets = driver.join()
    _, shared = executor.join(role="executor", driver_key=driver.signing.verifying_key.thumbprint)
    assert secrets == shared
    record = driver.client.record(now=CLOCK.now())
    assert [member.role for member in record.members] == ["driver", "executor"]
    assert set(record.approvals) == {"output"}
    write = secrets.writes["output"]
    request = wire.CloseRequest(
        run=driver.run,
        issued_at=to_rfc3339(CLOCK.now()),
        outcome="succeeded",
        leaves=len(record.leaves),
        receipt=sha256_hex(b"receipt"),
        commits=(
            wire.Commit(dataset="output", base=None, manifest_digest=sha256_hex(b"m"), write_ids=(write.write_id,)),
        ),
    )
    _, closing = driver.client.close(request)
    assert closing.leaves == 2
    head = owner.head("output")
    assert (head.number, head.writer) == (1, f"run:{driver.run}")
    assert owner.versions("output") == (head,)
    manifest = wire.WrittenDataset(number=1, write_keys={write.write_id: write.wrapped})
    released = owner.unwrap("output", manifest)
    assert released.write_keys == {"output": {write.write_id: SecretBytes(from_b64url(write.key))}}
    assert [run["outcome"] for run in owner.runs()["runs"] if run["run"] == driver.run] == ["succeeded"]
    assert owner.run(driver.run)["members"] == 2
    used = {each["approval"]: each for each in owner.approvals()["approvals"]}[approval]
    assert (used["runs_opened"], used["revoked"]) == (1, False)
    owner.revoke(approval)
    with pytest.raises(ConflictError, match="used before"):
        Node(installed, ticket=ticket, application=application.digest).join()
    fresh = ticket_for(installed, "output", application.digest)
    with pytest.raises(RefusedError) as refusal:
        Node(installed, ticket=fresh, application=application.digest).join()
    assert {mismatch.name for mismatch in refusal.value.mismatches} == {"approval for output", "runs"}


def test_shows_who_it_is_freshly(installed: Installation) -> None:
    http = installed.keys.http()
    evidence = ServiceEvidence.from_json(http.request("GET", f"{V1}/evidence?nonce=abc").require_success())
    statement = from_b64url(evidence.statement)
    key = public_key(from_b64url(evidence.identity_certificate))
    key.verify(statement, from_b64url(evidence.signature))
    said = ServiceStatement.from_json(statement)
    assert (said.identity, said.nonce, said.mode) == (key.thumbprint, "abc", "owner-operated")
    assert key.thumbprint == installed.keys.identity


def test_anybody_checks_the_log_but_only_owners_read_it(installed: Installation) -> None:
    http = installed.keys.http()
    installed.owner_client().create_dataset("logged")
    note = http.request("GET", f"{V1}/log/checkpoint").require_success().decode()
    size, root = int(note.split("\n")[1]), note.split("\n")[2]
    answer = http.request(
        "GET",
        f"{V1}/log/leaves?start=0&end={size}",
        headers={"Authorization": f"Bearer {installed.person_token()}"},
    )
    leaves = parse_json_object(answer.require_success())["leaves"]
    assert len(leaves) == size
    path = parse_json_object(http.request("GET", f"{V1}/log/inclusion?index=0&size={size}").require_success())["path"]
    verify_inclusion(
        leaf_hash(leaves[0].encode()),
        index=0,
        size=size,
        proof=[bytes.fromhex(each) for each in path],
        root=base64.b64decode(root),
    )
    proof = parse_json_object(http.request("GET", f"{V1}/log/consistency?first=1&second={size}").require_success())
    verify_consistency(
        old_size=1,
        old_root=leaf_hash(leaves[0].encode()),
        new_size=size,
        new_root=base64.b64decode(root),
        proof=[bytes.fromhex(each) for each in proof["path"]],
    )
    name, _, key = log_key(installed).split("+", 2)
    verify_note(note, name=name, key=VerifyingKey.from_raw_ed25519(base64.b64decode(key)[1:]))
    with pytest.raises(AuthenticationError):
        http.request("GET", f"{V1}/log/leaves?start=0&end=1").require_success()
    with pytest.raises(NotFoundError):
        http.request("GET", f"{V1}/log/inclusion?index={size}&size={size}").require_success()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", f"{V1}/datasets"),
        ("GET", f"{V1}/datasets"),
        ("GET", f"{V1}/datasets/output/versions"),
        ("POST", f"{V1}/datasets/output/versions"),
        ("POST", f"{V1}/datasets/output/writes"),
        ("POST", f"{V1}/datasets/output/unwrap"),
        ("POST", f"{V1}/approvals"),
        ("GET", f"{V1}/approvals"),
        ("GET", f"{V1}/approvals/x"),
        ("POST", f"{V1}/approvals/x/signatures"),
        ("POST", f"{V1}/approvals/x/revoke"),
        ("GET", f"{V1}/datasets/output/rosters"),
        ("POST", f"{V1}/datasets/output/rosters"),
        ("POST", f"{V1}/rosters/x/signatures"),
        ("GET", f"{V1}/leases"),
        ("GET", f"{V1}/refusals"),
        ("GET", f"{V1}/runs"),
        ("GET", f"{V1}/runs/x"),
        ("GET", f"{V1}/log/leaves?start=0&end=1"),
        ("GET", "/keys?api-version=7.4"),
        ("POST", "/keys/k/create?api-version=7.4"),
        ("PUT", "/keys/k?api-version=7.4"),
        ("PATCH", "/keys/k/v?api-version=7.4"),
        ("POST", "/keys/k//wrapkey?api-version=7.4"),
        ("POST", "/keys/k/v/unwrapkey?api-version=7.4"),
        ("POST", "/keys/k//release?api-version=7.4"),
    ],
)
def test_no_call_of_people_is_open(installed: Installation, method: str, path: str) -> None:
    answer = installed.keys.http().request(method, path, body=b"{}", content_type="application/json")
    assert answer.status == 401


BODIES = [b"", b"{", b"[]", b"null", b"{}", b'{"a":1,"a":2}', b"\xff\xfe", b"a.b.c", b"e30.e30.AAAA", b"[" * 5000]


@pytest.mark.parametrize("body", BODIES)
def test_malformed_bodies_are_the_callers_fault(installed: Installation, body: bytes) -> None:
    http, token = installed.keys.http(), {"Authorization": f"Bearer {installed.person_token()}"}
    for path in ("/runs", f"/runs/{'0' * 64}/members", f"/runs/{'0' * 64}/keys", f"/runs/{'0' * 64}/close"):
        answer = http.request("POST", V1 + path, body=body, content_type="application/jose")
        assert answer.status in {400, 403, 404}, (path, answer.body)
    for path in ("/datasets", "/datasets/x/writes", "/datasets/x/unwrap", "/datasets/x/versions", "/approvals"):
        answer = http.request("POST", V1 + path, body=body, headers=token)
        assert (answer.status, set(parse_json_object(answer.body)["error"])) == (
            400,
            {"code", "message", "action", "step", "mismatches"},
        )
    for path in ("/keys/k/create", "/keys/k//wrapkey", "/keys/k/v/unwrapkey", "/keys/k//release"):
        answer = http.request("POST", f"{path}?api-version=7.4", body=body, headers=token)
        assert answer.status in {400, 404}, (path, answer.body)
        assert "innererror" in parse_json_object(answer.body)["error"] or answer.status == 404


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", f"{V1}/nothing", 404),
        ("GET", "/keys/k/v/what/ever", 404),
        ("DELETE", f"{V1}/datasets", 405),
        ("GET", f"{V1}/evidence", 400),
        ("GET", f"{V1}/evidence?nonce=a&nonce=b", 400),
        ("GET", f"{V1}/evidence?nonce={'a' * 257}", 400),
        ("GET", f"{V1}/log/inclusion?index=-1&size=1", 400),
        ("GET", f"{V1}/log/inclusion?index=%EF%BC%91&size=1", 400),
        ("GET", f"{V1}/log/inclusion?index=0&size=9007199254740992", 400),
        ("GET", f"{V1}/log/inclusion?index=0&size=9007199254740991", 404),
        ("GET", f"{V1}/datasets/none/head", 404),
        ("GET", "/healthz", 200),
    ],
)
def test_answers_other_calls_in_its_error_shape(installed: Installation, method: str, path: str, status: int) -> None:
    answer = installed.keys.http().request(method, path)
    assert answer.status == status
    assert isinstance(parse_json_object(answer.body), dict)


def test_refuses_a_body_that_is_too_large(installed: Installation) -> None:
    answer = installed.keys.http().request("POST", f"{V1}/runs", body=b"x" * ((4 << 20) + 1))
    assert answer.status == 413


def test_a_client_that_pinned_another_identity_does_not_connect(installed: Installation) -> None:
    key, now = SigningKey.generate("ES256"), CLOCK.now()
    other = new_identity(common_name="other", key=key, not_before=now - timedelta(1), not_after=now + timedelta(1))
    http = PinnedHttp(installed.keys.url, to_pem(other), key.verifying_key.thumbprint, service="the key service")
    with pytest.raises(VerificationError, match="not the key service that was pinned"):
        http.request("GET", "/healthz")
    with pytest.raises(VerificationError, match="pinned identity"):
        PinnedHttp(installed.keys.url, installed.keys.certificate_pem, "f" * 64)


def test_a_service_that_does_not_run_is_said_so(installed: Installation) -> None:
    http = PinnedHttp(
        f"https://127.0.0.1:{free_port()}",
        installed.keys.certificate_pem,
        installed.keys.identity,
        service="the key service",
    )
    with pytest.raises(UnavailableError, match="the key service does not answer") as error:
        http.request("GET", "/healthz")
    assert "strongroom up" in error.value.action


def test_a_second_service_on_the_same_state_or_port_ends_with_a_clear_error(installed: Installation) -> None:
    def output(path: Path) -> tuple[int, str]:
        command = [sys.executable, "-I", "-m", "strongroom.services.key_service", "--config", str(path)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert "Traceback" not in ended.stderr
        return ended.returncode, ended.stderr

    settings = json.loads(installed.keys.config.read_text())
    path = installed.folder / "second.json"
    path.write_text(json.dumps(settings))
    status, text = output(path)
    assert (status, "another process uses it" in text) == (1, True)
    other = {**settings, "state": str(installed.folder / "other"), "master_key": f"file://{installed.folder}/mek2"}
    path.write_text(json.dumps(other))
    status, text = output(path)
    assert (status, "cannot be listened on" in text) == (1, True)
    path.write_text(json.dumps({**settings, "unknown": 1}))
    assert output(path)[0] == 1
    assert output(installed.folder / "missing.json")[0] == 1


def test_ends_cleanly_and_comes_back_with_the_same_identity_and_state(tmp_path: Path, installed: Installation) -> None:
    installed.owner_client().create_dataset("kept")
    identity = installed.keys.identity
    started = time.monotonic()
    assert installed.keys.stop() == 0
    assert time.monotonic() - started < 10
    installed.keys = installed.start_keys(installed.keys.config)
    assert installed.keys.identity == identity
    assert "kept" in {each["dataset"] for each in installed.owner_client().datasets()["datasets"]}


def test_no_secret_stands_in_the_state_folder_or_on_the_command_line(installed: Installation) -> None:
    mek = (installed.folder / "mek").read_bytes()
    state = b"".join(path.read_bytes() for path in (installed.folder / "keys").iterdir())
    pid = installed.keys.process.pid
    seen = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes() + state
    for form in (mek, mek.hex().encode(), to_b64url(mek).encode()):
        assert form not in seen
    assert all(path.stat().st_mode & 0o077 == 0 for path in (installed.folder / "keys").iterdir())


def test_memory_stays_small(installed: Installation) -> None:
    status = Path(f"/proc/{installed.keys.process.pid}/status").read_text()
    resident_kb = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    assert resident_kb < 150 << 10
