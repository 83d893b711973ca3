"""What each keeper of keys enforces: refusals, and the documentation's table."""

from pathlib import Path
from typing import Any

import pytest
from tests.unit.policy.test_approval import APPROVAL, PLATFORM

from strongroom.base.errors import RefusedError
from strongroom.policy.approval import MAX_RUNS, Approval, demand_enforceable
from strongroom.policy.back_ends import BackEnd
from strongroom.policy.key_back_ends import (
    TABLE,
    KeyBackEnd,
    KeyDemand,
    demand_key_back_end,
    is_azure_attestation,
    key_back_ends_section,
)

AZURE = "https://strongroom.weu.attest.azure.net"
VAULTS = [KeyBackEnd.AZURE_KEY_VAULT, KeyBackEnd.AZURE_MANAGED_HSM]
ANY_MACHINE: dict[str, Any] = {
    "hardware": "real",
    "platform": {"machines": "any", "min_tcb_evaluation_data_number": None, "min_crl_number": None},
}


def approval(back_end: KeyBackEnd, **changed: Any) -> Approval:
    """An approval that this back end enforces, but for what is changed."""
    of_vault = {} if back_end == KeyBackEnd.STRONGROOM else {"max_runs": MAX_RUNS, "not_after": None, **ANY_MACHINE}
    issuer = {} if back_end == KeyBackEnd.STRONGROOM else {"attestation_issuer": AZURE}
    return Approval.from_object({**APPROVAL, **of_vault, **issuer, "back_end": back_end.value, **changed})


def refused(made: Approval, back_end: KeyBackEnd) -> set[str]:
    with pytest.raises(RefusedError) as error:
        demand_key_back_end(made, back_end)
    assert error.value.action
    return {mismatch.name for mismatch in error.value.mismatches}


@pytest.mark.parametrize("back_end", KeyBackEnd)
def test_an_approval_that_states_no_more_than_the_back_end_enforces_passes(back_end: KeyBackEnd) -> None:
    demand_key_back_end(approval(back_end), back_end)


@pytest.mark.parametrize("back_end", VAULTS)
def test_a_purpose_is_no_limit(back_end: KeyBackEnd) -> None:
    demand_key_back_end(approval(back_end, purpose="a yearly report"), back_end)


@pytest.mark.parametrize("named", KeyBackEnd)
@pytest.mark.parametrize("back_end", KeyBackEnd)
def test_an_approval_is_for_the_back_end_that_it_names(named: KeyBackEnd, back_end: KeyBackEnd) -> None:
    if named != back_end:
        assert "back end" in refused(approval(named), back_end)


def test_a_key_service_takes_no_approval_for_a_vault() -> None:
    real = {**ANY_MACHINE, "platform": {**PLATFORM, "machines": "any"}}
    demand_enforceable(approval(KeyBackEnd.STRONGROOM, **real), BackEnd.STRONGROOM)
    with pytest.raises(RefusedError, match="vault"):
        demand_enforceable(approval(KeyBackEnd.AZURE_MANAGED_HSM, **real), BackEnd.STRONGROOM)


LIMITS: list[tuple[KeyDemand, dict[str, Any]]] = [
    (KeyDemand.MAX_RUNS, {"max_runs": MAX_RUNS - 1}),
    (KeyDemand.MAX_RUNS, {"max_runs": 1}),
    (KeyDemand.NOT_AFTER, {"not_after": "2026-03-31T00:00:00Z"}),
    (KeyDemand.MACHINES, {"platform": {**PLATFORM, "min_tcb_evaluation_data_number": None, "min_crl_number": None}}),
    (KeyDemand.LEAST_NUMBERS, {"platform": {**PLATFORM, "machines": "any", "min_crl_number": None}}),
    (KeyDemand.LEAST_NUMBERS, {"platform": {**PLATFORM, "machines": "any", "min_tcb_evaluation_data_number": None}}),
    (
        KeyDemand.LEAST_NUMBERS,
        {"platform": {"machines": "any", "min_tcb_evaluation_data_number": 0, "min_crl_number": None}},
    ),
    (KeyDemand.COLUMNS, {"columns": ["tip"]}),
    (KeyDemand.NOT_BEFORE, {"not_before": "2026-03-01T00:00:00Z"}),
    (KeyDemand.DURATION, {"max_duration_s": 3600}),
    (KeyDemand.EXECUTORS, {"max_executors": 2}),
    (KeyDemand.EXECUTORS, {"max_executors_total": 20}),
    (KeyDemand.SEVERAL, {"roster": "ab" * 32}),
    (KeyDemand.VERSIONS, {"versions": {"first": 1, "last": 3}}),
    (KeyDemand.WRITERS, {"writers": ["owner:" + "ab" * 32]}),
    (KeyDemand.SHAPES, {"shape": None, "shapes": ["pod"], "tees": ["snp"]}),
    (KeyDemand.SHAPES, {"shape": None, "shapes": ["process", "confidential-node"], "tees": ["snp"]}),
    (KeyDemand.WORKLOADS, {"workloads": [{"issuer": "https://k8s.example", "subject": "system:serviceaccount:a:b"}]}),
]


@pytest.mark.parametrize("back_end", VAULTS)
@pytest.mark.parametrize(("demand", "stated"), LIMITS)
def test_refuses_limits_that_nobody_enforces_at_a_vault(
    back_end: KeyBackEnd, demand: KeyDemand, stated: dict[str, Any]
) -> None:
    assert refused(approval(back_end, **stated), back_end) == {demand}


def test_refuses_whatever_an_approval_may_come_to_state() -> None:
    class Later(Approval):
        lease_count: int | None = None

    made = approval(KeyBackEnd.AZURE_MANAGED_HSM)
    later = Later(**made.model_dump())
    demand_key_back_end(later, KeyBackEnd.AZURE_MANAGED_HSM)
    assert refused(later.model_copy(update={"lease_count": 3}), KeyBackEnd.AZURE_MANAGED_HSM) == {KeyDemand.OTHER}


def test_key_vault_believes_azure_attestation_alone() -> None:
    ours = {"attestation_issuer": "https://attest.example"}
    assert refused(approval(KeyBackEnd.AZURE_KEY_VAULT, **ours), KeyBackEnd.AZURE_KEY_VAULT) == {
        KeyDemand.STRONGROOM_RESULTS
    }
    demand_key_back_end(approval(KeyBackEnd.AZURE_MANAGED_HSM, **ours), KeyBackEnd.AZURE_MANAGED_HSM)


def test_simulated_hardware_is_for_our_own_attestation_service() -> None:
    simulated = {"hardware": "simulated", "platform": None}
    ours = {**simulated, "attestation_issuer": "https://attest.example"}
    demand_key_back_end(approval(KeyBackEnd.AZURE_MANAGED_HSM, **ours), KeyBackEnd.AZURE_MANAGED_HSM)
    assert "hardware" in refused(approval(KeyBackEnd.AZURE_MANAGED_HSM, **simulated), KeyBackEnd.AZURE_MANAGED_HSM)
    assert KeyDemand.SIMULATED in refused(approval(KeyBackEnd.AZURE_KEY_VAULT, **ours), KeyBackEnd.AZURE_KEY_VAULT)


@pytest.mark.parametrize(
    ("url", "is_azures"),
    [
        (AZURE, True),
        ("https://a.weu.attest.azure.us", True),
        ("https://attest.azure.net.evil.example", False),
        ("https://evilattest.azure.net", False),
        ("https://127.0.0.1:9", False),
        ("https://a.attest.azure.net.", False),
        ("https://[", False),
    ],
)
def test_azure_attestation_is_known_by_its_domain(url: str, *, is_azures: bool) -> None:
    assert is_azure_attestation(url) is is_azures


def test_azure_attestation_is_not_asked_for_what_it_never_says() -> None:
    for back_end in VAULTS:
        demand_key_back_end(approval(back_end, tees=["sgx", "snp"]), back_end)
        assert refused(approval(back_end, tees=["sgx", "tdx"]), back_end) == {"x-ms-strongroom-migratable"}
    ours = {"attestation_issuer": "https://attest.example", "tees": ["tdx"]}
    demand_key_back_end(approval(KeyBackEnd.AZURE_MANAGED_HSM, **ours), KeyBackEnd.AZURE_MANAGED_HSM)


def test_our_key_service_enforces_everything_and_no_vault_more() -> None:
    assert set(TABLE[KeyBackEnd.STRONGROOM]) == set(KeyDemand)
    assert set(TABLE[KeyBackEnd.AZURE_KEY_VAULT]) < set(TABLE[KeyBackEnd.AZURE_MANAGED_HSM]) < set(KeyDemand)
    for weak in (
        KeyDemand.MAX_RUNS,
        KeyDemand.LOG,
        KeyDemand.MEMBERS,
        KeyDemand.REVOCATION_DURING,
        KeyDemand.KEK_STAYS,
    ):
        assert all(weak not in TABLE[vault] for vault in VAULTS)


def test_the_page_shows_each_demand_of_each_back_end(repo_root: Path) -> None:
    page = (repo_root / "docs" / "reference" / "back-ends.md").read_text(encoding="utf-8")
    section = key_back_ends_section()
    assert section in page
    for demand in KeyDemand:
        (row,) = [line for line in section.splitlines() if line.startswith(f"| {demand} |")]
        cells = [cell.strip() for cell in row.strip("|").split("|")][1:]
        assert [cell != "**no**" for cell in cells] == [demand in TABLE[each] for each in KeyBackEnd]
