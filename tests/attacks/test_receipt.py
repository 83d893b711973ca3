"""Promise 7: every run leaves a trace that is checked offline, and every edit of it shows.

To the product's verifier and to the auditor's single file alike: both are asked each time.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.platform import Bench
from tests.support.receipts import verify_by_both
from tests.support.service_processes import CLOCK, installation
from tests.support.tee import Runner

from strongroom.base.clock import to_rfc3339
from strongroom.base.encoding import canonical_json
from strongroom.base.errors import (
    ConfigurationError,
    ConflictError,
    FormatError,
    RefusedError,
    StrongroomError,
    VerificationError,
)
from strongroom.base.secret import SecretBytes
from strongroom.clients.owner import OwnerClient
from strongroom.crypto.jose import open_as_recipient, sign_jws, unverified_header, unverified_payload
from strongroom.crypto.keys import SigningKey
from strongroom.crypto.x509 import to_pem
from strongroom.policy.roster import Roster
from strongroom.policy.signatures import attach, detach
from strongroom.receipts.build import receipt_digest, sign_receipt
from strongroom.wire.approvals import ApprovalProof
from strongroom.wire.key_service import APPROVAL_TYP, RunRecord
from strongroom.wire.receipt import ReceiptBody
from strongroom.wire.trust import Trust, TrustedRootEntry

EDITS = 400


class Finished:
    """A run with one executor, its receipt, and the auditor's trust file; the services are stopped.

    Attributes:
        driver: The key with which the driver's TEE signed.
        service: The key with which the key service signs its statements.
    """

    def __init__(self, runner: Runner, receipts: list[bytes], driver: SigningKey) -> None:
        self.trust = runner.trust()
        self.receipt, self.other = receipts
        self.parsed: dict[str, Any] = json.loads(self.receipt)
        self.driver = driver
        statement_key = runner.services.folder / "keys" / "statement.key"
        self.service = SigningKey.from_pem(SecretBytes(statement_key.read_bytes()))

    def edited(self, edit: Callable[[dict[str, Any]], None]) -> bytes:
        copy = json.loads(self.receipt)
        edit(copy)
        return canonical_json(copy)

    def signed_again(self, edit: Callable[[dict[str, Any]], None]) -> bytes:
        """The receipt with another body, signed by the driver's own TEE."""
        copy = json.loads(self.receipt)
        edit(copy)
        body = ReceiptBody.from_object(copy["body"])
        return sign_receipt(body, key=self.driver, closings=copy["closings"])

    def closed_again(self, edit: Callable[[dict[str, Any]], None]) -> bytes:
        """The receipt with another closing statement, signed by the key service itself."""

        def close(receipt: dict[str, Any]) -> None:
            ((identity, token),) = receipt["closings"].items()
            statement = json.loads(unverified_payload(token))
            edit(statement)
            header = {name: value for name, value in unverified_header(token).items() if name != "alg"}
            receipt["closings"][identity] = sign_jws(canonical_json(statement), key=self.service, header=header)

        return self.edited(close)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("receipt")
    with installation(folder) as services:
        runner = Runner(services, folder)
        runner.approve_all()
        receipts: list[bytes] = []
        keys: list[SigningKey] = []
        for _ in range(2):
            descriptor = runner.descriptor(runner.ticket())
            driver = runner.join(descriptor)
            runner.join(runner.descriptor(descriptor.ticket, driver=driver))
            runner.write(driver)
            kept = runner.finish(driver, descriptor)
            receipts.append((folder / "out" / kept.receipt).read_bytes())
            keys.append(driver.signing_key)
            assert kept.output is not None
            sealed = (folder / "out" / kept.output).read_bytes()
            assert open_as_recipient(sealed, key=runner.recipient) == b"hello\nauditor\n"
            assert b"auditor" not in sealed
        return Finished(runner, receipts, keys[0])


def test_holds_with_everything_stopped_and_names_what_ran(finished: Finished) -> None:
    verified = verify_by_both(finished.receipt, trust=finished.trust)
    assert [member["role"] for member in verified.members] == ["driver", "executor"]
    assert verified.body.outcome == "succeeded"
    assert verified.body.hardware == "simulated"
    assert set(verified.outputs) == {"report"}
    assert verified.inputs["trips"].number == 1
    assert set(verified.approvals) == {"trips", "report"}
    assert set(verified.modes.values()) == {"owner-operated"}


def reached_at(trust: Trust, url: str, *, cluster_url: str | None) -> Trust:
    """A trust file whose attestation service is reached elsewhere than pods reach it."""
    services = [{**each.model_dump(mode="json")} for each in trust.services]
    services[0] |= {"url": url, "cluster_url": cluster_url}
    return Trust.from_object({**trust.model_dump(mode="json"), "services": services})


def test_the_issuer_of_results_is_the_services_own_address_and_not_the_auditors(finished: Finished) -> None:
    own = finished.trust.services[0].url
    elsewhere = "https://attestation.example"
    assert verify_by_both(finished.receipt, trust=reached_at(finished.trust, elsewhere, cluster_url=own))
    with pytest.raises(RefusedError, match="not in the trust file"):
        verify_by_both(finished.receipt, trust=reached_at(finished.trust, elsewhere, cluster_url=None))
    with pytest.raises(VerificationError):
        verify_by_both(finished.receipt, trust=reached_at(finished.trust, own, cluster_url=elsewhere))


def test_any_one_byte_edit_shows(finished: Finished) -> None:
    step = max(1, len(finished.receipt) // EDITS)
    for position in range(0, len(finished.receipt), step):
        for flip in (0x01, 0x20):
            changed = bytearray(finished.receipt)
            changed[position] ^= flip
            with pytest.raises(StrongroomError):
                verify_by_both(bytes(changed), trust=finished.trust)


@pytest.mark.parametrize("add", [b"\n", b" ", b"{}"])
def test_bytes_around_it_show(finished: Finished, add: bytes) -> None:
    for changed in (finished.receipt + add, add + finished.receipt):
        with pytest.raises(FormatError):
            verify_by_both(changed, trust=finished.trust)


def _drop_executor(receipt: dict[str, Any]) -> None:
    for record in receipt["body"]["records"].values():
        record["members"].pop()


def _drop_leaf(receipt: dict[str, Any]) -> None:
    for record in receipt["body"]["records"].values():
        record["leaves"].pop()


def _fail(receipt: dict[str, Any]) -> None:
    receipt["body"]["outcome"] = "failed"


def _drop_closing(receipt: dict[str, Any]) -> None:
    receipt["closings"] = {}


@pytest.mark.parametrize("edit", [_drop_executor, _drop_leaf, _fail, _drop_closing])
def test_nothing_can_be_left_out(finished: Finished, edit: Callable[[dict[str, Any]], None]) -> None:
    with pytest.raises(StrongroomError):
        verify_by_both(finished.edited(edit), trust=finished.trust)


def test_parts_of_two_runs_do_not_mix(finished: Finished) -> None:
    other = json.loads(finished.other)

    def swap_closing(receipt: dict[str, Any]) -> None:
        receipt["closings"] = other["closings"]

    def swap_members(receipt: dict[str, Any]) -> None:
        for identity, record in receipt["body"]["records"].items():
            record["members"] = other["body"]["records"][identity]["members"]

    def swap_signature(receipt: dict[str, Any]) -> None:
        receipt["signature"] = other["signature"]

    for edit in (swap_closing, swap_members, swap_signature):
        with pytest.raises(VerificationError):
            verify_by_both(finished.edited(edit), trust=finished.trust)


def _tell_another_status(receipt: dict[str, Any]) -> None:
    receipt["body"]["exit_status"] = 1


def _tell_another_time(receipt: dict[str, Any]) -> None:
    receipt["body"]["started_at"] = "2020-01-01T00:00:00Z"


def _tell_of_other_output(receipt: dict[str, Any]) -> None:
    receipt["body"]["log_digest"] = "0" * 64


@pytest.mark.parametrize("tell", [_tell_another_status, _tell_another_time, _tell_of_other_output, _drop_executor])
def test_a_driver_that_signs_another_story_later_is_caught_by_the_log(
    finished: Finished, tell: Callable[[dict[str, Any]], None]
) -> None:
    """With a body that the driver's own signature covers: the key service logged the digest of another one."""
    assert verify_by_both(finished.signed_again(lambda _: None), trust=finished.trust)
    with pytest.raises(VerificationError, match="receipt digest"):
        verify_by_both(finished.signed_again(tell), trust=finished.trust)


def test_driver_and_key_service_that_tell_another_story_together_are_caught_by_the_log(finished: Finished) -> None:
    """Both sign again, body and closing agree: the digest in the log's leaf, under its checkpoint, is another one."""

    def again(receipt: dict[str, Any]) -> None:
        body = ReceiptBody.from_object(receipt["body"])
        ((identity, token),) = receipt["closings"].items()
        statement = {**json.loads(unverified_payload(token)), "receipt": receipt_digest(body)}
        header = {name: value for name, value in unverified_header(token).items() if name != "alg"}
        receipt["closings"][identity] = sign_jws(canonical_json(statement), key=finished.service, header=header)

    def lie(receipt: dict[str, Any]) -> None:
        _tell_another_status(receipt)
        again(receipt)

    assert verify_by_both(finished.signed_again(again), trust=finished.trust)
    with pytest.raises(VerificationError, match="receipt in the log"):
        verify_by_both(finished.signed_again(lie), trust=finished.trust)


def _forge_proof(closing: dict[str, Any]) -> None:
    closing["member_proofs"][0]["path"] = ["0" * 64, *closing["member_proofs"][0]["path"][1:]]


def _forge_leaf(closing: dict[str, Any]) -> None:
    closing["proof"]["leaf"] = closing["proof"]["leaf"].replace("run-closed", "run-closes")


def _leave_a_proof_out(closing: dict[str, Any]) -> None:
    closing["member_proofs"].pop()


def _count_one_leaf_more(closing: dict[str, Any]) -> None:
    closing["leaves"] += 1


@pytest.mark.parametrize("edit", [_forge_proof, _forge_leaf, _leave_a_proof_out, _count_one_leaf_more])
def test_a_key_service_that_signs_what_its_log_does_not_hold_is_caught(
    finished: Finished, edit: Callable[[dict[str, Any]], None]
) -> None:
    assert verify_by_both(finished.closed_again(lambda _: None), trust=finished.trust)
    with pytest.raises(VerificationError):
        verify_by_both(finished.closed_again(edit), trust=finished.trust)


def _other_root(trust: Trust) -> Trust:
    root = TrustedRootEntry(certificate_pem=to_pem(Bench.new().platform.root_der), simulated=True)
    return trust.model_copy(update={"roots": (root,)})


def _other_owner(trust: Trust) -> Trust:
    return trust.model_copy(update={"owners": ("0" * 64,)})


def _other_agent(trust: Trust) -> Trust:
    return trust.model_copy(update={"agent_measurements": ("0" * 64,)})


def _real_hardware(trust: Trust) -> Trust:
    return trust.model_copy(update={"hardware": "real"})


def _no_services(trust: Trust) -> Trust:
    return trust.model_copy(update={"services": ()})


def _other_identities(trust: Trust) -> Trust:
    return trust.model_copy(
        update={"services": tuple(each.model_copy(update={"identity": "0" * 64}) for each in trust.services)}
    )


@pytest.mark.parametrize(
    "change", [_other_root, _other_owner, _other_agent, _real_hardware, _no_services, _other_identities]
)
def test_anchors_come_from_the_auditor_never_from_the_receipt(
    finished: Finished, change: Callable[[Trust], Trust]
) -> None:
    with pytest.raises(StrongroomError) as refused:
        verify_by_both(finished.receipt, trust=change(finished.trust))
    assert isinstance(refused.value, VerificationError | RefusedError | ConfigurationError)


def _without_member(record: RunRecord) -> RunRecord:
    return record.model_copy(update={"members": record.members[:-1]})


def _without_member_and_leaf(record: RunRecord) -> RunRecord:
    leaves = tuple(proof for proof in record.leaves if json.loads(proof.leaf)["event"] != "member-joined")
    return record.model_copy(update={"members": record.members[:-1], "leaves": leaves})


@pytest.mark.parametrize(
    ("hide", "outcome", "says"),
    [
        (_without_member, "succeeded", "members in the log"),
        (_without_member_and_leaf, "succeeded", "leaves"),
        (lambda record: record, "failed", "outcome"),
    ],
    ids=["an executor", "an executor and its leaf", "a failure"],
)
def test_a_driver_that_lies_before_it_closes_is_caught_by_the_log(
    tmp_path: Path, hide: Callable[[RunRecord], RunRecord], outcome: str, says: str
) -> None:
    """The driver's agent itself builds and closes a false receipt: its digest is the logged one, its story is not."""
    with installation(tmp_path) as services:
        runner = Runner(services, tmp_path)
        runner.approve_all()
        descriptor = runner.descriptor(runner.ticket())
        driver = runner.join(descriptor)
        runner.join(runner.descriptor(descriptor.ticket, driver=driver))
        service = next(iter(driver.services.values()))
        record, close = service.record, service.close
        true_count = len(record(now=CLOCK.now()).leaves)
        service.record = lambda **at: hide(record(**at))  # type: ignore[method-assign]
        service.close = lambda asked: close(  # type: ignore[method-assign]
            asked.model_copy(update={"leaves": true_count, "outcome": outcome})
        )
        kept = runner.finish(driver, descriptor)
        receipt = (tmp_path / "out" / kept.receipt).read_bytes()
        with pytest.raises(VerificationError, match=says):
            verify_by_both(receipt, trust=runner.trust())


def test_a_late_executor_cannot_hide_from_the_receipt(tmp_path: Path) -> None:
    """A member that joins while the driver closes is counted: the closing waits for it, and the receipt names it."""
    with installation(tmp_path) as services:
        runner = Runner(services, tmp_path)
        runner.approve_all()
        descriptor = runner.descriptor(runner.ticket())
        driver = runner.join(descriptor)
        service = next(iter(driver.services.values()))
        original, late = service.close, []

        def close_late(request: Any) -> Any:
            if not late:
                late.append(runner.join(runner.descriptor(descriptor.ticket, driver=driver)))
            return original(request)

        service.close = close_late  # type: ignore[method-assign]
        kept = runner.finish(driver, descriptor)
        receipt = (tmp_path / "out" / kept.receipt).read_bytes()
        assert len(verify_by_both(receipt, trust=runner.trust()).members) == 2
        with pytest.raises((RefusedError, ConflictError)):
            runner.join(runner.descriptor(descriptor.ticket, driver=driver))


class Rostered:
    """Runs that two of three people approved, as a roster of the dataset `trips` demands."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.alice, self.bob, carol = (SigningKey.generate("ES256") for _ in range(3))
        roster = Roster(
            key_service=runner.services.keys.identity,
            dataset="trips",
            number=1,
            previous=None,
            members=tuple(key.verifying_key.to_jwk() for key in (self.alice, self.bob, carol)),
            threshold=2,
            issued_at=to_rfc3339(CLOCK.now()),
        )
        runner.owner.propose_roster(roster)
        runner.approve("report", "write")
        owner, runner.owner = runner.owner, self.client(self.alice)
        approval = runner.approve("trips", "read", roster=roster.digest)
        runner.owner = owner
        self.client(self.bob).sign_approval(approval, unverified_payload(owner.approval(approval)["statement"]))

    def client(self, key: SigningKey) -> OwnerClient:
        keys = self.runner.services.keys
        return OwnerClient(keys.http(), identity=keys.identity, key=key, clock=CLOCK)

    def receipt(self, edit: Callable[[RunRecord], RunRecord] = lambda record: record) -> bytes:
        """A run's receipt; the driver's agent edits what the key service told it before it builds and closes."""
        descriptor = self.runner.descriptor(self.runner.ticket())
        driver = self.runner.join(descriptor)
        (service,) = driver.services.values()
        record = service.record
        service.record = lambda **at: edit(record(**at))  # type: ignore[method-assign]
        kept = self.runner.finish(driver, descriptor)
        return (self.runner.folder / "out" / kept.receipt).read_bytes()


@pytest.fixture(scope="module")
def rostered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rostered]:
    folder = tmp_path_factory.mktemp("rostered")
    with installation(folder) as services:
        yield Rostered(Runner(services, folder))


def test_it_proves_who_signed_the_approval_back_to_a_trusted_owner(rostered: Rostered) -> None:
    verified = verify_by_both(rostered.receipt(), trust=rostered.runner.trust())
    people = sorted(key.verifying_key.thumbprint for key in (rostered.alice, rostered.bob))
    assert list(verified.consents["trips"].signers) == people
    assert (verified.consents["trips"].needed, verified.consents["report"].needed) == (2, 1)
    with pytest.raises(RefusedError, match="nobody this trust file knows"):
        verify_by_both(rostered.receipt(), trust=_other_owner(rostered.runner.trust()))


def _proof(record: RunRecord, **changed: Any) -> RunRecord:
    proof = record.proofs["trips"].model_copy(update=changed)
    return record.model_copy(update={"proofs": {"trips": proof}})


def _without_a_signature(record: RunRecord) -> RunRecord:
    return _proof(record, signatures=())


def _with_one_signature_twice(record: RunRecord) -> RunRecord:
    return _proof(record, signatures=(detach(record.approvals["trips"]),))


def _without_rosters(record: RunRecord) -> RunRecord:
    return _proof(record, rosters=())


def _without_proofs(record: RunRecord) -> RunRecord:
    return record.model_copy(update={"proofs": {}})


def _with_another_limit(record: RunRecord) -> RunRecord:
    header, payload, signature = record.approvals["trips"].split(".")
    content = json.loads(unverified_payload(f"{header}.{payload}.{signature}"))
    forged = attach(f"{header}..{signature}", canonical_json({**content, "max_runs": 1000}))
    return record.model_copy(update={"approvals": {**record.approvals, "trips": forged}})


@pytest.mark.parametrize(
    "edit",
    [_without_a_signature, _with_one_signature_twice, _without_rosters, _without_proofs, _with_another_limit],
)
def test_an_approval_that_too_few_signed_does_not_verify(
    rostered: Rostered, edit: Callable[[RunRecord], RunRecord]
) -> None:
    receipt = rostered.receipt(edit)
    with pytest.raises((VerificationError, RefusedError)):
        verify_by_both(receipt, trust=rostered.runner.trust())


def test_an_owners_own_approval_does_not_stand_in_for_the_one_that_the_run_was_opened_under(rostered: Rostered) -> None:
    """A driver and an owner who leave the roster out: the log's leaf about the opening names approval and roster."""
    owner = rostered.runner.services.owner

    def replace_approval(record: RunRecord) -> RunRecord:
        content = json.loads(unverified_payload(record.approvals["trips"]))
        public = owner.verifying_key
        header = {"typ": APPROVAL_TYP, "kid": public.thumbprint, "jwk": public.to_jwk()}
        alone = sign_jws(canonical_json({**content, "roster": None}), key=owner, header=header)
        return record.model_copy(
            update={"approvals": {**record.approvals, "trips": alone}, "proofs": {"trips": ApprovalProof()}}
        )

    with pytest.raises(VerificationError, match="approval for trips in the log"):
        verify_by_both(rostered.receipt(replace_approval), trust=rostered.runner.trust())
