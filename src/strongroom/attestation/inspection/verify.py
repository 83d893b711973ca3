"""Verification of what a file holds, told step by step.

The verdict is the verifier's own (`attestation.verifier`): nothing counts as verified where it raised. The steps beside
it run the verifier's parts one by one, so that a refusal names everything that does not hold, not only the first thing.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final

from strongroom.attestation.claims import (
    RuntimeDataType,
    azure_guest_claims,
    azure_vm_claims,
    sgx_claims,
    snp_claims,
    tdx_claims,
)
from strongroom.attestation.endorsements.dcap import DcapEndorsements, Tee
from strongroom.attestation.endorsements.snp import SnpEndorsements
from strongroom.attestation.evidence.dcap_quote import SgxQuote, TdxQuote
from strongroom.attestation.evidence.pck import pck_chain, platform_kind
from strongroom.attestation.evidence.sgx_report import SgxReportBody
from strongroom.attestation.evidence.snp_report import SnpReport
from strongroom.attestation.evidence.td_report import TdReportBody
from strongroom.attestation.evidence.unverified import UnverifiedAzureVm, UnverifiedEvidence
from strongroom.attestation.inspection.anchors import Anchors
from strongroom.attestation.inspection.files import AttestedData, AzureVmFile, Content, QuoteFile, SnpFile, TpmQuoteFile
from strongroom.attestation.inspection.steps import Ladder, Verification, demand_equal
from strongroom.attestation.verifier import (
    TrustedRoots,
    verify_azure_guest,
    verify_azure_vm,
    verify_sgx,
    verify_snp,
    verify_tdx,
)
from strongroom.attestation.verifier.dcap import OUR_VERIFIER, VerifiedPlatform, verify_platform
from strongroom.attestation.verifier.sgx import demand_safe_enclave
from strongroom.attestation.verifier.snp import verify_report
from strongroom.attestation.verifier.tcb import find_tcb
from strongroom.attestation.verifier.tdx import demand_safe_domain
from strongroom.base.encoding import Json, from_hex
from strongroom.base.errors import (
    FormatError,
    Mismatch,
    NotFoundError,
    StrongroomError,
    VerificationError,
)
from strongroom.crypto import x509

_SNP_CHAIN: Final = 3
_VTPM_PATH: Final = "hardware ← paravisor's document ← vTPM's key ← vTPM's quote"
_NO_TPM_QUOTE: Final = "the file holds no quote of the vTPM: nothing fresh is signed"
_NO_TD_QUOTE: Final = "nobody signed the TDREPORT: its quote is missing (tdQuote)"
_NO_RUNTIME: Final = "no runtime data were given: there is nothing that the vTPM's quote could stand for"


def verify_content(
    content: Content, *, anchors: Anchors, runtime: AttestedData | None, refuse_unsafe: bool = True
) -> Verification:
    """Verify evidence at a stated time, and tell each step.

    1. Run the verifier's parts one by one, and note what each found.
    2. Run the verifier itself on the evidence as it arrived: this alone is the verdict.

    Args:
        content: What the file holds.
        anchors: Roots, endorsements, revocation lists and the time.
        runtime: What the evidence should stand for; None takes what the file gives, if anything.
        refuse_unsafe: False leaves it to the caller to demand that a policy names what is not safe (`demand_named`).

    Returns:
        The steps and the verdict; a refusal is no error here.

    Raises:
        FormatError: The file holds no evidence, but something that is only looked at.
    """
    match content:
        case QuoteFile():
            return _verify_quote(content, anchors, runtime or content.runtime, refuse_unsafe=refuse_unsafe)
        case SnpFile():
            return _verify_snp(content, anchors, runtime or content.runtime, refuse_unsafe=refuse_unsafe)
        case AzureVmFile():
            return _verify_azure_vm(content, anchors, runtime or content.runtime)
        case _:
            raise FormatError(
                "the file holds no evidence that hardware signed",
                action="Look at it with: strongroom evidence inspect FILE",
            )


# --- DCAP ------------------------------------------------------------------------------------------------------------


def _verify_quote(
    file: QuoteFile, anchors: Anchors, runtime: AttestedData | None, *, refuse_unsafe: bool
) -> Verification:
    ladder, quote = Ladder(anchors.now), file.quote
    roots = _quote_steps(ladder, quote, anchors, refuse_unsafe=refuse_unsafe)
    ladder.binding(quote.report.report_data, runtime)
    kind: RuntimeDataType = "Binary" if runtime is None else runtime.kind
    is_sgx = isinstance(quote.report, SgxReportBody)
    evidence = UnverifiedEvidence(
        kind="sgx" if is_sgx else "tdx",
        quote=file.quote_bytes,
        runtime_data=None if runtime is None else runtime.data,
    )

    def verify() -> tuple[Mapping[str, Json], str]:
        endorsements = _endorsements(quote, anchors)
        if is_sgx:
            sgx = verify_sgx(
                evidence,
                trusted_roots=roots,
                endorsements=endorsements,
                now=anchors.now,
                refuse_unsafe=refuse_unsafe,
            )
            return sgx_claims(sgx, runtime_data_type=kind), _decided(sgx.verifiers)
        tdx = verify_tdx(
            evidence, trusted_roots=roots, endorsements=endorsements, now=anchors.now, refuse_unsafe=refuse_unsafe
        )
        return tdx_claims(tdx, runtime_data_type=kind), _decided(tdx.verifiers)

    return ladder.end(verify)


def _decided(verifiers: Sequence[str]) -> str:
    if len(verifiers) > 1:
        return f"{' and '.join(verifiers)} found the same"
    return f"{verifiers[0]} alone: no other verifier reads such evidence"


def _quote_steps(
    ladder: Ladder, quote: SgxQuote | TdxQuote, anchors: Anchors, *, refuse_unsafe: bool = True
) -> TrustedRoots:
    """Check all of a quote but what it stands for; return the roots that it was checked with."""
    try:
        chain = pck_chain(quote)
        roots = anchors.trusted(chain[-1], vendor="Intel")
    except StrongroomError as error:
        ladder.failed("certificates", error)
        return anchors.roots
    ladder.chain(chain, roots, leaf_is_listed=True)
    ladder.launch(lambda: _launch(quote), refuse_unsafe=refuse_unsafe)

    def lists() -> Sequence[bytes]:
        endorsements = _endorsements(quote, anchors)
        return [from_hex(endorsements.root_ca_crl.lower()), from_hex(endorsements.pck_crl.lower())]

    ladder.revocation(chain, roots, lists, leaf_is_listed=True)
    found: list[VerifiedPlatform] = []

    def signatures() -> str:
        endorsements = _endorsements(quote, anchors)
        found.append(verify_platform(quote, trusted_roots=roots, endorsements=endorsements, now=ladder.now))
        return "PCK ← quoting enclave ← attestation key ← quote; TCB info and QE identity are the vendor's"

    ladder.step("signatures", signatures)
    if found:
        ladder.step("TCB", lambda: _tcb(quote, found[0]))
    else:
        ladder.note("TCB", "not reached: see the steps before")
    return roots


def _launch(quote: SgxQuote | TdxQuote) -> str:
    """Check what makes an enclave or trust domain open to its host."""
    match quote.report:
        case SgxReportBody() as report:
            demand_safe_enclave(report)
            return "not a debug enclave"
        case TdReportBody(td_attributes=td_attributes):
            demand_safe_domain(td_attributes)
            return "not under debug; pages cannot be taken away unnoticed; it cannot be moved"


def _tcb(quote: SgxQuote | TdxQuote, platform: VerifiedPlatform) -> str:
    report = quote.report
    tcb = find_tcb(
        platform.pck,
        platform.tcb_info,
        qe_svn=quote.signature.qe_report.isv_svn,
        qe_identity=platform.qe_identity,
        td_report=report if isinstance(report, TdReportBody) else None,
    )
    advisories = ", ".join(tcb.advisory_ids) or "no advisories"
    number = platform.tcb_info.tcb_evaluation_data_number
    return f"{tcb.status}; {advisories}; level of {tcb.tcb_date}; tcbEvaluationDataNumber {number}"


def _endorsements(quote: SgxQuote | TdxQuote, anchors: Anchors) -> DcapEndorsements:
    if anchors.endorsements is None:
        raise NotFoundError(
            "there is no collateral: revocation, signatures and TCB cannot be checked",
            action="Give the collateral of this platform family.",
        )
    kind = platform_kind(quote)
    tee: Tee = "SGX" if isinstance(quote.report, SgxReportBody) else "TDX"
    return anchors.endorsements.get(fmspc=kind.fmspc, ca=kind.ca, tee=tee)


# --- SEV-SNP ---------------------------------------------------------------------------------------------------------


def _verify_snp(file: SnpFile, anchors: Anchors, runtime: AttestedData | None, *, refuse_unsafe: bool) -> Verification:
    ladder = Ladder(anchors.now)
    _snp_steps(ladder, file, anchors, refuse_unsafe=refuse_unsafe)
    ladder.binding(file.report.report_data, runtime)
    kind: RuntimeDataType = "Binary" if runtime is None else runtime.kind

    def verify() -> tuple[Mapping[str, Json], str]:
        chain = _snp_chain(file.chain_der, anchors)
        verified = verify_snp(
            UnverifiedEvidence(
                kind="snp", quote=file.report_bytes, runtime_data=None if runtime is None else runtime.data
            ),
            trusted_roots=anchors.trusted(chain[-1], vendor="AMD"),
            endorsements=_snp_endorsements(chain, anchors),
            now=anchors.now,
            refuse_unsafe=refuse_unsafe,
        )
        return snp_claims(verified, runtime_data_type=kind), _decided(OUR_VERIFIER)

    return ladder.end(verify)


def _snp_steps(ladder: Ladder, file: SnpFile, anchors: Anchors, *, refuse_unsafe: bool = True) -> None:
    """Check all of a report but what it stands for."""
    try:
        chain = _snp_chain(file.chain_der, anchors)
        roots = anchors.trusted(chain[-1], vendor="AMD")
    except StrongroomError as error:
        ladder.failed("certificates", error)
        return
    ladder.chain(chain, roots, leaf_is_listed=False)
    ladder.launch(lambda: _snp_launch(file.report), refuse_unsafe=refuse_unsafe)
    ladder.revocation(chain, roots, lambda: [_snp_crl(chain, anchors)], leaf_is_listed=False)

    def signature() -> str:
        found = verify_report(file.report_bytes, trusted_roots=roots, chain_der=chain, revocation=None, now=ladder.now)
        certificate = found.certificate
        return f"by the {certificate.kind} of this {certificate.product} at the reported TCB {certificate.tcb}"

    ladder.step("signature", signature)


def _snp_launch(report: SnpReport) -> str:
    if report.policy.debug:
        raise VerificationError(
            "the evidence is of a guest that may be debugged, whose memory the host can read",
            mismatches=(Mismatch(name="policy.debug", expected="false", actual="true"),),
        )
    return "the guest may not be debugged"


def _snp_chain(chain_der: Sequence[bytes], anchors: Anchors) -> tuple[bytes, ...]:
    """Return the signing key's chain: what came with the report, completed by what was given, leaf first."""
    found = {each: x509.common_name(each) for each in (*chain_der, *anchors.certificates)}
    chain = tuple(sorted(found, key=lambda each: _place(found[each])))
    if len(chain) != _SNP_CHAIN:
        raise NotFoundError(
            f"the report needs the certificates of its signing key (VCEK or VLEK, ASK or ASVK, ARK); "
            f"there are {len(chain)}",
            action="Give exactly these three, in any order.",
        )
    return chain


def _place(common_name: str) -> int:
    if common_name in {"SEV-VCEK", "SEV-VLEK"}:
        return 0
    return 2 if common_name.startswith("ARK-") else 1


def _snp_crl(chain: Sequence[bytes], anchors: Anchors) -> bytes:
    if anchors.revocations is None:
        raise NotFoundError(
            "there is no revocation list of the report's root: revocation cannot be checked",
            action="Give the vendor's revocation list of that root.",
        )
    return anchors.revocations.crl(chain[-1])


def _snp_endorsements(chain: Sequence[bytes], anchors: Anchors) -> SnpEndorsements:
    return SnpEndorsements(certificate_chain="".join(map(x509.to_pem, chain)), crl=_snp_crl(chain, anchors).hex())


# --- Azure's confidential VMs ----------------------------------------------------------------------------------------


def _verify_azure_vm(file: AzureVmFile, anchors: Anchors, runtime: AttestedData | None) -> Verification:
    ladder = Ladder(anchors.now)
    if file.hardware is not None:
        report = SnpFile(report=file.hardware, report_bytes=file.hcl.hardware_report, chain_der=file.chain_der)
        _snp_steps(ladder, report, anchors)
        ladder.step("paravisor", lambda: _paravisor(file, _report_data(file)))
    elif file.td_quote is not None:
        _quote_steps(ladder, file.td_quote.quote, anchors)
        ladder.step("paravisor", lambda: _paravisor(file, _report_data(file)))
    else:
        ladder.note("certificates", _NO_TD_QUOTE)
    _tpm_steps(ladder, file, runtime)
    return ladder.end(lambda: _verify_vm(file, anchors, runtime))


def _report_data(file: AzureVmFile) -> bytes:
    if file.hardware is not None:
        return file.hardware.report_data
    return b"" if file.td_quote is None else file.td_quote.quote.report.report_data


def _paravisor(file: AzureVmFile, report_data: bytes) -> str:
    demand_equal(
        "the hardware does not vouch for the vTPM's key",
        name="report_data",
        expected=file.hcl.report_data,
        actual=report_data,
    )
    return "report_data stands for the paravisor's document, which names the vTPM's key"


def _tpm_steps(ladder: Ladder, file: AzureVmFile, runtime: AttestedData | None) -> None:
    tpm = file.tpm
    if tpm is None:
        ladder.note("vTPM's quote", _NO_TPM_QUOTE)
        return

    def signature() -> str:
        file.hcl.attestation_key.verify(tpm.quote_bytes, tpm.signature)
        return f"by the key that the paravisor names; registers {', '.join(map(str, tpm.quote.pcrs))}"

    ladder.step("vTPM's quote", signature)
    if file.guest is not None:
        ladder.note("binding", "what the vTPM attests of the client payload, the claims say")
    elif runtime is None:
        ladder.note("binding", _NO_RUNTIME)
    else:
        ladder.step("binding", lambda: _nonce(tpm, runtime))


def _nonce(tpm: TpmQuoteFile, runtime: AttestedData) -> str:
    demand_equal(
        "the vTPM's quote does not bind this runtime data",
        name="extra_data",
        expected=hashlib.sha256(runtime.data).digest(),
        actual=tpm.quote.extra_data,
    )
    return "the quote's nonce is SHA-256 of the runtime data"


def _verify_vm(file: AzureVmFile, anchors: Anchors, runtime: AttestedData | None) -> tuple[Mapping[str, Json], str]:
    if file.tpm is None:
        raise NotFoundError(_NO_TPM_QUOTE, action="Give the request that the guest sends: hclReport, tpmQuote, …")
    if file.hardware is None and file.td_quote is None:
        raise NotFoundError(_NO_TD_QUOTE)
    endorsements: SnpEndorsements | DcapEndorsements
    if file.td_quote is not None:
        roots = anchors.trusted(pck_chain(file.td_quote.quote)[-1], vendor="Intel")
        endorsements = _endorsements(file.td_quote.quote, anchors)
    else:
        chain = _snp_chain(file.chain_der, anchors)
        roots, endorsements = anchors.trusted(chain[-1], vendor="AMD"), _snp_endorsements(chain, anchors)
    if file.guest is not None:
        guest = verify_azure_guest(file.guest, trusted_roots=roots, endorsements=endorsements, now=anchors.now)
        return azure_guest_claims(guest), f"{_VTPM_PATH}, key to answer to"
    if runtime is None:
        raise NotFoundError(_NO_RUNTIME)
    verified = verify_azure_vm(
        UnverifiedAzureVm(
            hcl_report=file.hcl_bytes,
            td_quote=None if file.td_quote is None else file.td_quote.quote_bytes,
            tpm_quote=file.tpm.quote_bytes,
            tpm_signature=file.tpm.signature,
            pcr_values=file.tpm.pcr_values,
            runtime_data=runtime.data,
        ),
        trusted_roots=roots,
        endorsements=endorsements,
        now=anchors.now,
    )
    return azure_vm_claims(verified), f"{_VTPM_PATH} ← runtime data"
