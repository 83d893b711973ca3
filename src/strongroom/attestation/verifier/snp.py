"""Verification of SEV-SNP reports.

Source: AMD, SEV-SNP Firmware ABI (document 56860), "Attestation"; AMD, VCEK certificate and KDS specification (57230).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from strongroom.attestation.endorsements.snp import SnpEndorsements
from strongroom.attestation.evidence.amd_certificate import AmdCertificate, parse_amd_certificate
from strongroom.attestation.evidence.simulated import SIMULATED_HARDWARE
from strongroom.attestation.evidence.snp_report import Product, SnpReport, parse_snp_report, parse_tcb_version
from strongroom.attestation.evidence.unverified import UnverifiedEvidence
from strongroom.attestation.verifier.revocation import revocation_lists
from strongroom.attestation.verifier.roots import TrustedRoot, TrustedRoots
from strongroom.attestation.verifier.verified import VERIFIER, VerifiedSnp, demand_bound
from strongroom.base.errors import Mismatch, VerificationError, differences
from strongroom.crypto import x509

_CHAIN_LENGTH: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedReport:
    """A report whose signature holds; what its report data stands for is not checked yet.

    Attributes:
        report: The parsed report.
        certificate: What the signing key's certificate says.
        root: The root that the chain ends at.
        earliest_expiration: When the first of the certificates and lists used runs out.
        newest_signed: The latest time that one of them was signed at.
        crl_number: Of the root's revocation list.
    """

    report: SnpReport
    certificate: AmdCertificate
    root: TrustedRoot
    earliest_expiration: datetime
    newest_signed: datetime
    crl_number: int | None


def verify_snp(
    evidence: UnverifiedEvidence,
    *,
    trusted_roots: TrustedRoots,
    endorsements: SnpEndorsements,
    now: datetime,
    refuse_unsafe: bool = True,
) -> VerifiedSnp:
    """Verify an SEV-SNP report.

    1. Parse the report; refuse versions, algorithms and reserved bits that we do not know, and reports nobody signed.
    2. Check the signing key's chain up to a trusted root, and the root's revocation list, at `now`.
    3. Check that the certificate is of the key, the product, the chip and the TCB version that the report names.
    4. Check the key's signature over the report.
    5. Check that no TCB version in the report is newer than the one that runs.
    6. Refuse guests that may be debugged.
    7. Check that the report data is SHA-256 of the runtime data, if there are any, followed by 32 zero bytes.

    The caller MUST still appraise the claims (migration, VMPL, measurement, host data, TCB, chip) against an evidence
    policy, and check the nonce in the runtime data.

    Args:
        evidence: Report and runtime data as they arrived.
        trusted_roots: The roots trusted here; empty refuses.
        endorsements: The signing key's certificates and the root's revocation list.
        now: The time of the check.
        refuse_unsafe: False leaves the refusal of step 6 to the caller, who MUST demand that a policy names that claim
            (`demand_named`).

    Returns:
        The verified evidence.

    Raises:
        FormatError: Report or endorsements are malformed.
        UntrustedRootError: The signing key's chain ends at another root.
        VerificationError: One of the steps does not hold.
    """
    # 1. to 5.
    verified = verify_report(
        evidence.quote,
        trusted_roots=trusted_roots,
        chain_der=x509.parse_pem_chain(endorsements.certificate_chain.encode()),
        revocation=revocation_lists(endorsements.crl),
        now=now,
    )
    # 6.
    report, certificate = verified.report, verified.certificate
    if refuse_unsafe and report.policy.debug:
        raise VerificationError(
            "the evidence is of a guest that may be debugged, whose memory the host can read",
            action="Launch it without debug.",
        )
    # 7.
    demand_bound(report.report_data, runtime_data=evidence.runtime_data)
    return VerifiedSnp(
        report=report,
        runtime_data=evidence.runtime_data,
        crl_number=verified.crl_number,
        newest_signed=verified.newest_signed,
        product=certificate.product,
        tcb=certificate.tcb,
        csp_id=certificate.csp_id,
        hardware=verified.root.hardware,
        earliest_expiration=verified.earliest_expiration,
        endorsements=endorsements,
        made_by=VERIFIER,
    )


def verify_report(
    report_bytes: bytes,
    *,
    trusted_roots: TrustedRoots,
    chain_der: Sequence[bytes],
    revocation: x509.RevocationLists | None,
    now: datetime,
) -> VerifiedReport:
    """Verify a report alone: steps 1 to 5 of `verify_snp`. The caller MUST check what the report data stands for.

    Args:
        report_bytes: The report as it arrived.
        trusted_roots: The roots trusted here; empty refuses.
        chain_der: VCEK or VLEK, ASK or ASVK, ARK.
        revocation: The ARK's list. None leaves revocation unchecked: only for old reports whose list nobody kept.
        now: The time of the check.

    Returns:
        The verified report.

    Raises:
        FormatError: Report or certificates are malformed.
        UntrustedRootError: The signing key's chain ends at another root.
        VerificationError: One of the steps does not hold.
    """
    now = now.astimezone(UTC).replace(microsecond=0)
    # 1.
    report = parse_snp_report(report_bytes)
    if report.signing_key == "none":
        raise VerificationError("nobody signed the report", action="Enable the chip's signing key on this host.")
    # 2.
    if len(chain_der) != _CHAIN_LENGTH:
        raise VerificationError("the chain of an SEV-SNP signing key has three certificates")
    root = trusted_roots.find(chain_der[-1])
    chain = x509.verify_chain(
        chain_der,
        roots_der=[root.certificate_der],
        revocation=revocation,
        now=now,
        understood_in_root=SIMULATED_HARDWARE if root.simulated else None,
        leaf_is_listed=False,
    )
    # 3.
    certificate = parse_amd_certificate(chain.leaf_der)
    _check_certificate(report, certificate, authorities=chain_der[1:])
    # 4.
    x509.public_key(chain.leaf_der).verify(report.signed_bytes(), report.signature)
    # 5.
    _check_versions(report, certificate.product)
    return VerifiedReport(
        report=report,
        certificate=certificate,
        root=root,
        earliest_expiration=chain.not_after,
        newest_signed=chain.newest_signed,
        crl_number=chain.crl_numbers[0] if chain.crl_numbers else None,
    )


def _check_certificate(report: SnpReport, certificate: AmdCertificate, *, authorities: Sequence[bytes]) -> None:
    """Compare what report and certificate say; all differences are named."""
    product = certificate.product
    tcb = parse_tcb_version(report.reported_tcb, product=product)
    authority = f"SEV-{product}" if certificate.kind == "VCEK" else f"SEV-VLEK-{product}"
    found = {
        "signing key": (report.signing_key, certificate.kind),
        "issuer": (authority, x509.common_name(authorities[0])),
        "root": (f"ARK-{product}", x509.common_name(authorities[1])),
        "reported tcb": (str(tcb), str(certificate.tcb)),
    }
    if report.cpuid is not None:
        found["product"] = (report.cpuid.product, product)
    if certificate.hwid is not None:
        # A masked chip id is zero; then the certificate alone names the chip, and it must not be compared.
        hwid = bytes(len(certificate.hwid)) if report.mask_chip_key else certificate.hwid
        found["chip id"] = (report.chip_id[: len(hwid)].hex(), hwid.hex())
    mismatches = differences(found)
    if mismatches:
        raise VerificationError("the certificate is not of the key that signed the report", mismatches=mismatches)


def _check_versions(report: SnpReport, product: Product) -> None:
    """The firmware never reports, commits to or launched with more than what runs."""
    current = parse_tcb_version(report.current_tcb, product=product)
    others = {
        "reported tcb": report.reported_tcb,
        "committed tcb": report.committed_tcb,
        "launch tcb": report.launch_tcb,
    }
    mismatches = tuple(
        Mismatch(name=name, expected=f"at most {current}", actual=str(other))
        for name, other in ((name, parse_tcb_version(field, product=product)) for name, field in others.items())
        if not other.is_at_most(current)
    )
    if mismatches:
        raise VerificationError("the report names a newer TCB version than the one that runs", mismatches=mismatches)
