"""Promise 1, and what of 5 to 9 the key service keeps: keys leave only to what was approved, once, fresh, and logged.

Every test takes the good path of `tests.support.key_service` and changes one thing.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tests.support.key_service import KeyBench, Tee, receiving_key, run_of
from tests.support.platform import NOW

from strongroom.base.encoding import parse_json_object, to_b64url
from strongroom.base.errors import (
    AuthenticationError,
    ConflictError,
    FormatError,
    IntegrityError,
    NotFoundError,
    RefusedError,
    StrongroomError,
    VerificationError,
)
from strongroom.crypto import jose, keys
from strongroom.crypto.derive import sha256_hex
from strongroom.crypto.jose import sign_jws
from strongroom.crypto.keys import SigningKey
from strongroom.keys import release
from strongroom.keys.records import ApprovalRecord
from strongroom.keys.store import ledger, rows
from strongroom.log.checkpoint import parse_and_verify_checkpoint
from strongroom.log.merkle import leaf_hash, verify_inclusion
from strongroom.policy import consent
from strongroom.policy.approval import PlatformDemand
from strongroom.services import key_desk, people
from strongroom.wire import key_service as wire


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[KeyBench]:
    made = KeyBench(tmp_path)
    yield made
    made.store.close()


def names(refusal: pytest.ExceptionInfo[StrongroomError]) -> set[str]:
    return {mismatch.name for mismatch in refusal.value.mismatches}


# --- the good path ---------------------------------------------------------------------------------------------------


def test_a_whole_run_releases_logs_and_closes(bench: KeyBench) -> None:
    bench.prepare()
    driver, executor, ticket = Tee(), Tee(number=1), bench.ticket()
    opened = bench.open(driver, ticket)
    joined = bench.join(executor, driver, ticket)
    secrets = [bench.secrets(driver, opened), bench.secrets(executor, joined)]
    assert secrets[0] == secrets[1]
    assert (opened.number, joined.number, opened.simulated) == (0, 1, True)
    assert bench.version(opened.versions["trips"]).number == 1
    keys = bench.keys(executor, ticket)["trips"]
    assert to_b64url(keys[bench.trips.write_id].reveal()) == bench.trips.key
    write = secrets[0].writes["report"]
    closing = bench.close(driver, ticket, commits=(bench.commit(write.write_id),))
    assert bench.version(closing.versions["report"]).writer == f"run:{run_of(ticket)}"
    leaves = [parse_json_object(proof.leaf) for proof in (*closing.member_proofs, closing.proof)]
    assert [leaf["event"] for leaf in leaves] == ["run-opened", "member-joined", "keys-released", "run-closed"]
    assert [leaf["number"] for leaf in leaves] == [0, 1, 2, 3]
    key = bench.identity.statement.key.verifying_key
    for proof in (*closing.member_proofs, closing.proof):
        origin = f"strongroom-key-service/{bench.identity.identity}"
        checkpoint = parse_and_verify_checkpoint(proof.checkpoint, origin=origin, key=key)
        path = [bytes.fromhex(each) for each in proof.path]
        leaf = leaf_hash(proof.leaf.encode())
        verify_inclusion(leaf, index=proof.index, size=checkpoint.size, proof=path, root=checkpoint.root)
    assert len({proof.checkpoint for proof in (*closing.member_proofs, closing.proof)}) == 1


# --- opening ---------------------------------------------------------------------------------------------------------


def test_refuses_a_ticket_that_was_used(bench: KeyBench) -> None:
    bench.prepare(max_runs=5)
    ticket = bench.ticket()
    bench.open(Tee(), ticket)
    with pytest.raises(ConflictError, match="used before"):
        bench.open(Tee(number=1), ticket)


def test_refuses_more_runs_than_were_approved(bench: KeyBench) -> None:
    bench.prepare(max_runs=2)
    for number in range(2):
        bench.open(Tee(number=number), bench.ticket())
    with pytest.raises(RefusedError) as refusal:
        bench.open(Tee(number=2), bench.ticket())
    assert names(refusal) == {"runs"}


def test_refuses_after_the_approval_expired(bench: KeyBench) -> None:
    bench.prepare(not_after="2026-03-01T12:00:30Z")
    bench.clock.advance(seconds=31)
    with pytest.raises(RefusedError) as refusal:
        bench.open(Tee(), bench.ticket())
    assert names(refusal) == {"time"}


def test_refuses_after_the_ticket_expired(bench: KeyBench) -> None:
    bench.prepare()
    ticket = bench.ticket(not_after="2026-03-01T12:00:30Z")
    bench.clock.advance(seconds=31)
    with pytest.raises(RefusedError) as refusal:
        bench.open(Tee(), ticket)
    assert names(refusal) == {"time"}


def test_refuses_when_one_of_the_approvals_was_revoked(bench: KeyBench) -> None:
    _, write = bench.prepare()
    bench.revoke(write)
    with pytest.raises(RefusedError) as refusal:
        bench.open(Tee(), bench.ticket())
    assert names(refusal) == {"approval for report"}


def test_refuses_without_an_approval_for_every_dataset(bench: KeyBench) -> None:
    bench.create_dataset("trips")
    bench.create_dataset("report")
    bench.import_version("trips")
    bench.approve("trips", "read")
    with pytest.raises(RefusedError, match="write dataset report"):
        bench.open(Tee(), bench.ticket())


def test_refuses_an_application_that_nobody_approved(bench: KeyBench) -> None:
    bench.prepare()
    other = bench.description(arguments=("changed",)).digest
    with pytest.raises(RefusedError, match="no approval names this application"):
        bench.open(Tee(), bench.ticket(application=other), application=other)


def test_refuses_a_submitter_whom_the_approval_does_not_name(bench: KeyBench) -> None:
    bench.prepare()
    with pytest.raises(RefusedError) as refusal:
        bench.open(Tee(), bench.ticket(signer=SigningKey.generate("ES256")))
    assert names(refusal) == {"application", "submitter"}, "as if nothing were approved: who asks learns of no approval"


def test_refuses_a_ticket_that_claims_another_submitter_than_its_signer(bench: KeyBench) -> None:
    bench.prepare()
    named = bench.submitter.verifying_key.thumbprint
    with pytest.raises(VerificationError, match="another key"):
        bench.open(Tee(), bench.ticket(signer=SigningKey.generate("ES256"), submitter=named))


def test_refuses_a_tee_that_measured_another_application(bench: KeyBench) -> None:
    bench.prepare()
    other = sha256_hex(b"another application")
    with pytest.raises(RefusedError) as refusal:
        bench.open(Tee(), bench.ticket(), application=other)
    assert names(refusal) == {"x-ms-sgx-config-id", "x-ms-runtime.application"}


def test_refuses_a_tee_that_only_says_it_runs_the_application(bench: KeyBench) -> None:
    bench.prepare()
    with pytest.raises(RefusedError) as refusal:
        bench.open(Tee(), bench.ticket(), config_id=bytes(32))
    assert names(refusal) == {"x-ms-sgx-config-id"}


def test_refuses_a_result_under_another_evidence_policy(bench: KeyBench) -> None:
    bench.prepare()
    with pytest.raises(RefusedError) as refusal:
        bench.open(Tee(), bench.ticket(), claims={"x-ms-policy-hash": "A" * 43})
    assert names(refusal) == {"x-ms-policy-hash"}


def test_refuses_a_debuggable_enclave(bench: KeyBench) -> None:
    bench.prepare()
    with pytest.raises(RefusedError) as refusal:
        bench.open(Tee(), bench.ticket(), claims={"x-ms-sgx-is-debuggable": True})
    assert names(refusal) == {"x-ms-sgx-is-debuggable"}


OURS = "ppid:" + "0a" * 16
DEMAND = {"machines": [OURS], "min_tcb_evaluation_data_number": 17, "min_crl_number": 5}
MACHINE = {
    "x-ms-strongroom-machines": [OURS],
    "x-ms-strongroom-tcb-evaluation-data-number": 17,
    "x-ms-strongroom-crl-number": 5,
}


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"x-ms-strongroom-machines": ["ppid:" + "0b" * 16]}, "machine"),
        ({"x-ms-strongroom-tcb-evaluation-data-number": 16}, "x-ms-strongroom-tcb-evaluation-data-number"),
        ({"x-ms-strongroom-crl-number": 4}, "x-ms-strongroom-crl-number"),
    ],
)
def test_no_key_for_a_machine_off_the_list_or_old_vendor_data(
    bench: KeyBench, changed: dict[str, object], name: str
) -> None:
    bench.prepare(platform=PlatformDemand.from_object(DEMAND))
    with pytest.raises(RefusedError) as refusal:
        bench.open(Tee(), bench.ticket(), claims=MACHINE | changed)
    assert names(refusal) == {name}
    driver, ticket = Tee(), bench.ticket()
    bench.open(driver, ticket, claims=MACHINE)
    with pytest.raises(RefusedError) as refusal:
        bench.join(Tee(number=1), driver, ticket, claims=MACHINE | changed)
    assert names(refusal) == {name}
    bench.join(Tee(number=2), driver, ticket, claims=MACHINE)


def test_refuses_simulated_evidence_where_real_hardware_is_required(tmp_path: Path) -> None:
    bench = KeyBench(tmp_path, hardware="real")
    bench.prepare()
    with pytest.raises(RefusedError, match="this key service does not accept") as refusal:
        bench.open(Tee(), bench.ticket())
    assert names(refusal) == {"x-ms-strongroom-hardware"}
    bench.store.close()


def test_refuses_to_store_an_approval_of_simulated_hardware_where_real_is_required(tmp_path: Path) -> None:
    bench = KeyBench(tmp_path, hardware="real")
    bench.create_dataset("trips")
    with pytest.raises(RefusedError) as refusal:
        bench.approve("trips", "read", hardware="simulated")
    assert names(refusal) == {"hardware"}
    bench.store.close()


def test_refuses_a_replayed_nonce(bench: KeyBench) -> None:
    bench.prepare(max_runs=5)
    nonces = {bench.identity.identity: bench.nonce()}
    bench.open(Tee(), bench.ticket(), nonces=nonces)
    with pytest.raises(RefusedError, match="used before"):
        bench.open(Tee(number=1), bench.ticket(), nonces=nonces)


def test_refuses_the_very_same_request_a_second_time(bench: KeyBench) -> None:
    bench.prepare(max_runs=5)
    call = bench.tee_call(bench.join_request(Tee(), bench.ticket()))
    bench.runs.open(call)
    with pytest.raises(RefusedError, match="used before"):
        bench.runs.open(call)


def test_a_refused_request_uses_its_nonce_up_too(bench: KeyBench) -> None:
    bench.prepare()
    nonces = {bench.identity.identity: bench.nonce()}
    with pytest.raises(RefusedError):
        bench.open(Tee(), bench.ticket(), nonces=nonces, config_id=bytes(32))
    with pytest.raises(RefusedError, match="used before"):
        bench.open(Tee(), bench.ticket(), nonces=nonces)


def test_refuses_an_expired_nonce(bench: KeyBench) -> None:
    bench.prepare()
    nonces = {bench.identity.identity: bench.nonce()}
    bench.clock.advance(seconds=121)
    with pytest.raises(RefusedError, match="expired"):
        bench.open(Tee(), bench.ticket(), nonces=nonces)


@pytest.mark.parametrize("nonce", ["", "AAAA", "x" * 75])
def test_refuses_a_nonce_of_nobody(bench: KeyBench, nonce: str) -> None:
    bench.prepare()
    with pytest.raises(RefusedError):
        bench.open(Tee(), bench.ticket(), nonces={bench.identity.identity: nonce})


def test_refuses_a_nonce_of_another_key_service_only(bench: KeyBench) -> None:
    bench.prepare()
    with pytest.raises(RefusedError, match="no nonce"):
        bench.open(Tee(), bench.ticket(), nonces={"f" * 64: bench.nonce()})


def test_refuses_an_expired_result(bench: KeyBench) -> None:
    bench.prepare()
    with pytest.raises(VerificationError, match="expired"):
        bench.open(Tee(), bench.ticket(), claims={"exp": int(NOW.timestamp()) - 1})


def test_refuses_a_result_of_an_attestation_service_that_is_not_trusted(bench: KeyBench) -> None:
    bench.prepare()
    with pytest.raises(VerificationError, match="trusts"):
        bench.open(Tee(), bench.ticket(), claims={"iss": "https://elsewhere.test"})


def test_refuses_a_result_that_another_key_signed(bench: KeyBench) -> None:
    bench.prepare()
    request = bench.join_request(Tee(), bench.ticket())
    bench.issuer = SigningKey.generate("RS256")
    with pytest.raises(VerificationError):
        bench.runs.open(bench.tee_call(request))


def test_refuses_a_request_that_is_not_signed_by_the_attested_tee(bench: KeyBench) -> None:
    bench.prepare()
    tee, thief, ticket = Tee(), Tee(), bench.ticket()
    result, evidence = bench.attest(bench.runtime(tee, ticket))
    request = wire.JoinRequest(ticket=ticket, result=result, evidence=evidence)
    with pytest.raises(VerificationError):
        bench.runs.open(bench.tee_call(thief.sign(request, typ=wire.JOIN_TYP)))


def test_refuses_runtime_data_that_are_not_in_the_result(bench: KeyBench) -> None:
    bench.prepare()
    tee, thief, ticket = Tee(), Tee(number=1), bench.ticket()
    result, evidence = bench.attest(bench.runtime(tee, ticket))
    forged = evidence.model_copy(update={"runtime_data": to_b64url(bench.runtime(thief, ticket).to_json())})
    request = wire.JoinRequest(ticket=ticket, result=result, evidence=forged)
    with pytest.raises(VerificationError, match="result is about other runtime data"):
        bench.runs.open(bench.tee_call(thief.sign(request, typ=wire.JOIN_TYP)))


def test_refuses_evidence_that_is_not_the_results(bench: KeyBench) -> None:
    bench.prepare()
    tee, ticket = Tee(), bench.ticket()
    result, evidence = bench.attest(bench.runtime(tee, ticket))
    _, other = bench.attest(bench.runtime(tee, ticket))
    mixed = evidence.model_copy(update={"quote": other.quote})
    request = wire.JoinRequest(ticket=ticket, result=result, evidence=mixed)
    with pytest.raises(VerificationError, match="another quote"):
        bench.runs.open(bench.tee_call(tee.sign(request, typ=wire.JOIN_TYP)))


@pytest.mark.parametrize("kind", ["tdx", "snp"])
def test_refuses_evidence_that_is_said_to_be_of_another_kind_of_tee(bench: KeyBench, kind: str) -> None:
    bench.prepare()
    tee, ticket = Tee(), bench.ticket()
    result, evidence = bench.attest(bench.runtime(tee, ticket))
    request = wire.JoinRequest(ticket=ticket, result=result, evidence=evidence.model_copy(update={"kind": kind}))
    with pytest.raises(VerificationError, match="another quote"):
        bench.runs.open(bench.tee_call(tee.sign(request, typ=wire.JOIN_TYP)))


def test_refuses_the_same_runtime_data_in_another_spelling(bench: KeyBench) -> None:
    bench.prepare()
    tee, ticket = Tee(), bench.ticket()
    runtime = bench.runtime(tee, ticket)
    result, evidence = bench.attest(runtime)
    respelt = evidence.model_copy(update={"runtime_data": to_b64url(runtime.to_json() + b" ")})
    request = wire.JoinRequest(ticket=ticket, result=result, evidence=respelt)
    with pytest.raises(VerificationError, match="binds other runtime data"):
        bench.runs.open(bench.tee_call(tee.sign(request, typ=wire.JOIN_TYP)))


def test_refuses_a_tee_of_another_run(bench: KeyBench) -> None:
    bench.prepare()
    with pytest.raises(RefusedError) as refusal:
        bench.open(Tee(), bench.ticket(), run=run_of(bench.ticket()))
    assert names(refusal) == {"x-ms-runtime.run"}


def test_refuses_an_executor_in_the_drivers_place(bench: KeyBench) -> None:
    bench.prepare()
    driver = Tee()
    with pytest.raises(RefusedError) as refusal:
        bench.open(driver, bench.ticket(), role="executor", driver_key=driver.thumbprint)
    assert names(refusal) == {"x-ms-runtime.role"}


@pytest.mark.parametrize("datasets", [{"trips": 1}, {"trips": 1, "report": None, "other": 1}, {"report": None}])
def test_refuses_a_ticket_over_other_datasets_than_the_applications(bench: KeyBench, datasets: Any) -> None:
    bench.prepare()
    with pytest.raises(RefusedError) as refusal:
        bench.open(Tee(), bench.ticket(datasets=datasets))
    assert names(refusal) == {"datasets"}


@pytest.mark.parametrize("version", [0, 2, None])
def test_refuses_a_version_that_does_not_exist(bench: KeyBench, version: int | None) -> None:
    bench.prepare()
    with pytest.raises(RefusedError) as refusal:
        bench.open(Tee(), bench.ticket(datasets={"trips": version, "report": None}))
    assert names(refusal) == {"version of trips"}


def test_an_application_approved_for_the_newest_version_reads_no_older_one(bench: KeyBench) -> None:
    bench.prepare()
    bench.import_version("trips", base=1)
    with pytest.raises(ConflictError, match="newer version"):
        bench.open(Tee(), bench.ticket())


def test_an_application_approved_for_one_version_reads_no_other(bench: KeyBench) -> None:
    bench.create_dataset("trips")
    bench.import_version("trips")
    bench.import_version("trips", base=1)
    pinned = bench.description(datasets={"trips": bench.binding("read", version=1)})
    bench.approve("trips", "read", description=pinned, max_runs=5)
    ticket = bench.ticket(application=pinned.digest, datasets={"trips": 2})
    with pytest.raises(RefusedError, match="another version"):
        bench.open(Tee(), ticket, application=pinned.digest)
    bench.open(Tee(), bench.ticket(application=pinned.digest, datasets={"trips": 1}), application=pinned.digest)


def test_refuses_when_the_datasets_key_is_disabled(bench: KeyBench) -> None:
    bench.prepare()
    bench.vault.run("update", bench.azure({"attributes": {"enabled": False}}, name="dataset-trips"))
    with pytest.raises(RefusedError, match="disabled"):
        bench.open(Tee(), bench.ticket())


def test_an_approval_of_an_owner_who_was_removed_counts_no_more(bench: KeyBench) -> None:
    bench.prepare()
    bench.owner = SigningKey.generate("ES256")
    bench.restart()
    with pytest.raises(RefusedError, match="no approval names"):
        bench.open(Tee(), bench.ticket())


def test_an_approval_to_write_does_not_let_an_application_read(bench: KeyBench) -> None:
    bench.create_dataset("trips")
    bench.import_version("trips")
    reading = bench.description(datasets={"trips": bench.binding("read")})
    approval = bench.approval("trips", "write", application=reading.digest)
    kid = bench.owner.verifying_key.thumbprint
    token = sign_jws(approval.to_json(), key=bench.owner, header={"typ": wire.APPROVAL_TYP, "kid": kid})
    record = ApprovalRecord(
        id=sha256_hex(token.encode()),
        owner=kid,
        dataset="trips",
        application=reading.digest,
        approval=token,
        description=reading.to_json().decode(),
        stored_at="2026-03-01T12:00:00Z",
    )
    with bench.store.transaction() as tx:  # past the check when it is stored
        tx.add_approval(record)
    ticket = bench.ticket(application=reading.digest, datasets={"trips": 1})
    with pytest.raises(RefusedError) as refusal:
        bench.open(Tee(), ticket, application=reading.digest)
    assert names(refusal) == {"access"}


def test_shows_only_genuine_refusals_in_the_log(bench: KeyBench) -> None:
    bench.prepare()
    before = len(bench.events())
    with pytest.raises(RefusedError):
        bench.open(Tee(), bench.ticket(), config_id=bytes(32))
    assert bench.events()[before:] == ["refused"]
    with pytest.raises(VerificationError):
        bench.open(Tee(), bench.ticket(), claims={"iss": "https://elsewhere.test"})
    with pytest.raises(RefusedError):
        bench.open(Tee(), bench.ticket(), nonces={bench.identity.identity: "x"})
    assert len(bench.events()) == before + 1


# --- joining ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def driver(bench: KeyBench) -> Tee:
    bench.prepare()
    return Tee()


@pytest.fixture
def ticket(bench: KeyBench, driver: Tee) -> str:
    made = bench.ticket()
    bench.open(driver, made)
    return made


def test_refuses_an_executor_of_another_driver(bench: KeyBench, driver: Tee, ticket: str) -> None:
    with pytest.raises(RefusedError) as refusal:
        bench.join(Tee(number=1), Tee(), ticket)
    assert names(refusal) == {"x-ms-runtime.driver_key"}
    told = [each for part in bench.why(run=run_of(ticket)) for each in part["differences"]]
    assert {each["expected"] for each in told} == {driver.thumbprint}


def test_refuses_an_executor_of_a_run_that_was_not_opened(bench: KeyBench, driver: Tee, ticket: str) -> None:
    with pytest.raises(NotFoundError):
        bench.join(Tee(number=1), driver, bench.ticket())


def test_refuses_an_executor_that_runs_another_application(bench: KeyBench, driver: Tee, ticket: str) -> None:
    with pytest.raises(RefusedError) as refusal:
        bench.join(Tee(number=1), driver, ticket, config_id=bytes(32))
    assert names(refusal) == {"x-ms-sgx-config-id"}


def test_refuses_a_second_driver_in_an_executors_place(bench: KeyBench, driver: Tee, ticket: str) -> None:
    with pytest.raises(RefusedError) as refusal:
        bench.join(Tee(number=1), driver, ticket, role="driver", driver_key=None)
    assert "x-ms-runtime.role" in names(refusal)


def test_refuses_more_executors_than_the_ticket_allows_over_the_whole_run(
    bench: KeyBench, driver: Tee, ticket: str
) -> None:
    for number in (1, 2):
        bench.join(Tee(number=number), driver, ticket)
    with pytest.raises(RefusedError) as refusal:
        bench.join(Tee(number=3), driver, ticket)
    assert names(refusal) == {"executors"}


def test_refuses_a_member_that_joined_already(bench: KeyBench, driver: Tee, ticket: str) -> None:
    executor = Tee(number=1)
    bench.join(executor, driver, ticket)
    with pytest.raises(RefusedError) as refusal:
        bench.join(executor, driver, ticket)
    assert names(refusal) == {"member"}


def test_refuses_a_join_at_another_runs_address(bench: KeyBench, driver: Tee, ticket: str) -> None:
    tee = Tee(number=1)
    token = bench.join_request(tee, ticket, role="executor", driver_key=driver.thumbprint)
    with pytest.raises(VerificationError):
        bench.runs.join(bench.tee_call(token, run="f" * 64))


def test_a_revoked_approval_stops_a_running_run(bench: KeyBench, tmp_path: Path) -> None:
    read, _ = bench.prepare()
    driver, ticket = Tee(), bench.ticket()
    write = bench.secrets(driver, bench.open(driver, ticket)).writes["report"]
    bench.revoke(read)
    with pytest.raises(RefusedError, match="nothing more"):
        bench.join(Tee(number=1), driver, ticket)
    with pytest.raises(RefusedError, match="nothing more"):
        bench.keys(driver, ticket)
    with pytest.raises(RefusedError, match="nothing more"):
        bench.close(driver, ticket, commits=(bench.commit(write.write_id),))
    with bench.store.transaction() as tx:
        assert tx.head("report") is None
    assert bench.close(driver, ticket, outcome="failed").outcome == "failed"


@pytest.mark.parametrize("ends", ["by time", "by its approval"])
def test_what_a_release_remembered_lets_no_later_one_through(bench: KeyBench, ends: str) -> None:
    read, _ = bench.prepare()
    driver, ticket = Tee(), bench.ticket()
    bench.open(driver, ticket)
    for _ in range(3):  # by now approval, ticket, version and keys are remembered
        bench.keys(driver, ticket)
    with pytest.raises(VerificationError):
        bench.keys(Tee(), ticket)
    if ends == "by time":
        bench.clock.advance(hours=2)
    else:
        bench.revoke(read)
    with pytest.raises(RefusedError, match="nothing more"):
        bench.keys(driver, ticket)


# What is remembered, how long it may be, and in which module both are.
MEMORIES = [
    (jose, "_REMEMBERED_BYTES", jose._remembered),
    (keys, "_REMEMBERED_CHARACTERS", keys._remembered_key),
    (consent, "_REMEMBERED_CHARACTERS", consent._remembered),
    (release, "_REMEMBERED_CHARACTERS", release._remembered),
    (key_desk, "_REMEMBERED_CHARACTERS", key_desk._version_in),
    (people, "_REMEMBERED_BYTES", people._claims_in),
    (ledger, "_REMEMBERED_CHARACTERS", ledger._parsed),
    (rows, "_REMEMBERED_CHARACTERS", rows._said),
]


@pytest.mark.parametrize("memory", MEMORIES, ids=lambda memory: f"{memory[0].__name__}.{memory[2].__name__}")
def test_what_is_longer_than_it_should_be_is_not_remembered(
    bench: KeyBench, monkeypatch: pytest.MonkeyPatch, memory: tuple[ModuleType, str, Any]
) -> None:
    """Or whoever chooses its length fills the service's memory; it is released all the same."""
    module, bound, remembered = memory

    def release_once() -> int:
        remembered.cache_clear()
        driver, ticket = Tee(), bench.ticket()
        bench.open(driver, ticket)
        bench.keys(driver, ticket)
        assert bench.why() == []
        return int(remembered.cache_info().currsize)

    bench.prepare(max_runs=2)
    with monkeypatch.context() as patch:
        patch.setattr(module, bound, 0)
        assert release_once() == 0
    assert release_once() > 0


def test_of_rows_too_the_longest_are_not_remembered(bench: KeyBench, monkeypatch: pytest.MonkeyPatch) -> None:
    def remembered(*bounds: int) -> tuple[bool, bool]:
        bench.restart()
        with monkeypatch.context() as patch:
            for bound, characters in zip(("", "LONG_"), bounds, strict=True):
                patch.setattr(rows, f"_REMEMBERED_{bound}CHARACTERS", characters)
            driver, ticket = Tee(), bench.ticket()
            bench.open(driver, ticket)
            bench.keys(driver, ticket)
        opener = bench.store._opener
        return opener._short.cache_info().currsize > 0, opener._long.cache_info().currsize > 0

    bench.prepare(max_runs=3)
    assert remembered(0, 0) == (False, False)
    assert remembered(0, 1 << 20) == (False, True)
    assert remembered(1 << 20, 1 << 20) == (True, False)


def test_all_that_is_remembered_has_some_tens_of_megabytes(bench: KeyBench) -> None:
    opener = bench.store._opener
    longest = [(cache, getattr(module, bound)) for module, bound, cache in MEMORIES]
    longest += [(opener._short, rows._REMEMBERED_CHARACTERS), (opener._long, rows._REMEMBERED_LONG_CHARACTERS)]
    assert sum(cache.cache_parameters()["maxsize"] * length for cache, length in longest) < 80 << 20


def test_an_owner_whom_the_service_does_not_know_any_more_stops_a_running_run(bench: KeyBench) -> None:
    bench.prepare()
    driver, ticket = Tee(), bench.ticket()
    bench.open(driver, ticket)
    bench.keys(driver, ticket)
    bench.owner = SigningKey.generate("ES256")
    bench.restart()
    with pytest.raises(RefusedError, match="not an owner's any more"):
        bench.keys(driver, ticket)


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("approvals", """replace(public, '"id":"', '"id": "')"""),
        ("datasets", """replace(public, '"owner":"', '"owner":"0')"""),
        ("runs", """replace(public, '"reads":{', '"reads": {')"""),
        ("members", """replace(public, '"number":0', '"number":1')"""),
        ("keys", """replace(public, '"enabled":true', '"enabled":true ')"""),
        ("write_keys", """replace(public, '"kek":"', '"kek": "')"""),
        ("versions", """replace(public, '"number":1', '"number": 1')"""),
        ("approval_uses", """replace(public, '"runs":1', '"runs":0')"""),
        ("chain_states", """replace(public, '"revoked":', '"revoked": ')"""),
    ],
)
def test_a_row_that_is_edited_between_two_releases_stops_the_second(bench: KeyBench, table: str, change: str) -> None:
    bench.prepare()
    driver, ticket = Tee(), bench.ticket()
    bench.open(driver, ticket)
    bench.keys(driver, ticket)
    writer = bench.store.database.writer
    writer.begin()
    writer.execute(f"UPDATE {table} SET public = {change}")
    writer.commit()
    with pytest.raises(IntegrityError, match="changed"):
        bench.keys(driver, ticket)


def test_a_disabled_dataset_key_stops_a_running_run(bench: KeyBench, driver: Tee, ticket: str) -> None:
    bench.vault.run("update", bench.azure({"attributes": {"enabled": False}}, name="dataset-report"))
    for attempt in (
        lambda: bench.join(Tee(number=1), driver, ticket),
        lambda: bench.keys(driver, ticket),
        lambda: bench.close(driver, ticket),
    ):
        with pytest.raises(RefusedError, match="disabled"):
            attempt()


def test_an_expired_ticket_stops_a_running_run(bench: KeyBench, driver: Tee, ticket: str) -> None:
    bench.clock.advance(hours=2)
    with pytest.raises(RefusedError, match="nothing more"):
        bench.keys(driver, ticket)


# --- keys ------------------------------------------------------------------------------------------------------------


def test_refuses_keys_of_a_version_that_the_run_is_not_bound_to(bench: KeyBench, driver: Tee, ticket: str) -> None:
    write, _ = bench.import_version("trips", base=1)
    newer = wire.WrittenDataset(number=2, write_keys={write.write_id: write.wrapped})
    with pytest.raises(RefusedError) as refusal:
        bench.keys(driver, ticket, datasets={"trips": newer})
    assert names(refusal) == {"version of trips"}


def test_refuses_keys_of_a_dataset_that_the_run_is_not_bound_to(bench: KeyBench, driver: Tee, ticket: str) -> None:
    bench.create_dataset("salaries")
    write, _ = bench.import_version("salaries")
    other = wire.WrittenDataset(number=1, write_keys={write.write_id: write.wrapped})
    with pytest.raises(RefusedError) as refusal:
        bench.keys(driver, ticket, datasets={"salaries": other})
    assert names(refusal) == {"version of salaries"}


def test_refuses_keys_of_a_write_that_is_not_in_the_version(bench: KeyBench, driver: Tee, ticket: str) -> None:
    write, _ = bench.import_version("trips", base=1)
    smuggled = wire.WrittenDataset(number=1, write_keys={write.write_id: write.wrapped})
    with pytest.raises(RefusedError) as refusal:
        bench.keys(driver, ticket, datasets={"trips": smuggled})
    assert names(refusal) == {"write of trips"}


def test_refuses_a_wrapped_key_of_another_write_under_a_bound_writes_name(
    bench: KeyBench, driver: Tee, ticket: str
) -> None:
    write, _ = bench.import_version("trips", base=1)
    renamed = wire.WrittenDataset(number=1, write_keys={bench.trips.write_id: write.wrapped})
    with pytest.raises(VerificationError, match="belongs elsewhere"):
        bench.keys(driver, ticket, datasets={"trips": renamed})


def test_refuses_keys_to_a_tee_that_is_no_member(bench: KeyBench, driver: Tee, ticket: str) -> None:
    with pytest.raises(VerificationError, match="not signed by a member"):
        bench.keys(Tee(number=1), ticket)


def test_a_request_that_names_its_member_is_opened_with_that_ones_key_alone(
    bench: KeyBench, driver: Tee, ticket: str
) -> None:
    executor, run = Tee(number=1), run_of(ticket)
    bench.join(executor, driver, ticket)

    def ask(tee: Tee, named: object) -> int:
        header = {"typ": wire.KEYS_TYP, "kid": named}
        token = sign_jws(bench.keys_request(ticket).to_json(), key=tee.signing, header=header)
        return bench.runs.keys(bench.tee_call(token, run=run)).status

    assert (ask(driver, "0"), ask(executor, "1"), ask(executor, "who knows")) == (200, 200, 200)
    for tee, named in ((driver, "1"), (executor, "0"), (driver, "2"), (driver, "999999999"), (Tee(), "0")):
        with pytest.raises(VerificationError, match="not signed by a member"):
            ask(tee, named)


def test_a_member_whose_row_is_gone_is_not_taken_for_one_that_never_joined(
    bench: KeyBench, driver: Tee, ticket: str
) -> None:
    header = {"typ": wire.KEYS_TYP, "kid": "0"}
    token = sign_jws(bench.keys_request(ticket).to_json(), key=driver.signing, header=header)
    writer = bench.store.database.writer
    writer.begin()
    writer.execute("DELETE FROM members")
    writer.commit()
    with pytest.raises(IntegrityError, match="other members"):
        bench.runs.keys(bench.tee_call(token, run=run_of(ticket)))


def test_refuses_one_kind_of_request_as_another(bench: KeyBench, driver: Tee, ticket: str) -> None:
    token = driver.sign(bench.keys_request(ticket), typ=wire.LIST_TYP)
    with pytest.raises(VerificationError):
        bench.runs.keys(bench.tee_call(token, run=run_of(ticket)))


@pytest.mark.parametrize("issued_at", ["2026-03-01T11:58:00Z", "2026-03-01T12:02:00Z"])
def test_refuses_a_request_that_was_not_made_just_now(
    bench: KeyBench, driver: Tee, ticket: str, issued_at: str
) -> None:
    with pytest.raises(RefusedError) as refusal:
        bench.keys(driver, ticket, issued_at=issued_at)
    assert names(refusal) == {"issued_at"}


def test_refuses_a_members_request_at_another_run_it_is_a_member_of(bench: KeyBench) -> None:
    bench.prepare(max_runs=2)
    tee, first, second = Tee(), bench.ticket(), bench.ticket()
    bench.open(tee, first)
    bench.open(tee, second)
    token = tee.sign(bench.keys_request(first), typ=wire.KEYS_TYP)
    with pytest.raises(RefusedError) as refusal:
        bench.runs.keys(bench.tee_call(token, run=run_of(second)))
    assert names(refusal) == {"run"}


def test_secrets_are_sealed_to_their_tee_run_and_purpose(bench: KeyBench) -> None:
    bench.prepare()
    driver, ticket = Tee(), bench.ticket()
    release = bench.open(driver, ticket)
    with pytest.raises(IntegrityError):
        Tee(number=1).unseal(release.sealed, run=release.run, purpose="run-secrets")
    with pytest.raises(VerificationError):
        driver.unseal(release.sealed, run=release.run, purpose="write-keys")
    with pytest.raises(VerificationError):
        driver.unseal(release.sealed, run="f" * 64, purpose="run-secrets")


# --- closing ---------------------------------------------------------------------------------------------------------


def test_refuses_to_close_with_another_count_of_leaves(bench: KeyBench, driver: Tee, ticket: str) -> None:
    bench.join(Tee(number=1), driver, ticket)
    for leaves in (1, 3):
        with pytest.raises(ConflictError) as refusal:
            bench.close(driver, ticket, leaves=leaves)
        assert names(refusal) == {"leaves"}


def test_releases_nothing_after_a_run_is_closed(bench: KeyBench, driver: Tee, ticket: str) -> None:
    bench.close(driver, ticket)
    for attempt in (
        lambda: bench.join(Tee(number=1), driver, ticket),
        lambda: bench.keys(driver, ticket),
        lambda: bench.close(driver, ticket),
        lambda: bench.close(driver, ticket, outcome="failed"),
    ):
        with pytest.raises(RefusedError, match="closed"):
            attempt()


def test_refuses_to_close_for_an_executor(bench: KeyBench, driver: Tee, ticket: str) -> None:
    executor = Tee(number=1)
    bench.join(executor, driver, ticket)
    leaves = len(bench.record(driver, ticket).leaves)
    request = wire.CloseRequest(
        run=run_of(ticket),
        issued_at="2026-03-01T12:00:00Z",
        outcome="succeeded",
        leaves=leaves,
        receipt="0" * 64,
        commits=(),
    )
    with pytest.raises(RefusedError) as refusal:
        bench.runs.close(bench.tee_call(executor.sign(request, typ=wire.CLOSE_TYP), run=run_of(ticket)))
    assert names(refusal) == {"role"}
    with pytest.raises(RefusedError):
        bench.record(executor, ticket)


def own_write(bench: KeyBench, ticket: str) -> str:
    with bench.store.transaction() as tx:
        return tx.run(run_of(ticket)).record.writes["report"].write_id


def test_all_commits_take_effect_together_or_none(bench: KeyBench) -> None:
    described = bench.description(datasets={"one": bench.binding("write"), "two": bench.binding("write")})
    for name in ("one", "two"):
        bench.create_dataset(name)
        bench.approve(name, "write", description=described)
    driver = Tee()
    ticket = bench.ticket(application=described.digest, datasets={"one": None, "two": None})
    writes = bench.secrets(driver, bench.open(driver, ticket, application=described.digest)).writes
    bench.import_version("two")
    commits = tuple(bench.commit(writes[name].write_id, dataset=name) for name in ("one", "two"))
    with pytest.raises(ConflictError, match="two is at version 1"):
        bench.close(driver, ticket, commits=commits)
    with bench.store.transaction() as tx:
        assert (tx.head("one"), tx.head("two"), tx.outcome(run_of(ticket))) == (None, 1, None)


def test_refuses_to_commit_a_dataset_that_the_run_only_reads(bench: KeyBench, driver: Tee, ticket: str) -> None:
    commit = bench.commit(bench.trips.write_id, dataset="trips", base=1)
    with pytest.raises(RefusedError) as refusal:
        bench.close(driver, ticket, commits=(commit,))
    assert names(refusal) == {"dataset"}


def test_refuses_to_commit_a_foreign_write(bench: KeyBench, driver: Tee, ticket: str) -> None:
    commit = bench.commit(own_write(bench, ticket), write_ids=(own_write(bench, ticket), bench.trips.write_id))
    with pytest.raises(RefusedError) as refusal:
        bench.close(driver, ticket, commits=(commit,))
    assert names(refusal) == {"write of report"}


def test_refuses_to_commit_a_dataset_twice(bench: KeyBench, driver: Tee, ticket: str) -> None:
    commit = bench.commit(own_write(bench, ticket))
    with pytest.raises(RefusedError) as refusal:
        bench.close(driver, ticket, commits=(commit, commit))
    assert names(refusal) == {"commits"}


def test_a_failed_run_commits_nothing(bench: KeyBench, driver: Tee, ticket: str) -> None:
    with pytest.raises(RefusedError) as refusal:
        bench.close(driver, ticket, outcome="failed", commits=(bench.commit(own_write(bench, ticket)),))
    assert names(refusal) == {"commits"}


def test_a_write_on_a_base_may_keep_the_bases_writes_and_open_its_manifest(bench: KeyBench) -> None:
    bench.prepare()
    base, _ = bench.import_version("report")
    driver, ticket = Tee(), bench.ticket()
    opened = bench.open(driver, ticket)
    assert bench.version(opened.versions["report"]).number == 1
    write = bench.secrets(driver, opened).writes["report"]
    assert write.base == 1
    manifest = {"report": wire.WrittenDataset(number=1, write_keys={base.write_id: base.wrapped})}
    assert to_b64url(bench.keys(driver, ticket, datasets=manifest)["report"][base.write_id].reveal()) == base.key
    commit = bench.commit(write.write_id, base=1, write_ids=(base.write_id, write.write_id))
    version = bench.version(bench.close(driver, ticket, commits=(commit,)).versions["report"])
    assert version.number == 2
    assert version.previous is not None


# --- people ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changed",
    [
        {"aud": "f" * 64},
        {"sub": "f" * 64},
        {"exp": int(NOW.timestamp()) + 301},
        {"exp": int(NOW.timestamp())},
        {"iat": int(NOW.timestamp()) + 61},
        {"iat": int(NOW.timestamp()) + 200, "exp": int(NOW.timestamp()) + 100},
    ],
)
def test_refuses_a_persons_token_that_is_not_short_fresh_theirs_and_for_this_service(
    bench: KeyBench, changed: dict[str, Any]
) -> None:
    call = bench.person(wire.NewDataset(dataset="trips"))
    forged = f"Bearer {bench.token(**changed)}"
    with pytest.raises(AuthenticationError):
        bench.datasets.create_dataset(replace(call, authorization=forged))


def test_refuses_a_persons_token_of_an_unknown_key_or_of_another_type(bench: KeyBench) -> None:
    call = bench.person(wire.NewDataset(dataset="trips"))
    stranger = SigningKey.generate("ES256")
    claimed = {"typ": wire.PERSON_TOKEN_TYP, "kid": bench.owner.verifying_key.thumbprint}
    payload = wire.PersonToken(aud=bench.identity.identity, sub=claimed["kid"], iat=0, exp=1).to_json()
    for token in (
        bench.token(stranger),
        sign_jws(payload, key=stranger, header=claimed),
        sign_jws(payload, key=bench.owner, header={**claimed, "typ": wire.APPROVAL_TYP}),
        "x.y.z",
        "",
    ):
        with pytest.raises(AuthenticationError):
            bench.datasets.create_dataset(replace(call, authorization=f"Bearer {token}"))


def test_refuses_an_approval_that_differs_from_the_description_it_comes_with(bench: KeyBench) -> None:
    bench.create_dataset("trips")
    with pytest.raises(RefusedError) as refusal:
        bench.approve("trips", "write")
    assert names(refusal) == {"access"}
    with pytest.raises(RefusedError) as refusal:
        bench.approve("trips", "read", application="f" * 64)
    assert names(refusal) == {"application"}
    other = bench.description(datasets={"trips": bench.binding("read", key_service="f" * 64)})
    with pytest.raises(RefusedError) as refusal:
        bench.approve("trips", "read", description=other)
    assert names(refusal) == {"key_service"}
    with pytest.raises(VerificationError):
        bench.approve("trips", "read", key_service="f" * 64)


def test_refuses_an_approval_that_no_owner_signed(bench: KeyBench) -> None:
    bench.create_dataset("trips")
    stranger = SigningKey.generate("ES256")
    token = sign_jws(
        bench.approval("trips", "read").to_json(),
        key=stranger,
        header={"typ": wire.APPROVAL_TYP, "kid": bench.owner.verifying_key.thumbprint},
    )
    upload = wire.ApprovalUpload(approval=token, application=bench.description().to_json().decode())
    with pytest.raises(VerificationError):
        bench.approvals.approve(bench.person(upload))


def test_gives_an_owner_only_writes_of_the_version_that_is_named(bench: KeyBench) -> None:
    bench.create_dataset("trips")
    write, _ = bench.import_version("trips")
    later, _ = bench.import_version("trips", base=1)
    asked = wire.WrittenDataset(number=1, write_keys={later.write_id: later.wrapped})
    request = wire.OwnerUnwrapRequest(recipient=receiving_key(9).public_jwk, version=asked)
    with pytest.raises(RefusedError):
        bench.datasets.unwrap(bench.person(request, name="trips"))
    good = asked.model_copy(update={"write_keys": {write.write_id: write.wrapped}})
    bench.datasets.unwrap(bench.person(request.model_copy(update={"version": good}), name="trips"))
    assert bench.events()[-1] == "keys-released"


def test_the_secret_key_of_a_dataset_is_not_for_key_vaults_operations(bench: KeyBench) -> None:
    bench.create_dataset("trips")
    for attempt in (
        lambda: bench.vault.run("wrap", bench.azure({"alg": "A256KW", "value": "A" * 43}, name="dataset-trips")),
        lambda: bench.vault.run("release", bench.azure({"target": "a.b.c"}, name="dataset-trips")),
        lambda: bench.vault.run("update", bench.azure({"key_ops": ["wrapKey"]}, name="dataset-trips")),
        lambda: bench.vault.run("create", bench.azure({"kty": "oct-HSM"}, name="dataset-trips")),
    ):
        with pytest.raises(RefusedError):
            attempt()
    with pytest.raises(FormatError):
        bench.vault.run("update", bench.azure({"attributes": {"exportable": True}}, name="dataset-trips"))
