"""Promise 7: a log that was forked, rewritten, shortened or rolled back is caught, and so are witnesses that lie.

Real services, with their database exchanged for an older copy while they are stopped: that is what an operator can do
who has every key of the service and restores what he likes.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.receipts import verify_by_both
from tests.support.service_processes import CLOCK, installation
from tests.support.tee import Runner
from tests.support.witnesses import FalseWitness, RunningWitness, false_witness, witness

from strongroom.agent.member import Membership
from strongroom.base.encoding import canonical_json
from strongroom.base.errors import (
    ConflictError,
    InconsistentLogError,
    RefusedError,
    StrongroomError,
    UnavailableError,
    VerificationError,
)
from strongroom.base.secret import SecretBytes
from strongroom.clients.pinned import PinnedHttp
from strongroom.clients.seen_log import SeenLog, log_key_of
from strongroom.clients.statements import ServiceStatements
from strongroom.crypto.jose import sign_jws, unverified_header, unverified_payload
from strongroom.crypto.keys import SigningKey
from strongroom.crypto.x509 import new_identity, to_pem
from strongroom.log.checkpoint import Checkpoint, parse_and_verify_checkpoint, parse_checkpoint_text, sign_checkpoint
from strongroom.log.cosignature import cosign
from strongroom.log.note import parse_note
from strongroom.log.rotation import sign_rotation
from strongroom.log.witness import AddCheckpoint, OtherSizeError, parse_add_checkpoint
from strongroom.services.identity import install_successor, open_identity, prepare_successor
from strongroom.submit.log_check import check_log
from strongroom.submit.rotations import follow_rotations
from strongroom.submit.seen_logs import fetch_checkpoint
from strongroom.submit.services import connect, trusted_service
from strongroom.wire.descriptor import Descriptor
from strongroom.wire.rotation import LoggedRotation, Rotations
from strongroom.wire.trust import Trust


class Owned:
    """One installation whose key service is stopped, exchanged and started again; and its runs."""

    def __init__(self, runner: Runner, folder: Path) -> None:
        self.runner, self.services, self.folder = runner, runner.services, folder
        self.copies = 0
        self.datasets = 0

    # --- the operator

    @property
    def state(self) -> Path:
        return self.folder / "keys"

    def copy(self) -> Path:
        """A copy of the state, as a backup or a snapshot of the disk makes it; the service goes on."""
        self.services.keys.stop()
        self.copies += 1
        kept = self.folder / f"copy-{self.copies}"
        shutil.copytree(self.state, kept)
        self.start()
        return kept

    def restore(self, kept: Path) -> None:
        self.services.keys.stop()
        shutil.rmtree(self.state)
        shutil.copytree(kept, self.state)
        self.start()

    def start(self) -> None:
        config = json.loads(self.services.keys.config.read_text())
        self.services.keys = self.services.start_keys(self.services.keys.config)
        assert config["url"] == self.services.keys.url
        self.runner.owner = self.services.owner_client()

    def configure(self, **changed: Any) -> None:
        """Start the key service with another configuration, on the same address."""
        self.services.keys.stop()
        path = self.services.keys.config
        path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
        self.start()

    def refused_start(self) -> str:
        """What the key service says that does not start."""
        self.services.keys.stop()
        command = [sys.executable, "-I", "-m", "strongroom.services.key_service"]
        command += ["--config", str(self.services.keys.config)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert ended.returncode == 1, ended.stderr
        assert "Traceback" not in ended.stderr
        return ended.stderr

    def grow(self, count: int = 3) -> None:
        """Append leaves."""
        for _ in range(count):
            self.datasets += 1
            self.runner.owner.create_dataset(f"further-{self.datasets}")

    # --- what others see

    @property
    def trust(self) -> Trust:
        return self.runner.trust()

    def see(self, file: Path) -> str:
        """Fetch the newest checkpoint, as a command of the command line does that remembers in `file`."""
        return fetch_checkpoint(trusted_service(self.trust, "key-service"), self.services.keys.http(), file=file)

    def leaves(self, note: str) -> list[str]:
        return list(self.runner.owner.log_leaves(0, size_of(note)))

    def driver(self, *, checkpoint: str | None = None) -> tuple[Membership, Descriptor]:
        checkpoints = {} if checkpoint is None else {self.services.keys.identity: checkpoint}
        descriptor = self.runner.descriptor(self.runner.ticket(checkpoints=checkpoints))
        return self.runner.join(descriptor), descriptor

    def pack(self) -> None:
        """Pack the application for the key service's present identity."""
        shutil.rmtree(self.folder / "package")
        self.runner.description = self.runner._pack()

    def approve_anew(self) -> None:
        self.pack()
        self.runner.approve_all()

    def run(self) -> bytes:
        """A whole run; its receipt."""
        driver, descriptor = self.driver()
        self.runner.write(driver)
        return (self.folder / "out" / self.runner.finish(driver, descriptor).receipt).read_bytes()

    def log_key(self) -> str:
        return str(self.services.keys.ready["log_key"])

    def with_witnesses(self, *keys: str, required: int = 0) -> Trust:
        """The trust file of somebody who knows these witnesses."""
        services = tuple(
            each.model_copy(update={"witnesses": keys, "witnesses_required": required}) if each.log_key else each
            for each in self.trust.services
        )
        return self.trust.model_copy(update={"services": services})


def size_of(note: str) -> int:
    return parse_checkpoint_text(parse_note(note).text).size


def checkpoint_of(receipt: bytes) -> str:
    """The checkpoint under which a run's leaves are proved."""
    (token,) = json.loads(receipt)["closings"].values()
    return str(json.loads(unverified_payload(token))["proof"]["checkpoint"])


@pytest.fixture(scope="module")
def owned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Owned]:
    folder = tmp_path_factory.mktemp("log")
    with installation(folder) as services:
        runner = Runner(services, folder)
        runner.approve_all()
        yield Owned(runner, folder)


@pytest.fixture
def plain(owned: Owned) -> Iterator[Owned]:
    """The installation; afterwards its newest state and its first configuration are there again."""
    config = owned.services.keys.config.read_text()
    kept = owned.copy()
    yield owned
    owned.services.keys.config.write_text(config)
    owned.restore(kept)
    owned.runner.predecessors = ()
    owned.pack()


@contextmanager
def witnessed(owned: Owned, folder: Path, *, required: int) -> Iterator[RunningWitness]:
    """The installation with one witness."""
    with witness(folder / "witness", owned.log_key()) as made:
        owned.configure(witnesses=[made.settings], witnesses_required=required, witness_patience_s=10)
        yield made


# --- rolled back, forked ----------------------------------------------------------------------------------------------


def test_a_rolled_back_database_is_caught_by_the_tickets_checkpoint(plain: Owned, tmp_path: Path) -> None:
    older = plain.copy()
    plain.grow()
    seen = plain.see(tmp_path / "seen.json")
    plain.driver(checkpoint=seen)
    plain.restore(older)
    with pytest.raises(RefusedError, match="older than one its clients have seen"):
        plain.driver(checkpoint=seen)


def test_a_tee_uses_no_key_of_a_log_that_does_not_extend_its_tickets_checkpoint(plain: Owned, tmp_path: Path) -> None:
    """The key service says yes, as a dishonest one would: the agent itself demands the proof."""
    older = plain.copy()
    plain.grow()
    seen = plain.see(tmp_path / "seen.json")
    plain.restore(older)
    driver, _ = plain.driver()  # a ticket that names no checkpoint: this service has not seen the newer log
    (client,) = driver.services.values()
    with pytest.raises(InconsistentLogError):
        client._log.observe(client._statements.checkpoint(seen))


def test_a_rolled_back_database_is_caught_by_what_a_client_kept(plain: Owned, tmp_path: Path) -> None:
    older = plain.copy()
    plain.grow()
    plain.see(tmp_path / "seen.json")
    plain.restore(older)
    with pytest.raises(InconsistentLogError, match="before"):
        plain.see(tmp_path / "seen.json")
    assert plain.see(tmp_path / "nobody-saw-anything.json")


def test_a_fork_is_caught_by_what_a_client_kept_even_if_it_is_longer(plain: Owned, tmp_path: Path) -> None:
    older = plain.copy()
    plain.grow(2)
    plain.see(tmp_path / "seen.json")
    plain.restore(older)
    plain.grow(5)
    with pytest.raises(InconsistentLogError, match="does not extend"):
        plain.see(tmp_path / "seen.json")


def test_a_log_that_shows_two_people_two_histories_is_caught_when_they_compare(plain: Owned, tmp_path: Path) -> None:
    older = plain.copy()
    plain.grow(2)
    first = plain.see(tmp_path / "one.json")
    plain.restore(older)
    plain.grow(4)
    second = plain.see(tmp_path / "two.json")
    service, leaves = trusted_service(plain.trust, "key-service"), plain.leaves(second)
    assert check_log(second, leaves, service=service, others=[], now=CLOCK.now()).report.findings == ()
    with pytest.raises(InconsistentLogError, match="of another person"):
        check_log(second, leaves, service=service, others=[(first, "of another person")], now=CLOCK.now())


def test_a_damaged_memory_of_a_client_is_not_taken_for_none(plain: Owned, tmp_path: Path) -> None:
    plain.see(tmp_path / "seen.json")
    for content in (b"", b"[]", b'{"%s":1}', (tmp_path / "seen.json").read_bytes()[:-9]):
        (tmp_path / "seen.json").write_bytes(content)
        with pytest.raises(StrongroomError, match="damaged"):
            plain.see(tmp_path / "seen.json")


def test_a_kept_checkpoint_of_another_key_is_not_believed(plain: Owned, tmp_path: Path) -> None:
    name = log_key_of(plain.log_key()).name
    forged = sign_checkpoint(Checkpoint(origin=name, size=1, root=bytes(32)), key=SigningKey.generate("Ed25519"))
    (tmp_path / "seen.json").write_bytes(canonical_json({name: forged}))
    with pytest.raises(StrongroomError, match="another log"):
        plain.see(tmp_path / "seen.json")


# --- dropped and rewritten leaves -------------------------------------------------------------------------------------


def _drop(leaves: list[str]) -> None:
    del leaves[len(leaves) // 2]


def _rewrite(leaves: list[str]) -> None:
    leaves[2] = leaves[2].replace('"version":1', '"version":1,"x":1', 1)


def _swap(leaves: list[str]) -> None:
    leaves[0], leaves[1] = leaves[1], leaves[0]


def _add(leaves: list[str]) -> None:
    leaves.append(leaves[-1])


@pytest.mark.parametrize("edit", [_drop, _rewrite, _swap, _add])
def test_leaves_that_are_not_those_of_the_checkpoint_are_caught(
    owned: Owned, tmp_path: Path, edit: Callable[[list[str]], None]
) -> None:
    note = owned.see(tmp_path / "seen.json")
    leaves = owned.leaves(note)
    service = trusted_service(owned.trust, "key-service")
    assert check_log(note, leaves, service=service, others=[], now=CLOCK.now())
    edit(leaves)
    with pytest.raises(InconsistentLogError):
        check_log(note, leaves, service=service, others=[], now=CLOCK.now())


def test_a_receipt_of_a_run_that_the_log_lost_is_caught(plain: Owned, tmp_path: Path) -> None:
    older = plain.copy()
    receipt = plain.run()
    plain.restore(older)
    plain.grow(20)
    note = plain.see(tmp_path / "seen.json")
    service = trusted_service(plain.trust, "key-service")
    with pytest.raises(InconsistentLogError, match="in a receipt"):
        check_log(
            note,
            plain.leaves(note),
            service=service,
            others=[(checkpoint_of(receipt), "in a receipt")],
            now=CLOCK.now(),
        )


def test_a_good_logs_audit_finds_nothing_and_counts(owned: Owned, tmp_path: Path) -> None:
    owned.run()
    note = owned.see(tmp_path / "seen.json")
    service = trusted_service(owned.trust, "key-service")
    report = check_log(note, owned.leaves(note), service=service, others=[], now=CLOCK.now()).report
    assert [finding for finding in report.findings if finding.grave] == []
    assert report.runs["succeeded"] >= 1
    assert sum(use.runs for use in report.approvals) == 2 * report.runs["opened"]


# --- keys of others ---------------------------------------------------------------------------------------------------


def test_a_checkpoint_that_another_services_key_signed_is_not_this_logs(owned: Owned) -> None:
    """The statement key of one service vouches for nothing of another, whatever name it writes."""
    key, other = log_key_of(owned.log_key()), SigningKey.generate("Ed25519")
    note = sign_checkpoint(Checkpoint(origin=key.name, size=1, root=bytes(32)), key=other)
    with pytest.raises(VerificationError):
        parse_and_verify_checkpoint(note, origin=key.name, key=key.key)
    elsewhere = sign_checkpoint(
        Checkpoint(origin=f"strongroom-key-service/{'0' * 64}", size=1, root=bytes(32)), key=other
    )
    with pytest.raises(VerificationError):
        parse_and_verify_checkpoint(elsewhere, origin=key.name, key=key.key)


def test_proofs_under_another_services_checkpoint_are_refused(owned: Owned) -> None:
    """With the very leaf and path, and a checkpoint of the right name and tree: only the key is another's."""
    receipt = json.loads(owned.run())
    ((identity, token),) = receipt["closings"].items()
    statements = ServiceStatements(identity=identity, now=CLOCK.now)
    closing = statements.closing(token)
    text = parse_note(closing.proof.checkpoint).text
    forged = sign_checkpoint(parse_checkpoint_text(text), key=SigningKey.generate("Ed25519"))
    with pytest.raises(VerificationError):
        statements.check_proof(closing.proof.model_copy(update={"checkpoint": forged}))


# --- witnesses --------------------------------------------------------------------------------------------------------


def test_a_service_that_was_rolled_back_does_not_start_behind_its_witness(plain: Owned, tmp_path: Path) -> None:
    with witnessed(plain, tmp_path, required=1) as one:
        older = plain.copy()
        plain.run()
        plain.services.keys.stop()
        shutil.rmtree(plain.state)
        shutil.copytree(older, plain.state)
        said = plain.refused_start()
        assert "rolled back or rewritten" in said
        assert one.name in said
        assert "Restore the newest copy" in said


def test_a_service_that_forked_does_not_start_beside_its_witness(plain: Owned, tmp_path: Path) -> None:
    with witnessed(plain, tmp_path, required=1) as one:
        older = plain.copy()
        plain.run()
        settings = json.loads(plain.services.keys.config.read_text())
        plain.services.keys.config.write_text(json.dumps({**settings, "witnesses": [], "witnesses_required": 0}))
        plain.restore(older)  # without witnesses, so that the fork can grow
        plain.grow(20)
        plain.services.keys.config.write_text(json.dumps(settings))
        assert "rolled back or rewritten" in plain.refused_start()
        client, origin = one.client(), log_key_of(plain.log_key()).name
        assert client.latest(origin)  # the proof against the operator stays with the witness


def test_a_receipt_names_the_witnesses_that_cosigned_and_can_demand_them(plain: Owned, tmp_path: Path) -> None:
    with witnessed(plain, tmp_path, required=1) as one:
        receipt = plain.run()
        verified = verify_by_both(receipt, trust=plain.with_witnesses(one.key, required=1))
        ((cosignature,),) = verified.witnesses.values()
        assert cosignature.witness == one.name
        assert verify_by_both(receipt, trust=plain.with_witnesses(one.key), min_witnesses=1)
        with pytest.raises(RefusedError, match="too few witnesses"):
            verify_by_both(receipt, trust=plain.with_witnesses(one.key), min_witnesses=2)
        with pytest.raises(RefusedError, match="too few witnesses"):
            verify_by_both(receipt, trust=plain.trust, min_witnesses=1)
        assert verify_by_both(receipt, trust=plain.trust).witnesses[plain.services.keys.identity] == ()


def test_with_a_required_witness_down_nothing_opens_and_says_what_to_do(plain: Owned, tmp_path: Path) -> None:
    with witnessed(plain, tmp_path, required=1) as one:
        one.kill()
        plain.configure(witness_patience_s=2)
        with pytest.raises(UnavailableError, match="witnesses") as refused:
            plain.driver()
        assert one.name in refused.value.message
        assert "ask the data owner" in refused.value.action
        one.start()
        assert verify_by_both(_patiently(plain.run), trust=plain.with_witnesses(one.key, required=1))


def _patiently(run: Callable[[], bytes]) -> bytes:
    """Do a run as soon as the key service has found its witness again."""
    for _ in range(100):
        try:
            return run()
        except UnavailableError:
            time.sleep(0.3)
    return run()


def test_without_required_witnesses_a_receipt_says_that_none_signed(plain: Owned, tmp_path: Path) -> None:
    with witnessed(plain, tmp_path, required=0) as one:
        one.kill()
        plain.configure(witness_patience_s=1)
        receipt = plain.run()
        verified = verify_by_both(receipt, trust=plain.with_witnesses(one.key))
        assert verified.witnesses == {plain.services.keys.identity: ()}
        assert verified.known_witnesses == {plain.services.keys.identity: 1}
        one.start()


def signed_line(liar: FalseWitness, text: str, *, key: SigningKey | None = None) -> bytes:
    return cosign(text, name=liar.name, key=key or liar.signing, now=CLOCK.now()).encode()


def _another_text(liar: FalseWitness, request: AddCheckpoint) -> bytes:
    asked = parse_checkpoint_text(parse_note(request.note).text)
    return signed_line(liar, Checkpoint(origin=asked.origin, size=asked.size + 1, root=asked.root).text)


def _another_log(liar: FalseWitness, request: AddCheckpoint) -> bytes:
    asked = parse_checkpoint_text(parse_note(request.note).text)
    return signed_line(liar, Checkpoint(origin="other.example", size=asked.size, root=asked.root).text)


def _another_key(liar: FalseWitness, request: AddCheckpoint) -> bytes:
    return signed_line(liar, parse_note(request.note).text, key=SigningKey.generate("Ed25519"))


def _nothing(_liar: FalseWitness, _request: AddCheckpoint) -> bytes:
    return b""


def _garbage(_liar: FalseWitness, _request: AddCheckpoint) -> bytes:
    return b"\xff" * 100


@pytest.mark.parametrize("lie", [_another_text, _another_log, _another_key, _nothing, _garbage])
def test_a_witness_that_signs_something_else_does_not_count(
    plain: Owned, tmp_path: Path, lie: Callable[[FalseWitness, AddCheckpoint], bytes]
) -> None:
    with false_witness(tmp_path / "liar") as liar:
        liar.answer = lambda method, _path, body: (
            (200, lie(liar, parse_add_checkpoint(body))) if method == "POST" else (404, b"")
        )
        plain.configure(witnesses=[liar.settings], witnesses_required=1, witness_patience_s=2)
        with pytest.raises(UnavailableError, match="witnesses"):
            plain.driver()
        plain.configure(witnesses_required=0)
        verified = verify_by_both(plain.run(), trust=plain.with_witnesses(liar.key))
        assert verified.witnesses == {plain.services.keys.identity: ()}
        assert liar.asked > 1


@pytest.mark.parametrize("status", [204, 301, 403, 404, 500])
def test_a_witness_that_signs_nothing_does_not_count(plain: Owned, tmp_path: Path, status: int) -> None:
    with false_witness(tmp_path / "silent", lambda _method, _path, _body: (status, b"")) as silent:
        plain.configure(witnesses=[silent.settings], witnesses_required=1, witness_patience_s=2)
        with pytest.raises(UnavailableError, match="witnesses"):
            plain.driver()


def test_a_witness_that_names_another_size_each_time_does_not_count(plain: Owned, tmp_path: Path) -> None:
    sizes = iter(range(1, 10_000))
    with false_witness(tmp_path / "liar", lambda *_: (409, f"{next(sizes) % 3}\n".encode())) as liar:
        plain.configure(witnesses=[liar.settings], witnesses_required=1, witness_patience_s=2)
        with pytest.raises(UnavailableError, match="witnesses"):
            plain.driver()


def test_a_cosignature_of_another_log_is_refused_in_a_receipt(plain: Owned, tmp_path: Path) -> None:
    """Signed again by the key service itself, with the line that a witness gave to another log's checkpoint."""
    with witnessed(plain, tmp_path, required=1) as one:
        receipt = plain.run()
        trust = plain.with_witnesses(one.key, required=1)
        statement_key = SigningKey.from_pem(SecretBytes((plain.state / "statement.key").read_bytes()))
        witness_signing = SigningKey.from_pem(SecretBytes((one.folder / "state" / "witness.key").read_bytes()))
        text = Checkpoint(origin="other.example", size=1, root=bytes(32)).text
        line = cosign(text, name=one.name, key=witness_signing, now=CLOCK.now())

        def with_line(make: Callable[[str], str]) -> bytes:
            copy = json.loads(receipt)
            ((identity, token),) = copy["closings"].items()
            closing = json.loads(unverified_payload(token))
            for proof in [closing["proof"], *closing["member_proofs"]]:
                proof["checkpoint"] = make(proof["checkpoint"])
            header = {name: value for name, value in unverified_header(token).items() if name != "alg"}
            copy["closings"][identity] = sign_jws(canonical_json(closing), key=statement_key, header=header)
            return canonical_json(copy)

        assert verify_by_both(with_line(lambda note: note), trust=trust)
        with pytest.raises(VerificationError, match="signature"):
            verify_by_both(with_line(lambda note: _own_lines(note) + line), trust=trust)
        with pytest.raises(RefusedError, match="too few witnesses"):
            verify_by_both(with_line(_own_lines), trust=trust)


def _own_lines(note: str) -> str:
    """A checkpoint with the log's own signature alone."""
    return "\n".join(note.split("\n")[:5]) + "\n"


def test_a_witness_cosigns_no_fork_of_a_real_log(plain: Owned, tmp_path: Path) -> None:
    with witness(tmp_path / "witness", plain.log_key()) as one:
        client, key = one.client(), log_key_of(plain.log_key())
        older = plain.copy()
        plain.grow(2)
        note = plain.see(tmp_path / "one.json")
        client.add_checkpoint(AddCheckpoint(old_size=0, proof=(), note=note))
        plain.restore(older)
        plain.grow(4)
        fork = plain.see(tmp_path / "two.json")
        http, known = plain.services.keys.http(), size_of(note)
        answer = http.request("GET", f"/strongroom/v1/log/consistency?first={known}&second={size_of(fork)}")
        proof = tuple(bytes.fromhex(each) for each in json.loads(answer.require_success())["path"])
        with pytest.raises(InconsistentLogError):
            client.add_checkpoint(AddCheckpoint(old_size=known, proof=proof, note=fork))
        with pytest.raises(OtherSizeError):
            client.add_checkpoint(AddCheckpoint(old_size=0, proof=(), note=fork))
        assert parse_checkpoint_text(parse_note(client.latest(key.name) or "").text).size == known


def test_the_witnesses_are_pinned_with_the_services_configuration(plain: Owned, tmp_path: Path) -> None:
    before = plain.services.keys.ready["configuration"]
    with witnessed(plain, tmp_path, required=0):
        assert plain.services.keys.ready["configuration"] != before


@pytest.mark.parametrize(
    "changed",
    [
        {"witnesses": [], "witnesses_required": 1},
        {"witnesses": [{"key": "x", "url": "https://w.example"}]},
        {"witnesses": "twice"},
        {"witnesses": "a log's key"},
    ],
)
def test_a_configuration_that_could_never_be_met_is_refused(
    plain: Owned, tmp_path: Path, changed: Mapping[str, Any]
) -> None:
    with false_witness(tmp_path / "liar") as liar:
        settings = dict(changed)
        if settings["witnesses"] == "twice":
            settings["witnesses"] = [liar.settings, liar.settings]
        if settings["witnesses"] == "a log's key":
            settings["witnesses"] = [{**liar.settings, "key": plain.log_key()}]
        path = plain.services.keys.config
        path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
        assert "witness" in plain.refused_start()


def test_a_kept_log_is_compared_with_every_checkpoint_of_a_conversation(owned: Owned) -> None:
    """A service that answers one connection from two histories: the second answer is refused."""
    http, key = owned.services.keys.http(), log_key_of(owned.log_key())
    log = SeenLog(http)
    log.fetch(key)
    statement_key = SigningKey.from_pem(SecretBytes((owned.state / "statement.key").read_bytes()))
    fork = Checkpoint(origin=key.name, size=2, root=bytes(32))
    note = sign_checkpoint(fork, key=statement_key)
    with pytest.raises(InconsistentLogError):
        log.observe(parse_and_verify_checkpoint(note, origin=key.name, key=key.key))


# --- identities that were replaced ------------------------------------------------------------------------------------


def rotated(owned: Owned) -> Rotations:
    """Replace the key service's identity, as its owner does: the old key signs, it is logged, the service restarts."""
    now = CLOCK.now()
    identity = open_identity(owned.state, common_name="x", sans=["127.0.0.1"], now=now)
    new, pem = prepare_successor(owned.state, common_name="x", now=now)
    token = sign_rotation("key-service", old=identity.key, new=new, certificate_pem=pem, now=now)
    logged = owned.runner.owner.rotate(token)
    with pytest.raises(ConflictError, match="replaced before"):  # a second successor
        owned.runner.owner.rotate(token)
    owned.services.keys.stop()
    install_successor(owned.state, old=identity.identity)
    install_successor(owned.state, old=identity.identity)  # as after a crash
    owned.start()
    owned.runner.predecessors = (identity.identity,)
    return Rotations(rotations=(logged,))


def test_a_rotated_identity_is_followed_and_old_runs_and_data_stay_what_they_are(plain: Owned) -> None:
    receipt, before = plain.run(), plain.trust
    old, log_key = plain.services.keys.identity, plain.log_key()
    rotations = rotated(plain)
    new = plain.services.keys.identity
    assert new != old
    assert plain.log_key() == log_key
    followed, steps = follow_rotations(before, rotations)
    assert [(step.old, step.new) for step in steps] == [(old, new)]
    service = trusted_service(followed, "key-service")
    assert (service.identity, service.predecessors) == (new, (old,))
    assert service.certificate_pem == plain.services.keys.certificate_pem
    assert verify_by_both(receipt, trust=followed).modes == {old: "owner-operated"}
    with pytest.raises(StrongroomError):  # who did not follow knows the old identity alone
        trusted_connection(before).request("GET", "/healthz")
    assert trusted_connection(followed).request("GET", "/healthz").status == 200

    with pytest.raises(StrongroomError):  # approvals and descriptions name the old identity
        plain.driver()
    plain.approve_anew()
    again = verify_by_both(plain.run(), trust=followed)  # reads a version that the old identity countersigned
    assert again.modes == {new: "owner-operated"}
    assert again.inputs["trips"].key_service == old
    assert again.outputs["report"].key_service == new


def trusted_connection(trust: Trust) -> PinnedHttp:
    return connect(trusted_service(trust, "key-service"))


@pytest.fixture
def apart(tmp_path: Path) -> Iterator[Owned]:
    """An installation of one test's own."""
    with installation(tmp_path) as services:
        runner = Runner(services, tmp_path)
        runner.approve_all()
        yield Owned(runner, tmp_path)


def test_a_rotated_attestation_service_is_followed_and_approvals_hold(apart: Owned) -> None:
    receipt, before, services = apart.run(), apart.trust, apart.services
    old, state, now = services.attestation.identity, apart.folder / "attestation", CLOCK.now()
    services.rotate_signing_key()  # the key before is still published, certified by the old identity alone
    identity = open_identity(state, common_name="x", sans=["127.0.0.1"], now=now)
    new, pem = prepare_successor(state, common_name="x", now=now)
    token = sign_rotation("attestation-service", old=identity.key, new=new, certificate_pem=pem, now=now)
    logged = apart.runner.owner.rotate(token)
    with pytest.raises(ConflictError, match="replaced before"):  # a second successor
        apart.runner.owner.rotate(token)
    assert apart.runner.owner.rotations().rotations[-1].statement == token
    install_successor(state, old=old)
    services.restart_attestation()
    assert services.attestation.identity == new.verifying_key.thumbprint
    with pytest.raises(StrongroomError):  # the key service knows the old identity alone
        apart.driver()
    service = services.attestation
    believed = {"url": service.url, "identity": service.identity, "certificate_pem": service.certificate_pem}
    apart.configure(attestation_services=[believed])

    followed, steps = follow_rotations(before, Rotations(rotations=(logged,)))
    assert [(step.kind, step.old, step.new) for step in steps] == [("attestation-service", old, service.identity)]
    pinned = trusted_service(followed, "attestation-service")
    assert (pinned.identity, pinned.predecessors) == (service.identity, (old,))
    assert pinned.certificate_pem == service.certificate_pem
    assert trusted_service(followed, "key-service") == trusted_service(before, "key-service")
    assert verify_by_both(receipt, trust=followed)
    again = apart.run()  # under the approvals of before
    assert verify_by_both(again, trust=followed)
    with pytest.raises(StrongroomError):  # who did not follow knows the old identity alone
        verify_by_both(again, trust=before)


def test_an_identity_is_followed_only_with_proof(plain: Owned) -> None:
    before = plain.trust
    (logged,) = rotated(plain).rotations
    receipt_proof = json.loads(unverified_payload(next(iter(json.loads(plain_receipt(plain)).values()))))["proof"]
    stranger, successor = SigningKey.generate("ES256"), SigningKey.generate("ES256")
    der = new_identity(
        common_name="x", key=successor, not_before=CLOCK.now() - timedelta(1), not_after=CLOCK.now() + timedelta(1)
    )
    forged = sign_rotation("key-service", old=stranger, new=successor, certificate_pem=to_pem(der), now=CLOCK.now())
    other_proof = logged.proof.model_copy(update=receipt_proof)
    for statement, proof in ((forged, logged.proof), (logged.statement, other_proof)):
        changed = Rotations(rotations=(LoggedRotation(statement=statement, proof=proof),))
        try:
            followed, steps = follow_rotations(before, changed)
        except VerificationError:
            continue
        assert (followed, steps) == (before, ())


def plain_receipt(owned: Owned) -> bytes:
    """The closings of a run under the present identity."""
    owned.approve_anew()
    return canonical_json(json.loads(owned.run())["closings"])


def test_nobody_rotates_what_is_not_theirs(owned: Owned) -> None:
    stranger, new = SigningKey.generate("ES256"), SigningKey.generate("ES256")
    with pytest.raises(RefusedError, match="not of this key service's identity"):
        owned.runner.owner.rotate(sign_rotation("owner", old=stranger, new=new, now=CLOCK.now()))
    der = new_identity(
        common_name="x", key=new, not_before=CLOCK.now() - timedelta(1), not_after=CLOCK.now() + timedelta(1)
    )
    for kind in ("key-service", "attestation-service"):
        token = sign_rotation(kind, old=stranger, new=new, certificate_pem=to_pem(der), now=CLOCK.now())
        with pytest.raises(RefusedError, match="not of an attestation service that it believes"):
            owned.runner.owner.rotate(token)
    with pytest.raises(ConflictError, match="run by its owner"):  # whose key it has itself
        owned.runner.owner.rotate_service()


def test_the_key_services_key_replaces_no_attestation_service(owned: Owned) -> None:
    """Each identity speaks for itself alone: a key service that was broken into names no attestation service."""
    own = open_identity(owned.state, common_name="x", sans=["127.0.0.1"], now=CLOCK.now())
    new = SigningKey.generate("ES256")
    der = new_identity(
        common_name="x", key=new, not_before=CLOCK.now() - timedelta(1), not_after=CLOCK.now() + timedelta(1)
    )
    token = sign_rotation("attestation-service", old=own.key, new=new, certificate_pem=to_pem(der), now=CLOCK.now())
    with pytest.raises(RefusedError, match="not of an attestation service that it believes"):
        owned.runner.owner.rotate(token)


def test_an_owners_key_is_followed_and_what_it_signed_before_holds(plain: Owned) -> None:
    receipt, before = plain.run(), plain.trust
    old, new = plain.services.owner, SigningKey.generate("ES256")
    logged = plain.runner.owner.rotate(sign_rotation("owner", old=old, new=new, now=CLOCK.now()))
    followed, _ = follow_rotations(before, Rotations(rotations=(logged,)))
    assert followed.owners == (old.verifying_key.thumbprint, new.verifying_key.thumbprint)
    assert verify_by_both(receipt, trust=followed)
