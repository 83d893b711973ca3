import contextlib
import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom.base.errors import FormatError, RefusedError
from strongroom.crypto.keys import ReceivingKey, SigningKey
from strongroom.policy.approval import (
    Approval,
    approval_release_policy,
    authorize_run,
    executor_mismatches,
    validity_mismatches,
)
from strongroom.policy.tee_claims import TEE_CLAIMS
from strongroom.wire.model import TEE_KINDS, TeeKind
from strongroom.wire.ticket import RunTicket

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
APPLICATION, KEY_SERVICE, SUBMITTER = "a1" * 32, "b2" * 32, "c3" * 32
POLICY_HASH = "egjnANIzEpS2WgpE4Nk-QEwM69XRCgTs42_G0qLlbnk"
APPROVAL: dict[str, Any] = {
    "version": 1,
    "dataset": "trips",
    "key_service": KEY_SERVICE,
    "application": APPLICATION,
    "access": "read",
    "evidence_policy_hash": POLICY_HASH,
    "attestation_issuer": "https://attest.example",
    "hardware": "simulated",
    "shape": "process",
    "max_runs": 2,
    "not_after": "2026-03-31T00:00:00Z",
    "submitters": [SUBMITTER, "d4" * 32],
    "recipients": [],
    "issued_at": "2026-02-28T00:00:00Z",
}
PLATFORM: dict[str, Any] = {
    "machines": ["ppid:" + "ab" * 16, "chip-id:" + "cd" * 64],
    "min_tcb_evaluation_data_number": 17,
    "min_crl_number": 3,
}
MACHINE: dict[str, Any] = {
    "x-ms-strongroom-machines": ["ppid:" + "ab" * 16, "platform-instance:" + "ef" * 16],
    "x-ms-strongroom-tcb-evaluation-data-number": 17,
    "x-ms-strongroom-crl-number": 3,
}
TICKET = RunTicket(
    run_id="e5" * 16,
    application=APPLICATION,
    datasets={"trips": 1, "report": None},
    max_executors=3,
    not_after="2026-03-02T00:00:00Z",
    submitter=SUBMITTER,
    checkpoints={KEY_SERVICE: "note"},
)
RUN = hashlib.sha256(TICKET.to_json()).hexdigest()
CLAIMS: dict[str, Any] = {
    "iss": "https://attest.example",
    "x-ms-policy-hash": POLICY_HASH,
    "x-ms-attestation-type": "sgx",
    "x-ms-sgx-is-debuggable": False,
    "x-ms-sgx-config-id": APPLICATION + "00" * 32,
    "x-ms-strongroom-hardware": "simulated",
    "x-ms-runtime": {"application": APPLICATION, "role": "driver", "run": RUN},
}


VIRTUAL: dict[TeeKind, dict[str, Any]] = {
    "tdx": {
        "x-ms-attestation-type": "tdxvm",
        "tdx_mrconfigid": APPLICATION + "00" * 16,
        "tdx_td_attributes_debug": False,
        "dbgstat": "disabled",
        "tdx_td_attributes_septve_disable": True,
        "x-ms-strongroom-migratable": False,
    },
    "snp": {
        "x-ms-attestation-type": "sevsnpvm",
        "x-ms-sevsnpvm-hostdata": APPLICATION,
        "x-ms-sevsnpvm-is-debuggable": False,
        "x-ms-sevsnpvm-migration-allowed": False,
        "x-ms-sevsnpvm-vmpl": 0,
    },
}
"""What the results of virtual machines say in the place of SGX's three claims."""


def claims_of(tee: TeeKind) -> dict[str, Any]:
    if tee == "sgx":
        return CLAIMS
    return {name: value for name, value in CLAIMS.items() if not name.startswith("x-ms-sgx-")} | VIRTUAL[tee]


def approval(**changes: object) -> Approval:
    return Approval.from_object(APPROVAL | changes)


def refused_names(
    approved: Approval,
    *,
    ticket: RunTicket = TICKET,
    claims: dict[str, Any] = CLAIMS,
    runs_opened: int = 0,
    now: datetime = NOW,
) -> list[str]:
    try:
        authorize_run(approved, ticket=ticket, claims=claims, runs_opened=runs_opened, now=now)
    except RefusedError as refusal:
        return [mismatch.name for mismatch in refusal.mismatches] or ["refused without a reason"]
    return []


def test_approved_run_opens() -> None:
    assert refused_names(approval()) == []


def test_approval_survives_its_canonical_form() -> None:
    assert Approval.from_json(approval().to_json()) == approval()


@pytest.mark.parametrize(
    ("claim", "value"),
    [
        ("iss", "https://other.example"),
        ("x-ms-policy-hash", "A" * 43),
        ("x-ms-attestation-type", "tdxvm"),
        ("x-ms-sgx-is-debuggable", True),
        ("x-ms-sgx-is-debuggable", "false"),
        ("x-ms-sgx-config-id", "00" * 64),
        ("x-ms-sgx-config-id", APPLICATION + "00" * 31 + "01"),
        ("x-ms-strongroom-hardware", "real"),
    ],
)
@pytest.mark.parametrize("absent", [False, True])
def test_each_claim_of_the_result_matters(claim: str, value: object, *, absent: bool) -> None:
    claims = {name: each for name, each in CLAIMS.items() if name != claim} | ({} if absent else {claim: value})
    assert refused_names(approval(), claims=claims) == [claim]


@pytest.mark.parametrize("tees", [("sgx",), ("tdx",), ("snp",), ("snp", "sgx"), ("tdx", "snp", "sgx")])
@pytest.mark.parametrize("tee", TEE_KINDS)
def test_a_kind_of_tee_passes_where_it_is_named(tee: TeeKind, tees: tuple[TeeKind, ...]) -> None:
    refused = refused_names(approval(tees=tees), claims=claims_of(tee))
    assert (refused == []) == (tee in tees)
    assert tee in tees or "x-ms-attestation-type" in refused


def test_an_approval_that_names_no_kind_of_tee_means_sgx() -> None:
    assert approval().tees == ("sgx",)


@pytest.mark.parametrize("tees", [(), ("sgx", "sgx"), ("sev",), "sgx", ("sgx", "tdx", "snp", "sgx")])
def test_an_approval_names_each_kind_of_tee_once(tees: object) -> None:
    with pytest.raises(FormatError):
        approval(tees=tees)


@pytest.mark.parametrize(
    ("tee", "claim", "value"),
    [
        ("tdx", "tdx_mrconfigid", "ff" * 48),
        ("tdx", "tdx_mrconfigid", APPLICATION),
        ("tdx", "tdx_mrconfigid", APPLICATION + "00" * 15 + "01"),
        ("tdx", "tdx_td_attributes_debug", True),
        ("tdx", "dbgstat", "enabled"),
        ("tdx", "tdx_td_attributes_septve_disable", False),
        ("tdx", "x-ms-strongroom-migratable", True),
        ("tdx", "x-ms-attestation-type", "sevsnpvm"),
        ("snp", "x-ms-sevsnpvm-hostdata", "ff" * 32),
        ("snp", "x-ms-sevsnpvm-is-debuggable", True),
        ("snp", "x-ms-sevsnpvm-migration-allowed", True),
        ("snp", "x-ms-sevsnpvm-vmpl", 1),
        ("snp", "x-ms-sevsnpvm-vmpl", False),
        ("snp", "x-ms-attestation-type", "tdxvm"),
    ],
)
@pytest.mark.parametrize("absent", [False, True])
def test_each_claim_of_a_virtual_machine_matters(tee: TeeKind, claim: str, value: object, *, absent: bool) -> None:
    kept = {name: each for name, each in claims_of(tee).items() if name != claim}
    claims = kept | ({} if absent else {claim: value})
    assert refused_names(approval(tees=[tee]), claims=claims) == [claim]


@pytest.mark.parametrize("tee", ["tdx", "snp"])
def test_a_virtual_machine_that_was_launched_for_nothing_is_said_to_be_a_node(tee: TeeKind) -> None:
    claim = TEE_CLAIMS[tee].launched_with
    claims = claims_of(tee) | {claim: TEE_CLAIMS[tee].launch_value("")}
    assert refused_names(approval(tees=[tee]), claims=claims) == ["shape", claim]


@pytest.mark.parametrize(("member", "value"), [("application", "ff" * 32), ("role", "executor"), ("run", "ff" * 32)])
@pytest.mark.parametrize("absent", [False, True])
def test_each_member_of_the_runtime_data_matters(member: str, value: str, *, absent: bool) -> None:
    runtime = {name: each for name, each in CLAIMS["x-ms-runtime"].items() if name != member}
    claims = CLAIMS | {"x-ms-runtime": runtime if absent else runtime | {member: value}}
    assert refused_names(approval(), claims=claims) == [f"x-ms-runtime.{member}"]


def test_result_without_runtime_data_is_refused() -> None:
    claims = {name: each for name, each in CLAIMS.items() if name != "x-ms-runtime"}
    assert "x-ms-runtime.run" in refused_names(approval(), claims=claims)


def test_simulated_evidence_never_passes_for_real_hardware() -> None:
    real = approval(hardware="real", platform=PLATFORM)
    assert refused_names(real, claims=CLAIMS | MACHINE) == ["x-ms-strongroom-hardware"]
    assert refused_names(real, claims=CLAIMS | MACHINE | {"x-ms-strongroom-hardware": "real"}) == []


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"application": "ff" * 32}, ["application"]),
        ({"datasets": {"other": 1}}, ["dataset"]),
        ({"submitter": "ff" * 32}, ["submitter"]),
        ({"not_after": "2026-03-01T11:59:59Z"}, ["time"]),
    ],
)
def test_each_word_of_the_ticket_matters(changes: dict[str, object], names: list[str]) -> None:
    ticket = TICKET.model_copy(update=changes)
    claims = CLAIMS | {"x-ms-runtime": CLAIMS["x-ms-runtime"] | {"run": hashlib.sha256(ticket.to_json()).hexdigest()}}
    assert refused_names(approval(), ticket=ticket, claims=claims) == names


def test_a_result_for_another_ticket_is_refused() -> None:
    assert refused_names(approval(), ticket=TICKET.model_copy(update={"max_executors": 4})) == ["x-ms-runtime.run"]


def test_runs_are_counted() -> None:
    assert refused_names(approval(), runs_opened=1) == []
    assert refused_names(approval(), runs_opened=2) == ["runs"]
    default = Approval.from_object({name: value for name, value in APPROVAL.items() if name != "max_runs"})
    assert refused_names(default, runs_opened=0) == []
    assert refused_names(default, runs_opened=1) == ["runs"]


def test_approval_expires() -> None:
    moment = datetime(2026, 3, 31, tzinfo=UTC)
    ticket = TICKET.model_copy(update={"not_after": "2026-12-31T00:00:00Z"})
    claims = CLAIMS | {"x-ms-runtime": CLAIMS["x-ms-runtime"] | {"run": hashlib.sha256(ticket.to_json()).hexdigest()}}
    for approved, now, names in (
        (approval(), moment, []),
        (approval(), moment + timedelta(seconds=1), ["time"]),
        (approval(not_after=None), moment + timedelta(days=90), []),
    ):
        assert refused_names(approved, ticket=ticket, claims=claims, now=now) == names


def test_refusal_names_every_difference_at_once() -> None:
    names = refused_names(
        approval(application="ff" * 32, submitters=["ff" * 32], max_runs=1), runs_opened=1, now=NOW + timedelta(days=60)
    )
    expected = ["application", "submitter", "time", "time", "runs", "x-ms-sgx-config-id", "x-ms-runtime.application"]
    assert names == expected


def test_release_policy_is_azures_grammar_and_names_the_role() -> None:
    policy = approval_release_policy(approval(), role="executor")
    document = json.loads(policy.data)
    assert document["version"] == "1.0.0"
    conditions = {each["claim"]: each["equals"] for each in document["anyOf"][0]["allOf"]}
    assert conditions["x-ms-runtime.role"] == "executor"
    assert conditions["x-ms-sgx-config-id"] == APPLICATION + "00" * 32
    policy.evaluate(CLAIMS | {"x-ms-runtime": CLAIMS["x-ms-runtime"] | {"role": "executor"}})
    with pytest.raises(RefusedError):
        policy.evaluate(CLAIMS)


def test_recipients_are_public_p256_keys_and_nothing_else() -> None:
    public = {name: ReceivingKey.generate_p256().public_jwk[name] for name in ("kty", "crv")}
    whole = SigningKey.generate("ES256").verifying_key.to_jwk()
    assert approval(recipients=[whole]).recipients == (whole,)
    for wrong in (
        public,
        whole | {"d": "AAAA"},
        whole | {"kid": "x"},
        SigningKey.generate("Ed25519").verifying_key.to_jwk(),
        whole | {"x": whole["y"]},
    ):
        with pytest.raises(FormatError):
            approval(recipients=[wrong])


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"unknown": 1},
        {"dataset": "Trips/.."},
        {"key_service": "b2" * 31},
        {"application": "A1" * 32},
        {"access": "admin"},
        {"evidence_policy_hash": "short"},
        {"evidence_policy_hash": POLICY_HASH + "\n"},
        {"attestation_issuer": "http://attest.example"},
        {"hardware": "any"},
        {"hardware": "real"},
        {"platform": {"machines": "any"}},
        {"platform": {**PLATFORM, "machines": []}},
        {"platform": {**PLATFORM, "machines": ["ppid:00"]}},
        {"platform": {**PLATFORM, "machines": "all"}},
        {"platform": {**PLATFORM, "min_crl_number": -1}},
        {"shape": "node"},
        {"max_runs": 0},
        {"max_runs": "1"},
        {"max_runs": True},
        {"not_after": "tomorrow"},
        {"not_before": "2026-04-01T00:00:00Z"},
        {"not_before": "now"},
        {"max_executors": 0},
        {"max_executors": 1.5},
        {"max_executors_total": 0},
        {"max_duration_s": 59},
        {"max_duration_s": 1 << 40},
        {"versions": {"first": 2, "last": 1}},
        {"versions": {"first": 0, "last": 1}},
        {"versions": {"first": 1}},
        {"versions": {"first": 1, "last": None, "step": 2}},
        {"access": "write", "versions": {"first": 1, "last": None}},
        {"access": "write", "writers": ["owner:" + "a1" * 32]},
        {"writers": []},
        {"writers": ["a1" * 32]},
        {"writers": ["run:" + "a1" * 32]},
        {"purpose": "two\nlines"},
        {"purpose": "\u001b[2J"},
        {"purpose": "x" * 501},
        {"roster": "x"},
        {"submitters": []},
        {"submitters": ["x"]},
    ],
)
def test_malformed_approvals_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(FormatError):
        approval(**changes)


@pytest.mark.parametrize("field", sorted(set(APPROVAL) - {"version", "max_runs", "not_after", "recipients"}))
def test_nothing_is_assumed_for_a_missing_field(field: str) -> None:
    with pytest.raises(FormatError):
        Approval.from_object({name: value for name, value in APPROVAL.items() if name != field})


@given(
    st.binary(max_size=60)
    | st.dictionaries(
        st.sampled_from(sorted(APPROVAL)), st.none() | st.integers() | st.text() | st.lists(st.text())
    ).map(lambda changes: json.dumps(APPROVAL | changes).encode())
)
def test_any_bytes_parse_or_raise_format_error(text: bytes) -> None:
    with contextlib.suppress(FormatError):
        Approval.from_json(text)


@pytest.mark.parametrize("machines", [PLATFORM["machines"], "any"])
def test_a_listed_machine_with_fresh_vendor_data_may_run_it(machines: object) -> None:
    approved = approval(hardware="real", platform={**PLATFORM, "machines": machines})
    claims = CLAIMS | MACHINE | {"x-ms-strongroom-hardware": "real"}
    assert refused_names(approved, claims=claims) == []
    assert Approval.from_json(approved.to_json()) == approved


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"x-ms-strongroom-machines": ["ppid:" + "ac" * 16]}, "machine"),
        ({"x-ms-strongroom-machines": []}, "machine"),
        ({"x-ms-strongroom-machines": "ppid:" + "ab" * 16}, "machine"),
        ({"x-ms-strongroom-machines": None}, "machine"),
        ({"x-ms-strongroom-tcb-evaluation-data-number": 16}, "x-ms-strongroom-tcb-evaluation-data-number"),
        ({"x-ms-strongroom-tcb-evaluation-data-number": True}, "x-ms-strongroom-tcb-evaluation-data-number"),
        ({"x-ms-strongroom-crl-number": 2}, "x-ms-strongroom-crl-number"),
        ({"x-ms-strongroom-crl-number": "3"}, "x-ms-strongroom-crl-number"),
    ],
)
def test_another_machine_or_older_vendor_data_is_refused(changed: dict[str, Any], name: str) -> None:
    approved = approval(platform=PLATFORM)
    assert refused_names(approved, claims=CLAIMS | MACHINE | changed) == [name]
    without = {key: value for key, value in (CLAIMS | MACHINE).items() if key not in changed}
    assert refused_names(approved, claims=without) == [name]


def test_everything_that_differs_is_said_at_once() -> None:
    claims = CLAIMS | MACHINE | {"x-ms-strongroom-machines": [], "x-ms-strongroom-crl-number": 0}
    names = refused_names(approval(platform=PLATFORM), claims={**claims, "x-ms-sgx-is-debuggable": True})
    assert names == ["machine", "x-ms-strongroom-crl-number", "x-ms-sgx-is-debuggable"]


def test_an_approval_says_in_words_which_machines() -> None:
    assert approval().machines == "any"
    assert approval(platform={**PLATFORM, "machines": "any"}).machines == "any"
    assert approval(platform=PLATFORM).machines == ", ".join(PLATFORM["machines"])


LEASE: dict[str, Any] = {
    "not_before": "2026-03-01T00:00:00Z",
    "max_executors": 4,
    "max_executors_total": 40,
    "max_duration_s": 3600,
    "versions": {"first": 2, "last": 3},
    "writers": ["owner:" + "a1" * 32, "application:" + "b2" * 32],
    "purpose": "monthly report, März",
    "roster": "f6" * 32,
}


def test_a_lease_with_every_limit_survives_its_canonical_form() -> None:
    assert Approval.from_json(approval(**LEASE).to_json()) == approval(**LEASE)


def test_what_an_older_approval_does_not_say_limits_nothing_more_than_it_did() -> None:
    old = approval()
    assert {name: getattr(old, name) for name in LEASE} == dict.fromkeys(LEASE) | {"purpose": ""}
    assert old.admits_version(10**6, writers=frozenset())
    assert list(executor_mismatches(old, in_run=10**6, in_all=10**6)) == []
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    assert list(validity_mismatches(old, now=NOW, opened_at=long_ago)) == []


def test_runs_are_opened_from_the_beginning_on() -> None:
    assert refused_names(approval(not_before="2026-03-01T12:00:00Z")) == []
    assert refused_names(approval(not_before="2026-03-01T12:00:01Z")) == ["time"]


@pytest.mark.parametrize(("seconds", "names"), [(3600, []), (3601, ["duration"])])
def test_a_run_lasts_so_long(seconds: int, names: list[str]) -> None:
    found = validity_mismatches(approval(max_duration_s=3600), now=NOW, opened_at=NOW - timedelta(seconds=seconds))
    assert [mismatch.name for mismatch in found] == names


@pytest.mark.parametrize(("in_run", "in_all", "count"), [(3, 39, 0), (4, 39, 1), (3, 40, 1), (4, 40, 2)])
def test_executors_are_counted_in_a_run_and_in_all(in_run: int, in_all: int, count: int) -> None:
    assert len(list(executor_mismatches(approval(**LEASE), in_run=in_run, in_all=in_all))) == count


def test_an_approval_whose_executors_are_used_up_opens_no_run() -> None:
    with pytest.raises(RefusedError) as refusal:
        authorize_run(
            approval(max_executors_total=1), ticket=TICKET, claims=CLAIMS, runs_opened=0, now=NOW, executors_joined=1
        )
    assert [mismatch.name for mismatch in refusal.value.mismatches] == ["executors"]


@pytest.mark.parametrize(
    ("versions", "admitted"),
    [({"first": 2, "last": 3}, {2, 3}), ({"first": 2, "last": 2}, {2}), ({"first": 3, "last": None}, {3, 4})],
)
def test_versions_are_a_range(versions: dict[str, int | None], admitted: set[int]) -> None:
    approved = approval(versions=versions)
    assert {number for number in range(1, 5) if approved.admits_version(number, writers=frozenset())} == admitted


def test_a_version_is_read_only_if_one_of_the_writers_wrote_it() -> None:
    approved = approval(writers=LEASE["writers"])
    assert approved.admits_version(1, writers=frozenset({"run:" + "c3" * 32, "application:" + "b2" * 32}))
    assert not approved.admits_version(1, writers=frozenset({"owner:" + "b2" * 32}))
    assert not approved.admits_version(1, writers=frozenset())
