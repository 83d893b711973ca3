"""A witness as a real process, asked as other people's logs ask it."""

import base64
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.witnesses import RunningWitness, witness

from strongroom.base.errors import InconsistentLogError, UnavailableError
from strongroom.clients.pinned import ServiceHttp
from strongroom.crypto.keys import SigningKey
from strongroom.log.checkpoint import Checkpoint, sign_checkpoint
from strongroom.log.cosignature import verify_cosignatures, witness_key
from strongroom.log.merkle import MerkleTree, leaf_hash
from strongroom.log.note import sign_note, verification_key
from strongroom.log.witness import AddCheckpoint, OtherSizeError
from strongroom.services.witness import witness_error

ORIGIN = "log.example/1"
TREE = MerkleTree(leaf_hash(bytes([number])) for number in range(100))
FORK = MerkleTree(leaf_hash(bytes([number, 1])) for number in range(100))


class OtherLog:
    """Somebody's log, and its witness."""

    def __init__(self, folder: Path) -> None:
        self.key = SigningKey.generate("Ed25519")
        self.line = verification_key(ORIGIN, self.key.verifying_key)
        self.folder = folder

    def request(self, size: int, *, old: int, tree: MerkleTree = TREE) -> AddCheckpoint:
        checkpoint = Checkpoint(origin=ORIGIN, size=size, root=tree.root(size))
        proof = tree.consistency_proof(old, size) if old <= size else ()
        return AddCheckpoint(old_size=old, proof=proof, note=sign_checkpoint(checkpoint, key=self.key))


@pytest.fixture
def log(tmp_path: Path) -> OtherLog:
    return OtherLog(tmp_path)


@pytest.fixture
def running(log: OtherLog, tmp_path: Path) -> Iterator[RunningWitness]:
    with witness(tmp_path / "witness", log.line) as made:
        yield made


def http(running: RunningWitness) -> ServiceHttp:
    return ServiceHttp(running.url, authorities_pem=running.service.certificate_pem)


def test_cosigns_a_log_as_it_grows_and_shows_what_it_cosigned_last(log: OtherLog, running: RunningWitness) -> None:
    client = running.client()
    assert client.latest(ORIGIN) is None
    for old, new in ((0, 1), (1, 10), (10, 10), (10, 100)):
        request = log.request(new, old=old)
        line = client.add_checkpoint(request)
        (found,) = verify_cosignatures(request.note + line, witnesses=[witness_key(running.key)])
        assert found.witness == running.name
        assert client.latest(ORIGIN) == request.note + line


@pytest.mark.parametrize("old", [0, 5, 11])
def test_says_the_size_that_it_cosigned_last(log: OtherLog, running: RunningWitness, old: int) -> None:
    client = running.client()
    client.add_checkpoint(log.request(10, old=0))
    with pytest.raises(OtherSizeError) as refused:
        client.add_checkpoint(log.request(50, old=old))
    assert refused.value.size == 10
    reply = http(running).request("POST", "/add-checkpoint", body=log.request(50, old=old).to_bytes())
    assert (reply.status, reply.body) == (409, b"10\n")
    assert witness_error(OtherSizeError(10)).content_type == "text/x.tlog.size"


def test_signs_neither_a_fork_nor_a_shorter_log(log: OtherLog, running: RunningWitness) -> None:
    client = running.client()
    client.add_checkpoint(log.request(10, old=0))
    for fork in (log.request(20, old=10, tree=FORK), log.request(10, old=10, tree=FORK)):
        with pytest.raises(InconsistentLogError):
            client.add_checkpoint(fork)
        assert http(running).request("POST", "/add-checkpoint", body=fork.to_bytes()).status == 422
    reply = http(running).request("POST", "/add-checkpoint", body=log.request(5, old=10).to_bytes())
    assert reply.status == 400
    with pytest.raises(OtherSizeError):
        client.add_checkpoint(log.request(5, old=0))


def test_signs_for_known_logs_alone(log: OtherLog, running: RunningWitness) -> None:
    stranger = SigningKey.generate("Ed25519")
    root = TREE.root(3)
    unknown = sign_checkpoint(Checkpoint(origin="other", size=3, root=root), key=stranger)
    forged = sign_checkpoint(Checkpoint(origin=ORIGIN, size=3, root=root), key=stranger)
    for note, status in ((unknown, 404), (forged, 403)):
        body = AddCheckpoint(old_size=0, proof=(), note=note).to_bytes()
        assert http(running).request("POST", "/add-checkpoint", body=body).status == status
    with pytest.raises(UnavailableError):
        running.client().add_checkpoint(AddCheckpoint(old_size=0, proof=(), note=unknown))


def test_cosigns_what_other_peoples_logs_may_write(log: OtherLog, running: RunningWitness) -> None:
    """Extension lines, and signatures of others, which it does not keep as if it had verified them."""
    text = Checkpoint(origin=ORIGIN, size=3, root=TREE.root(3)).text + "an extension\n"
    note = sign_note(text, name=ORIGIN, key=log.key)
    other = sign_note(text, name="somebody", key=SigningKey.generate("Ed25519")).rpartition("\n\n")[2]
    line = running.client().add_checkpoint(AddCheckpoint(old_size=0, proof=(), note=note + other))
    assert running.client().latest(ORIGIN) == note + line


def test_remembers_across_a_kill_at_any_moment(log: OtherLog, running: RunningWitness) -> None:
    client, size = running.client(), 0
    for _ in range(5):
        for _ in range(3):
            client.add_checkpoint(log.request(size + 1, old=size))
            size += 1
        running.kill()
        running.start()
        client = running.client()
        with pytest.raises(OtherSizeError) as refused:
            client.add_checkpoint(log.request(size + 2, old=size + 1))
        assert refused.value.size == size
        with pytest.raises(InconsistentLogError):
            client.add_checkpoint(log.request(size + 1, old=size, tree=FORK))


def test_refuses_to_start_without_what_it_cosigned(log: OtherLog, running: RunningWitness) -> None:
    running.client().add_checkpoint(log.request(10, old=0))
    running.service.stop()
    (running.folder / "state" / "witness.db").unlink()
    command = [sys.executable, "-I", "-m", "strongroom.services.witness", "--config", str(running.service.config)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 1
    assert "what it cosigned is not" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/add-checkpoint", b"", 405),
        ("POST", "/add-checkpoint", b"", 400),
        ("POST", "/add-checkpoint", b"old 0\n\nx\n", 400),
        ("POST", "/add-checkpoint", b"x" * (65 << 10), 413),
        ("GET", f"/{'0' * 64}/checkpoint", b"", 404),
        ("GET", "/other", b"", 404),
        ("GET", "/healthz", b"", 200),
    ],
)
def test_answers_malformed_requests_with_a_status(
    running: RunningWitness, method: str, path: str, body: bytes, status: int
) -> None:
    reply = http(running).request(method, path, body=body or None)
    assert reply.status == status
    assert b"Traceback" not in reply.body


def test_the_latest_checkpoint_is_found_by_the_origins_digest(log: OtherLog, running: RunningWitness) -> None:
    running.client().add_checkpoint(log.request(2, old=0))
    reply = http(running).request("GET", f"/{hashlib.sha256(ORIGIN.encode()).hexdigest()}/checkpoint")
    assert reply.status == 200
    assert base64.b64encode(TREE.root(2)) in reply.body


@pytest.mark.parametrize(
    "changed", [{"logs": []}, {"logs": ["x"]}, {"name": "a b"}, {"name": "a+b"}, {"port": 0}, {"extra": 1}]
)
def test_refuses_a_configuration_that_says_too_little_or_too_much(
    log: OtherLog, tmp_path: Path, changed: dict[str, object]
) -> None:
    settings = {"name": "w", "url": "https://127.0.0.1:1", "host": "127.0.0.1", "port": 1, "logs": [log.line]}
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**settings, "state": str(tmp_path / "state"), **changed}))
    command = [sys.executable, "-I", "-m", "strongroom.services.witness", "--config", str(config)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 1
    assert ended.stderr.startswith("witness: ")
    assert "Traceback" not in ended.stderr
