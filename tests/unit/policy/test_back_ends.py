"""What each attestation back end can express: the refusals, and the table against the claims that there are."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.support.amd import amd_bench
from tests.support.azure_guest import Cloud
from tests.support.platform import RUNTIME_DATA, Bench

from strongroom.attestation.claims import (
    azure_vm_claims,
    incoming_claims,
    initdata_claims,
    sgx_claims,
    snp_claims,
    tdx_claims,
)
from strongroom.attestation.evidence.initdata import parse_initdata, render_initdata
from strongroom.attestation.evidence.sgx_report import FLAG_KSS
from strongroom.attestation.verifier import verify_azure_vm
from strongroom.base.encoding import Json
from strongroom.base.errors import RefusedError
from strongroom.policy.back_ends import (
    TABLE,
    BackEnd,
    Demand,
    Requirements,
    TeeKind,
    back_ends_page,
    demand_supported,
)
from strongroom.simulation.azure_vm import SimulatedAzureVm

RUNTIME_CLAIMS = {"x-ms-runtime.nonces", "x-ms-runtime.application", "x-ms-sgx-collateral.quotehash"}
PLAIN = Requirements(tee=TeeKind.SGX, hardware="real", application="launch", hardware_ids="any")
EVERYTHING: dict[str, Any] = {
    "tcb_status": True,
    "min_tcb_evaluation_data_number": 17,
    "min_crl_number": 1,
    "no_migration": True,
    "registers": (7,),
    "audience": "key-service",
}


def refused(requirements: Requirements, back_end: BackEnd) -> set[str]:
    with pytest.raises(RefusedError) as error:
        demand_supported(requirements, back_end)
    return {mismatch.name for mismatch in error.value.mismatches}


@pytest.mark.parametrize("tee", [TeeKind.SGX, TeeKind.TDX, TeeKind.SNP])
@pytest.mark.parametrize("back_end", BackEnd)
def test_an_approval_of_any_real_hardware_is_enforceable_where_the_result_names_its_evidence(
    tee: TeeKind, back_end: BackEnd
) -> None:
    if (tee, back_end) in {(TeeKind.TDX, BackEnd.AZURE_ATTESTATION), (TeeKind.SNP, BackEnd.AZURE_ATTESTATION)}:
        assert refused(replace(PLAIN, tee=tee), back_end) == {Demand.EVIDENCE}
    else:
        demand_supported(replace(PLAIN, tee=tee), back_end)


@pytest.mark.parametrize("tee", TeeKind)
def test_only_ours_can_tell_hardware_apart(tee: TeeKind) -> None:
    listed = replace(PLAIN, tee=tee, application="runtime", hardware_ids=("ab",))
    demand_supported(listed, BackEnd.STRONGROOM)
    demand_supported(replace(listed, hardware="simulated"), BackEnd.STRONGROOM)
    assert Demand.HARDWARE_LIST in refused(listed, BackEnd.AZURE_ATTESTATION)
    assert Demand.SIMULATED_HARDWARE in refused(
        replace(listed, hardware="simulated", hardware_ids="any"), BackEnd.AZURE_ATTESTATION
    )


@pytest.mark.parametrize("back_end", BackEnd)
def test_an_empty_list_of_hardware_allows_nothing(back_end: BackEnd) -> None:
    assert Demand.HARDWARE_LIST in refused(replace(PLAIN, hardware_ids=()), back_end)


@pytest.mark.parametrize("tee", [TeeKind.AZURE_VM_SNP, TeeKind.AZURE_VM_TDX])
def test_confidential_vms_fix_no_application_at_launch(tee: TeeKind) -> None:
    demand_supported(replace(PLAIN, tee=tee, application="runtime"), BackEnd.STRONGROOM)
    assert refused(replace(PLAIN, tee=tee), BackEnd.STRONGROOM) == {Demand.LAUNCH_DIGEST}
    unattested = {Demand.NONCE, Demand.EVIDENCE, Demand.RUNTIME_DIGEST}
    assert refused(replace(PLAIN, tee=tee, application="runtime"), BackEnd.AZURE_ATTESTATION) == unattested


def test_a_refusal_names_everything_that_is_missing() -> None:
    asked = replace(PLAIN, hardware_ids=("ab",), **EVERYTHING)
    assert refused(asked, BackEnd.STRONGROOM) == {Demand.REGISTERS, Demand.AUDIENCE}
    assert refused(asked, BackEnd.AZURE_ATTESTATION) == {
        *(Demand.HARDWARE_LIST, Demand.TCB_STATUS, Demand.TCB_EVALUATION),
        *(Demand.CRL_NUMBER, Demand.REGISTERS, Demand.AUDIENCE),
    }


@pytest.mark.parametrize("tee", TeeKind)
@pytest.mark.parametrize("back_end", BackEnd)
def test_what_is_not_in_the_table_is_refused(tee: TeeKind, back_end: BackEnd) -> None:
    asked = replace(PLAIN, tee=tee, hardware_ids=("ab",), **EVERYTHING)
    assert refused(asked, back_end) == set(asked.demands()) - set(TABLE[back_end][tee])


def test_every_demand_can_be_asked_for() -> None:
    asked = {
        *replace(PLAIN, hardware_ids=("ab",), **EVERYTHING).demands(),
        *replace(PLAIN, hardware="simulated").demands(),
        *replace(PLAIN, application="document").demands(),
    }
    assert asked == set(Demand)


def test_the_page_is_the_tables(repo_root: Path) -> None:
    page = (repo_root / "docs" / "reference" / "back-ends.md").read_text(encoding="utf-8")
    assert page.startswith(back_ends_page())
    rows = [line for line in back_ends_page().splitlines() if line.startswith("| ")]
    assert len(rows) == len(BackEnd) * (2 + len(Demand))


# --- the table against what there is ---------------------------------------------------------------------------------


def azure_vm(kind: str) -> dict[str, Json]:
    cloud = Cloud.new()
    vm = SimulatedAzureVm.create(cloud.amd if kind == "snp" else cloud.intel)
    verified = verify_azure_vm(
        vm.evidence(RUNTIME_DATA),
        trusted_roots=cloud.trusted_roots,
        endorsements=cloud.endorsements("snp" if kind == "snp" else "tdx"),
        now=cloud.now,
    )
    return azure_vm_claims(verified)


INITDATA = render_initdata({}, application="a1" * 32)
POD = initdata_claims(parse_initdata(INITDATA), INITDATA)


def claims_of(tee: TeeKind) -> dict[str, Json]:
    match tee:
        case TeeKind.SGX:
            bench = Bench.new()
            attributes = bench.report().attributes
            attributes = replace(attributes, flags=attributes.flags | FLAG_KSS)
            quote = bench.quote(attributes=attributes)
            return sgx_claims(bench.verify(quote), runtime_data_type="JSON")
        case TeeKind.TDX:
            return tdx_claims(Bench.new().verify_td(), runtime_data_type="JSON") | POD
        case TeeKind.SNP:
            return snp_claims(amd_bench().verify(), runtime_data_type="JSON") | POD
        case TeeKind.AZURE_VM_SNP:
            return azure_vm("snp")
        case TeeKind.AZURE_VM_TDX:
            return azure_vm("tdx")


@pytest.mark.parametrize("tee", TeeKind)
def test_every_claim_in_our_table_is_made(tee: TeeKind) -> None:
    made = {claim.type for claim in incoming_claims(claims_of(tee))} | RUNTIME_CLAIMS
    named = {claim for claim in TABLE[BackEnd.STRONGROOM][tee].values() if " " not in claim}
    assert named <= made


def test_azure_is_credited_with_no_claim_of_ours() -> None:
    claims = {claim for tees in TABLE[BackEnd.AZURE_ATTESTATION].values() for claim in tees.values()}
    assert not {claim for claim in claims if "strongroom" in claim}
