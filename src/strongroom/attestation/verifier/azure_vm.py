"""Verification of Azure confidential VMs.

The hardware vouches for the paravisor's document, that for the vTPM's key, and that key for what the guest says.

Source: Azure confidential VM guest attestation; AMD SEV-SNP Firmware ABI; Intel TDX DCAP; TCG TPM 2.0 Library, Part 2.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass
from datetime import datetime
from typing import Final, Literal

from strongroom.attestation.endorsements.dcap import DcapEndorsements
from strongroom.attestation.endorsements.snp import SnpEndorsements
from strongroom.attestation.evidence.azure_vtpm import HclReport, TpmQuote, parse_hcl_report, parse_tpm_quote
from strongroom.attestation.evidence.td_report import TdReportBody
from strongroom.attestation.evidence.unverified import UnverifiedAzureVm
from strongroom.attestation.verifier.dcap import VerifiedQuote
from strongroom.attestation.verifier.roots import TrustedRoot, TrustedRoots
from strongroom.attestation.verifier.snp import VerifiedReport, verify_report
from strongroom.attestation.verifier.tdx import verify_tdx_quote
from strongroom.attestation.verifier.verified import VERIFIER, demand_verifier
from strongroom.base.encoding import from_hex
from strongroom.base.errors import FormatError, Mismatch, VerificationError
from strongroom.crypto import x509

_NO_USER_DATA: Final = bytes(64)
_SHA256_BYTES: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedAzureVm:
    """An Azure confidential VM whose every signature holds. Its claims MUST still be appraised against a policy.

    Attributes:
        hardware_evidence: The verified SEV-SNP report or TDX quote. Its measurements are those of the paravisor.
        hcl: The paravisor's report: VM configuration, the guest's user data.
        tpm_quote: The vTPM's quote.
        pcr_values: The quoted registers' values by number.
        runtime_data: The exact bytes that the quote binds.
        hardware: "simulated" protects nothing.
        earliest_expiration: When the first of the certificates, lists and documents used runs out.
    """

    hardware_evidence: VerifiedReport | VerifiedQuote[TdReportBody]
    hcl: HclReport
    tpm_quote: TpmQuote
    pcr_values: Mapping[int, bytes]
    runtime_data: bytes
    hardware: Literal["simulated", "real"]
    earliest_expiration: datetime
    made_by: InitVar[object]

    def __post_init__(self, made_by: object) -> None:
        demand_verifier(made_by)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hardware:
    """The hardware's evidence, verified, with what both kinds of it have."""

    evidence: VerifiedReport | VerifiedQuote[TdReportBody]
    report_data: bytes
    root: TrustedRoot
    earliest_expiration: datetime


def verify_azure_vm(
    evidence: UnverifiedAzureVm,
    *,
    trusted_roots: TrustedRoots,
    endorsements: SnpEndorsements | DcapEndorsements,
    now: datetime,
) -> VerifiedAzureVm:
    """Verify the evidence of an Azure confidential VM.

    1. Parse HCL report and quote.
    2. Verify the hardware's evidence: the SEV-SNP report inside, or the TDX quote beside the HCL report.
    3. Check that its report data stands for the paravisor's document, which names the vTPM's key (AK).
    4. Check the AK's signature over the quote, and that the quote stands for exactly the given register values.
    5. Check that the quote's nonce is SHA-256 of the runtime data, and that the guest's user data, if it gave any, is
       SHA-512 of them.

    The caller MUST still appraise the claims (measurement of the paravisor, VM configuration, registers, TCB) against
    an evidence policy, and check the nonce in the runtime data.

    Args:
        evidence: As it arrived.
        trusted_roots: The roots trusted here; empty refuses.
        endorsements: For SEV-SNP the certificates and the revocation list, for TDX the vendor's documents.
        now: The time of the check.

    Returns:
        The verified evidence.

    Raises:
        FormatError: A part is malformed, or the endorsements are for other hardware.
        UntrustedRootError: The hardware's evidence was made under another root.
        VerificationError: One of the steps does not hold.

    Source: Azure confidential VM guest attestation; TCG TPM 2.0 Library, Part 2.
    """
    # 1.
    hcl, quote = parse_hcl_report(evidence.hcl_report), parse_tpm_quote(evidence.tpm_quote)
    # 2.
    hardware = _verify_hardware(hcl, evidence, trusted_roots=trusted_roots, endorsements=endorsements, now=now)
    # 3.
    if hardware.report_data != hcl.report_data:
        raise VerificationError("the hardware does not vouch for the vTPM's key")
    # 4.
    hcl.attestation_key.verify(evidence.tpm_quote, evidence.tpm_signature)
    pcr_values = _registers(quote, evidence.pcr_values)
    # 5.
    if quote.extra_data != hashlib.sha256(evidence.runtime_data).digest():
        raise VerificationError("the vTPM's quote does not bind this runtime data")
    if hcl.user_data not in (_NO_USER_DATA, hashlib.sha512(evidence.runtime_data).digest()):
        raise VerificationError("the hardware's report binds other user data than this runtime data")
    return VerifiedAzureVm(
        hardware_evidence=hardware.evidence,
        hcl=hcl,
        tpm_quote=quote,
        pcr_values=pcr_values,
        runtime_data=evidence.runtime_data,
        hardware=hardware.root.hardware,
        earliest_expiration=hardware.earliest_expiration,
        made_by=VERIFIER,
    )


def _verify_hardware(
    hcl: HclReport,
    evidence: UnverifiedAzureVm,
    *,
    trusted_roots: TrustedRoots,
    endorsements: SnpEndorsements | DcapEndorsements,
    now: datetime,
) -> _Hardware:
    if hcl.kind == "snp" and isinstance(endorsements, SnpEndorsements) and evidence.td_quote is None:
        verified = verify_report(
            hcl.hardware_report,
            trusted_roots=trusted_roots,
            chain_der=x509.parse_pem_chain(endorsements.certificate_chain.encode()),
            revocation=x509.RevocationLists([from_hex(endorsements.crl)]),
            now=now,
        )
        if verified.report.policy.debug:
            raise VerificationError("the evidence is of a VM that may be debugged, whose memory the host can read")
        return _Hardware(
            evidence=verified,
            report_data=verified.report.report_data,
            root=verified.root,
            earliest_expiration=verified.earliest_expiration,
        )
    if hcl.kind == "tdx" and isinstance(endorsements, DcapEndorsements) and evidence.td_quote is not None:
        quote = verify_tdx_quote(evidence.td_quote, trusted_roots=trusted_roots, endorsements=endorsements, now=now)
        return _Hardware(
            evidence=quote,
            report_data=quote.quote.report.report_data,
            root=quote.platform.root,
            earliest_expiration=quote.platform.earliest_expiration,
        )
    raise FormatError("the endorsements, or the quote beside the HCL report, are for other hardware than the report")


def _registers(quote: TpmQuote, values: Sequence[bytes]) -> dict[int, bytes]:
    if len(values) != len(quote.pcrs) or any(len(value) != _SHA256_BYTES for value in values):
        raise FormatError("the values are not those of the registers that the vTPM quoted")
    digest = hashlib.sha256(b"".join(values)).digest()
    if digest != quote.pcr_digest:
        raise VerificationError(
            "the vTPM quoted other register values",
            mismatches=(Mismatch(name="pcr digest", expected=quote.pcr_digest.hex(), actual=digest.hex()),),
        )
    return dict(zip(quote.pcrs, values, strict=True))
