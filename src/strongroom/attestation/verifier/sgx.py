"""Verification of SGX evidence.

Source: Intel SGX DCAP ECDSA Quote Library Reference, "Quote verification"; Azure Attestation's rule for runtime data.
"""

from datetime import UTC, datetime
from typing import Final

from strongroom.attestation.endorsements.dcap import DcapEndorsements
from strongroom.attestation.evidence.dcap_quote import parse_sgx_quote
from strongroom.attestation.evidence.sgx_report import SgxReportBody
from strongroom.attestation.evidence.unverified import UnverifiedEvidence
from strongroom.attestation.verifier.dcap import BOTH_VERIFIERS, OUR_VERIFIER, VerifiedQuote, bind, verify_platform
from strongroom.attestation.verifier.roots import TrustedRoots
from strongroom.attestation.verifier.second_opinion import require_agreement
from strongroom.attestation.verifier.tcb import find_tcb
from strongroom.attestation.verifier.verified import VerifiedSgx
from strongroom.base.errors import Mismatch, VerificationError

_READ_BY_BOTH: Final = 3


def verify_sgx(
    evidence: UnverifiedEvidence,
    *,
    trusted_roots: TrustedRoots,
    endorsements: DcapEndorsements,
    now: datetime,
    refuse_unsafe: bool = True,
) -> VerifiedSgx:
    """Verify SGX evidence.

    1. Parse the quote; refuse versions and key types we do not know, debug enclaves, and quotes that only one of the
       two verifiers reads (debug, version 4 and 5).
    2. Check platform and quoting enclave, and their signatures over the quote (`verify_platform`).
    3. Find the TCB level of platform and quoting enclave; refuse unknown and revoked ones.
    4. Let dcap-qvl verify the same, where it reads such evidence, and demand that it found the same.
    5. Check that the quote's report data is SHA-256 of the runtime data, followed by 32 zero bytes.

    The caller MUST still appraise the claims (TCB status, MRENCLAVE, product, configuration, hardware) against an
    evidence policy, and check the nonce in the runtime data.

    Args:
        evidence: Quote and runtime data as they arrived.
        trusted_roots: The roots trusted here; empty refuses.
        endorsements: The vendor's documents for the quote's platform family.
        now: The time of the check.
        refuse_unsafe: False leaves the refusals of step 1 to the caller, who MUST demand that a policy names each of
            these claims (`demand_named`).

    Returns:
        The verified evidence.

    Raises:
        FormatError: Quote or endorsements are malformed.
        UntrustedRootError: The quote was made under another root.
        VerificationError: One of the steps does not hold.
    """
    # 1. to 4.
    verified = verify_sgx_quote(
        evidence.quote,
        trusted_roots=trusted_roots,
        endorsements=endorsements,
        now=now,
        refuse_unsafe=refuse_unsafe,
    )
    # 5.
    return bind(verified, evidence, endorsements=endorsements)


def verify_sgx_quote(
    quote_bytes: bytes,
    *,
    trusted_roots: TrustedRoots,
    endorsements: DcapEndorsements,
    now: datetime,
    refuse_unsafe: bool = True,
) -> VerifiedQuote[SgxReportBody]:
    """Verify a quote alone: steps 1 to 4 of `verify_sgx`. The caller MUST check what the report data stands for.

    Args:
        quote_bytes: The quote as it arrived.
        trusted_roots: The roots trusted here; empty refuses.
        endorsements: The vendor's documents for the quote's platform family.
        now: The time of the check.
        refuse_unsafe: False leaves the refusals of step 1 to the caller, who MUST demand that a policy names each of
            these claims (`demand_named`).

    Returns:
        The verified quote.

    Raises:
        FormatError: Quote or endorsements are malformed.
        UntrustedRootError: The quote was made under another root.
        VerificationError: One of the steps does not hold.
    """
    now = now.astimezone(UTC).replace(microsecond=0)
    # 1.
    quote = parse_sgx_quote(quote_bytes)
    read_by_both = quote.header.version == _READ_BY_BOTH and not quote.report.attributes.debug
    if refuse_unsafe and quote.header.version != _READ_BY_BOTH:
        raise VerificationError(
            "only SGX quotes of version 3 are read by both verifiers", action="Quote with version 3."
        )
    if refuse_unsafe:
        demand_safe_enclave(quote.report)
    # 2.
    platform = verify_platform(quote, trusted_roots=trusted_roots, endorsements=endorsements, now=now)
    # 3.
    tcb = find_tcb(
        platform.pck,
        platform.tcb_info,
        qe_svn=quote.signature.qe_report.isv_svn,
        qe_identity=platform.qe_identity,
    )
    verified = VerifiedQuote(
        quote=quote, platform=platform, tcb=tcb, verifiers=BOTH_VERIFIERS if read_by_both else OUR_VERIFIER
    )
    if not read_by_both:
        return verified
    # 4.
    report = quote.report
    found = {
        **verified.comparable(),
        "mrenclave": report.mrenclave.hex(),
        "mrsigner": report.mrsigner.hex(),
        "isv_prod_id": str(report.isv_prod_id),
        "isv_svn": str(report.isv_svn),
        "attributes": report.attributes.to_bytes().hex(),
        "report_data": report.report_data.hex(),
    }
    require_agreement(found, quote=quote_bytes, endorsements=endorsements, anchor_der=platform.root.anchor_der, now=now)
    return verified


def demand_safe_enclave(report: SgxReportBody) -> None:
    """Refuse a debug enclave.

    Raises:
        VerificationError: It is one.
    """
    if report.attributes.debug:
        raise VerificationError(
            "the evidence is of a debug enclave, whose memory the host can read",
            action="Launch it without debug.",
            mismatches=(Mismatch(name="attributes.DEBUG", expected="false", actual="true"),),
        )
