"""The steps of a verification, and that nothing passes which the verifier refuses."""

import functools
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from tests.support.amd import amd_bench
from tests.support.azure_guest import Cloud
from tests.support.platform import NOW, RUNTIME_DATA, Bench
from tests.support.simulated_guest import SimulatedGuest

from strongroom.attestation.endorsements.dcap import DcapEndorsements
from strongroom.attestation.evidence.azure_vtpm import HclKind, parse_hcl_report, parse_tpm_quote
from strongroom.attestation.evidence.dcap_quote import parse_sgx_quote, parse_tdx_quote
from strongroom.attestation.evidence.sgx_report import FLAG_DEBUG, FLAG_INIT, FLAG_MODE64BIT, SgxAttributes
from strongroom.attestation.evidence.snp_report import GuestPolicy, parse_snp_report
from strongroom.attestation.evidence.td_report import TdAttributes
from strongroom.attestation.evidence.unverified import UnverifiedAzureVm
from strongroom.attestation.inspection.anchors import Anchors, GivenEndorsements, GivenRevocations
from strongroom.attestation.inspection.files import (
    AttestedData,
    AzureVmFile,
    CertificatesFile,
    QuoteFile,
    SnpFile,
    TpmQuoteFile,
)
from strongroom.attestation.inspection.recognise import recognise
from strongroom.attestation.inspection.steps import Check, Ladder, Result, Verification
from strongroom.attestation.inspection.verify import verify_content
from strongroom.attestation.verifier import TrustedRoots
from strongroom.base.errors import FormatError, VerificationError
from strongroom.crypto import x509
from strongroom.simulation.azure_vm import SimulatedAzureVm

BENCH, AMD = Bench.new(), amd_bench()
TDX_ENDORSEMENTS = BENCH.platform.endorsements(now=NOW, tee="TDX")
RUNTIME = AttestedData(data=RUNTIME_DATA, kind="JSON")
VM_DATA = AttestedData(data=b'{"run":"1"}', kind="JSON")
VM = SimulatedAzureVm.create(AMD.amd)


def sgx(quote: bytes | None = None, *, runtime: AttestedData | None = RUNTIME, **changed: Any) -> QuoteFile:
    quote = quote or BENCH.quote(**changed)
    return QuoteFile(quote=parse_sgx_quote(quote), quote_bytes=quote, runtime=runtime)


def tdx(**changed: Any) -> QuoteFile:
    quote = BENCH.td_quote(**changed)
    return QuoteFile(quote=parse_tdx_quote(quote), quote_bytes=quote, runtime=RUNTIME)


def snp(report: bytes | None = None, **changed: Any) -> SnpFile:
    report = report or AMD.amd.sign(AMD.report(**changed))
    return SnpFile(report=parse_snp_report(report), report_bytes=report, runtime=RUNTIME)


def azure_vm(machine: SimulatedAzureVm = VM, **changed: Any) -> AzureVmFile:
    evidence = machine.evidence(VM_DATA.data)
    hcl = parse_hcl_report(evidence.hcl_report)
    td_quote = evidence.td_quote
    file = AzureVmFile(
        hcl=hcl,
        hcl_bytes=evidence.hcl_report,
        hardware=parse_snp_report(hcl.hardware_report) if hcl.kind == "snp" else None,
        td_quote=None if td_quote is None else QuoteFile(quote=parse_tdx_quote(td_quote), quote_bytes=td_quote),
        tpm=tpm_quote(evidence),
        runtime=VM_DATA,
    )
    return replace(file, **changed)


def td_vm(**changed: Any) -> AzureVmFile:
    return azure_vm(SimulatedAzureVm.create(BENCH.platform), **changed)


def tpm_quote(evidence: UnverifiedAzureVm) -> TpmQuoteFile:
    return TpmQuoteFile(
        quote=parse_tpm_quote(evidence.tpm_quote),
        quote_bytes=evidence.tpm_quote,
        signature=evidence.tpm_signature,
        pcr_values=evidence.pcr_values,
    )


def dcap_anchors(
    endorsements: DcapEndorsements | None = BENCH.endorsements, *, now: datetime = NOW, **changed: Any
) -> Anchors:
    source = None if endorsements is None else GivenEndorsements(endorsements)
    return replace(Anchors(roots=BENCH.trusted_roots, endorsements=source, now=now), **changed)


def snp_anchors(**changed: Any) -> Anchors:
    endorsements = AMD.endorsements()
    anchors = Anchors(
        roots=AMD.trusted_roots,
        certificates=x509.parse_pem_chain(endorsements.certificate_chain.encode()),
        revocations=GivenRevocations(bytes.fromhex(endorsements.crl)),
        now=NOW,
    )
    return replace(anchors, **changed)


def verified(content: Any, anchors: Anchors, runtime: AttestedData | None = None) -> Verification:
    return verify_content(content, anchors=anchors, runtime=runtime)


def step(verification: Verification, name: str) -> Check:
    (found,) = [check for check in verification.checks if check.name == name]
    return found


@pytest.mark.parametrize(
    ("content", "anchors", "kind"),
    [
        (sgx(), dcap_anchors(), "sgx"),
        (tdx(), dcap_anchors(TDX_ENDORSEMENTS), "tdxvm"),
        (snp(), snp_anchors(), "sevsnpvm"),
    ],
    ids=["sgx", "tdx", "snp"],
)
def test_verifies_good_evidence_and_tells_each_step(content: Any, anchors: Anchors, kind: str) -> None:
    found = verified(content, anchors)
    assert found.is_verified
    assert {check.result for check in found.checks} == {Result.HOLDS}
    assert (found.hardware, found.reasons, found.actions) == ("simulated", (), ())
    assert found.claims["x-ms-attestation-type"] == kind
    assert found.claims["x-ms-runtime"] == {"version": 1}


@pytest.mark.parametrize(
    ("content", "anchors"),
    [(azure_vm(), snp_anchors()), (td_vm(), dcap_anchors(TDX_ENDORSEMENTS))],
    ids=["snp", "tdx"],
)
def test_verifies_an_azure_vm(content: AzureVmFile, anchors: Anchors) -> None:
    found = verified(content, anchors)
    assert found.is_verified
    assert {check.result for check in found.checks} == {Result.HOLDS}


@pytest.mark.parametrize("content", [sgx(runtime=None), replace(tdx(), runtime=None), replace(snp(), runtime=None)])
def test_says_that_evidence_without_runtime_data_stands_for_nothing(content: Any) -> None:
    anchors = {"SnpFile": snp_anchors()}.get(type(content).__name__)
    if anchors is None:
        anchors = dcap_anchors(BENCH.endorsements if content.quote.header.tee_type == 0 else TDX_ENDORSEMENTS)
    found = verified(content, anchors)
    assert found.is_verified
    assert step(found, "binding").result is Result.NOT_CHECKED
    assert "x-ms-runtime" not in found.claims


def test_binary_runtime_data_become_held_data() -> None:
    data = AttestedData(data=RUNTIME_DATA, kind="Binary")
    assert verified(sgx(), dcap_anchors(), data).claims["x-ms-sgx-ehd"] == "eyJ2ZXJzaW9uIjoxfQ"


OTHER = AttestedData(data=b"{}", kind="JSON")
WATCHED, OPEN = TdAttributes(debug=True, sept_ve_disable=True), TdAttributes()
DEBUG = SgxAttributes(flags=FLAG_INIT | FLAG_MODE64BIT | FLAG_DEBUG, xfrm=3)


@pytest.mark.parametrize(
    ("content", "anchors", "runtime", "name", "mismatch"),
    [
        (sgx(), dcap_anchors(roots=TrustedRoots(roots=())), None, "certificates", "root"),
        (sgx(), dcap_anchors(now=NOW + timedelta(days=60)), None, "revocation", None),
        (sgx(), dcap_anchors(now=NOW - timedelta(days=60)), None, "certificates", None),
        (sgx(), dcap_anchors(TDX_ENDORSEMENTS), None, "signatures", "TCB info"),
        (sgx(), dcap_anchors(), OTHER, "binding", "report_data"),
        (sgx(attributes=DEBUG), dcap_anchors(), None, "launch", "attributes.DEBUG"),
        (tdx(td_attributes=WATCHED), dcap_anchors(TDX_ENDORSEMENTS), None, "launch", "td_attributes.debug"),
        (tdx(td_attributes=OPEN), dcap_anchors(TDX_ENDORSEMENTS), None, "launch", "td_attributes.sept_ve_disable"),
        (snp(), snp_anchors(roots=TrustedRoots(roots=())), None, "certificates", "root"),
        (snp(), snp_anchors(now=NOW + timedelta(days=400)), None, "revocation", None),
        (snp(policy=GuestPolicy(debug=True)), snp_anchors(), None, "launch", "policy.debug"),
        (snp(chip_id=bytes(range(64))), snp_anchors(), None, "signature", "chip id"),
        (snp(), snp_anchors(), OTHER, "binding", "report_data"),
        (azure_vm(), snp_anchors(), OTHER, "binding", "extra_data"),
    ],
)  # fmt: skip
def test_refuses_and_says_where_and_what_differed(
    content: Any, anchors: Anchors, runtime: AttestedData | None, name: str, mismatch: str | None
) -> None:
    found = verified(content, anchors, runtime)
    refused = step(found, name)
    assert not found.is_verified
    assert refused.result is Result.REFUSED
    assert refused.detail in found.reasons
    assert found.claims == {}
    assert mismatch is None or mismatch in {each.name for each in refused.mismatches}


def test_all_reasons_are_told_together() -> None:
    found = verified(sgx(attributes=DEBUG), dcap_anchors(now=NOW + timedelta(days=60)), OTHER)
    assert {check.name for check in found.checks if check.result is Result.REFUSED} == {
        "launch",
        "revocation",
        "binding",
    }
    assert len(found.reasons) == 3
    assert len(found.actions) == len(set(found.actions)) > 0


@pytest.mark.parametrize(
    ("condition", "name", "words"),
    [
        ({"pck_revoked": True}, "revocation", "revoked"),
        ({"tcb_status": "Revoked"}, "TCB", "revoked"),
    ],
)
def test_refuses_what_the_vendor_revoked(condition: dict[str, Any], name: str, words: str) -> None:
    bench = BENCH.with_condition(**condition)
    found = verified(sgx(), dcap_anchors(bench.endorsements))
    assert not found.is_verified
    assert words in step(found, name).detail


@pytest.mark.parametrize(
    ("content", "anchors", "words"),
    [
        (sgx(), dcap_anchors(None), "no collateral"),
        (snp(), snp_anchors(revocations=None), "no revocation list"),
        (snp(), snp_anchors(certificates=()), "needs the certificates"),
        (azure_vm(tpm=None), snp_anchors(), "no quote of the vTPM"),
        (azure_vm(runtime=None), snp_anchors(), "no runtime data"),
        (td_vm(td_quote=None), dcap_anchors(TDX_ENDORSEMENTS), "quote is missing"),
    ],
    ids=["collateral", "list", "certificates", "vtpm", "data", "td quote"],
)
def test_what_cannot_be_checked_is_refused(content: Any, anchors: Anchors, words: str) -> None:
    found = verified(content, anchors)
    assert not found.is_verified
    assert any(words in reason for reason in found.reasons)


def test_the_verifiers_refusal_is_the_verdict_where_every_step_holds() -> None:
    """dcap-qvl does not read SGX quotes of version 4."""
    found = verified(sgx(BENCH.platform.quote(BENCH.report(), version=4)), dcap_anchors())
    *steps, last = found.checks
    assert {check.result for check in steps} == {Result.HOLDS}
    assert (last.name, last.result) == ("verifiers", Result.REFUSED)
    assert not found.is_verified
    assert (found.claims, found.reasons) == ({}, (last.detail,))


def test_a_step_that_does_not_hold_is_a_refusal_whatever_the_verifier_says() -> None:
    def refuse() -> str:
        raise VerificationError("it does not hold")

    ladder = Ladder(NOW)
    ladder.step("a step", refuse)
    found = ladder.end(lambda: ({"a": "claim"}, "yes"))
    assert not found.is_verified
    assert (found.claims, found.reasons) == ({}, ("it does not hold",))


@pytest.mark.parametrize(
    ("content", "anchors", "claim"),
    [
        (sgx(attributes=DEBUG), dcap_anchors(), ("x-ms-sgx-is-debuggable", True)),
        (tdx(td_attributes=OPEN), dcap_anchors(TDX_ENDORSEMENTS), ("tdx_td_attributes_septve_disable", False)),
        (snp(policy=GuestPolicy(debug=True)), snp_anchors(), ("x-ms-sevsnpvm-is-debuggable", True)),
    ],
    ids=["sgx", "tdx", "snp"],
)
def test_what_is_not_safe_may_be_left_to_the_policy(content: Any, anchors: Anchors, claim: tuple[str, Any]) -> None:
    assert not verified(content, anchors).is_verified
    found = verify_content(content, anchors=anchors, runtime=None, refuse_unsafe=False)
    assert found.is_verified
    assert found.claims[claim[0]] is claim[1]
    assert step(found, "launch").result is Result.NOT_CHECKED
    assert "alone" in step(found, "verifiers").detail


@functools.cache
def simulated_guest(kind: HclKind) -> SimulatedGuest:
    return SimulatedGuest(cloud=Cloud.new(), kind=kind)


def verified_guest(guest: SimulatedGuest, **changed: Any) -> Verification:
    cloud = guest.cloud
    content = recognise(json.dumps(guest.info(**changed)).encode()).content
    anchors = Anchors(
        roots=cloud.trusted_roots,
        endorsements=GivenEndorsements(cloud.intel.endorsements(now=cloud.now, tee="TDX")),
        revocations=GivenRevocations(bytes.fromhex(cloud.snp_endorsements().crl)),
        now=cloud.now,
    )
    return verified(content, anchors)


@pytest.mark.parametrize("kind", ["snp", "tdx"])
def test_verifies_what_azures_own_client_sends(kind: HclKind) -> None:
    found = verified_guest(simulated_guest(kind))
    assert found.is_verified, found.reasons
    assert found.claims["x-ms-attestation-type"] == "azurevm"
    assert found.claims["x-ms-strongroom-runtime-data-attested"] is True
    assert {check.name for check in found.checks if check.result is not Result.HOLDS} == {"binding"}


@pytest.mark.parametrize("kind", ["snp", "tdx"])
def test_refuses_what_an_azure_guest_changed(kind: HclKind) -> None:
    guest, other = simulated_guest(kind), SimulatedGuest(cloud=simulated_guest(kind).cloud, kind=kind)
    for changed in ({"ClientPayload": {}}, {"TpmInfo": other.tpm_info()}, {"IsolationInfo": other.isolation()}):
        found = verified_guest(guest, **changed)
        assert not found.is_verified
        assert (found.claims, bool(found.reasons)) == ({}, True)


def test_refuses_one_machines_report_with_anothers_tpm() -> None:
    tpm = tpm_quote(SimulatedAzureVm.create(AMD.amd).evidence(VM_DATA.data))
    found = verified(azure_vm(tpm=tpm), snp_anchors())
    assert not found.is_verified
    assert step(found, "vTPM's quote").result is Result.REFUSED


def test_certificates_are_taken_in_any_order() -> None:
    anchors = snp_anchors()
    assert verified(snp(), replace(anchors, certificates=anchors.certificates[::-1])).is_verified
    assert verified(replace(snp(), chain_der=anchors.certificates), replace(anchors, certificates=())).is_verified


def test_refuses_files_that_hold_no_evidence() -> None:
    with pytest.raises(FormatError, match="no evidence"):
        verified(CertificatesFile(chain_der=(BENCH.platform.root_der,)), dcap_anchors())


@pytest.mark.parametrize("make", [sgx, tdx])
def test_every_outcome_has_a_form_for_programs(make: Callable[..., QuoteFile]) -> None:
    told: Any = verified(make(), dcap_anchors(None)).to_json()
    assert told["verified"] is False
    assert [check["name"] for check in told["checks"]] == [
        "certificates",
        "launch",
        "revocation",
        "signatures",
        "TCB",
        "binding",
        "verifiers",
    ]
