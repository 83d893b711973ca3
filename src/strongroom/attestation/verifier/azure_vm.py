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
from strongroom.attestation.evidence.unverified import UnverifiedAzureVm, UnverifiedEvidence
from strongroom.attestation.verifier.roots import TrustedRoots
from strongroom.attestation.verifier.snp import verify_snp
from strongroom.attestation.verifier.tdx import verify_tdx
from strongroom.attestation.verifier.verified import VERIFIER, VerifiedSnp, VerifiedTdx, demand_verifier
from strongroom.base.errors import FormatError, Mismatch, VerificationError

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

    hardware_evidence: VerifiedSnp | VerifiedTdx
    hcl: HclReport
    tpm_quote: TpmQuote
    pcr_values: Mapping[int, bytes]
    runtime_data: bytes
    hardware: Literal["simulated", "real"]
    earliest_expiration: datetime
    made_by: InitVar[object]

    def __post_init__(self, made_by: object) -> None:
        demand_verifier(made_by)


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
    # 2. and 3.
    hardware = verify_hardware(hcl, evidence.td_quote, trusted_roots=trusted_roots, endorsements=endorsements, now=now)
    # 4.
    hcl.attestation_key.verify(evidence.tpm_quote, evidence.tpm_signature)
    pcr_values = verify_registers(quote, evidence.pcr_values)
    # 5.
    if quote.extra_data != hashlib.sha256(evidence.runtime_data).digest():
        raise VerificationError("the vTPM's quote does not bind this runtime data")
    if hcl.user_data not in (_NO_USER_DATA, hashlib.sha512(evidence.runtime_data).digest()):
        raise VerificationError("the hardware's report binds other user data than this runtime data")
    return VerifiedAzureVm(
        hardware_evidence=hardware,
        hcl=hcl,
        tpm_quote=quote,
        pcr_values=pcr_values,
        runtime_data=evidence.runtime_data,
        hardware=hardware.hardware,
        earliest_expiration=hardware.earliest_expiration,
        made_by=VERIFIER,
    )


def verify_hardware(
    hcl: HclReport,
    td_quote: bytes | None,
    *,
    trusted_roots: TrustedRoots,
    endorsements: SnpEndorsements | DcapEndorsements,
    now: datetime,
) -> VerifiedSnp | VerifiedTdx:
    """Verify what the hardware under a paravisor says, and that it stands for the paravisor's document.

    Args:
        hcl: The paravisor's document, and on SEV-SNP the report.
        td_quote: On TDX the quote; None on SEV-SNP.
        trusted_roots: The roots trusted here; empty refuses.
        endorsements: For SEV-SNP the certificates and the revocation list, for TDX the vendor's documents.
        now: The time of the check.

    Raises:
        FormatError: A part is malformed, or evidence and endorsements are not of one kind of hardware.
        UntrustedRootError: The evidence was made under another root.
        VerificationError: A signature does not hold, the host can read the VM's memory, or the hardware vouches for
            another document.
    """
    verified: VerifiedSnp | VerifiedTdx
    if hcl.kind == "snp" and isinstance(endorsements, SnpEndorsements) and td_quote is None:
        report = UnverifiedEvidence(kind="snp", quote=hcl.hardware_report, runtime_data=None)
        verified = verify_snp(report, trusted_roots=trusted_roots, endorsements=endorsements, now=now)
        report_data = verified.report.report_data
    elif hcl.kind == "tdx" and isinstance(endorsements, DcapEndorsements) and td_quote is not None:
        quote = UnverifiedEvidence(kind="tdx", quote=td_quote, runtime_data=None)
        verified = verify_tdx(quote, trusted_roots=trusted_roots, endorsements=endorsements, now=now)
        report_data = verified.quote.report.report_data
    else:
        raise FormatError(
            "the endorsements, or the quote beside the HCL report, are for other hardware than the report"
        )
    if report_data != hcl.report_data:
        raise VerificationError("the hardware does not vouch for the vTPM's key")
    return verified


def verify_registers(quote: TpmQuote, values: Sequence[bytes]) -> dict[int, bytes]:
    """Return the quoted registers' values by number.

    Raises:
        FormatError: More or fewer values than the quote covers, or of another size.
        VerificationError: The quote is of other values.
    """
    if len(values) != len(quote.pcrs) or any(len(value) != _SHA256_BYTES for value in values):
        raise FormatError("the values are not those of the registers that the vTPM quoted")
    digest = hashlib.sha256(b"".join(values)).digest()
    if digest != quote.pcr_digest:
        raise VerificationError(
            "the vTPM quoted other register values",
            mismatches=(Mismatch(name="pcr digest", expected=quote.pcr_digest.hex(), actual=digest.hex()),),
        )
    return dict(zip(quote.pcrs, values, strict=True))
