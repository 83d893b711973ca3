"""Verification of TDX evidence.

Source: Intel TDX DCAP Quoting Library API, "TD quote verification"; Intel PCS API, version 4, "TDX TCB evaluation".
"""

from datetime import UTC, datetime

from strongroom.attestation.endorsements.dcap import DcapEndorsements
from strongroom.attestation.evidence.dcap_quote import parse_tdx_quote
from strongroom.attestation.evidence.td_report import TdAttributes, TdReportBody
from strongroom.attestation.evidence.unverified import UnverifiedEvidence
from strongroom.attestation.verifier.dcap import BOTH_VERIFIERS, OUR_VERIFIER, VerifiedQuote, bind, verify_platform
from strongroom.attestation.verifier.roots import TrustedRoots
from strongroom.attestation.verifier.second_opinion import require_agreement
from strongroom.attestation.verifier.tcb import find_tcb
from strongroom.attestation.verifier.verified import VerifiedTdx
from strongroom.base.errors import VerificationError, differences


def verify_tdx(
    evidence: UnverifiedEvidence,
    *,
    trusted_roots: TrustedRoots,
    endorsements: DcapEndorsements,
    now: datetime,
    refuse_unsafe: bool = True,
) -> VerifiedTdx:
    """Verify TDX evidence.

    1. Parse the quote; refuse versions and key types we do not know, trust domains under debug, and those whose pages
       the host can take away unnoticed (SEPT_VE_DISABLE is off) or that can be moved; dcap-qvl reads none of them.
    2. Check platform and quoting enclave, and their signatures over the quote (`verify_platform`).
    3. Find the TCB level of platform, quoting enclave and TDX module; refuse unknown and revoked ones.
    4. Let dcap-qvl verify the same, where it reads such evidence, and demand that it found the same.
    5. Check that the quote's report data is SHA-256 of the runtime data, followed by 32 zero bytes.

    The caller MUST still appraise the claims (TCB status, MRTD, RTMRs, MRCONFIGID, migration, hardware) against an
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
    verified = verify_tdx_quote(
        evidence.quote,
        trusted_roots=trusted_roots,
        endorsements=endorsements,
        now=now,
        refuse_unsafe=refuse_unsafe,
    )
    # 5.
    return bind(verified, evidence, endorsements=endorsements)


def verify_tdx_quote(
    quote_bytes: bytes,
    *,
    trusted_roots: TrustedRoots,
    endorsements: DcapEndorsements,
    now: datetime,
    refuse_unsafe: bool = True,
) -> VerifiedQuote[TdReportBody]:
    """Verify a quote alone: steps 1 to 4 of `verify_tdx`. The caller MUST check what the report data stands for.

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
    quote = parse_tdx_quote(quote_bytes)
    report = quote.report
    attributes = report.td_attributes
    read_by_both = attributes.sept_ve_disable and not attributes.under_debug and not attributes.migratable
    if refuse_unsafe:
        demand_safe_domain(attributes)
    # 2.
    platform = verify_platform(quote, trusted_roots=trusted_roots, endorsements=endorsements, now=now)
    # 3.
    tcb = find_tcb(
        platform.pck,
        platform.tcb_info,
        qe_svn=quote.signature.qe_report.isv_svn,
        qe_identity=platform.qe_identity,
        td_report=report,
    )
    verified = VerifiedQuote(
        quote=quote, platform=platform, tcb=tcb, verifiers=BOTH_VERIFIERS if read_by_both else OUR_VERIFIER
    )
    if not read_by_both:
        return verified
    # 4.
    found = {
        **verified.comparable(),
        "tee_tcb_svn": report.tee_tcb_svn.hex(),
        "mrseam": report.mrseam.hex(),
        "td_attributes": report.td_attributes.to_int().to_bytes(8, "little").hex(),
        "xfam": report.xfam.to_bytes(8, "little").hex(),
        "mrtd": report.mrtd.hex(),
        "mrconfigid": report.mrconfigid.hex(),
        "mrowner": report.mrowner.hex(),
        "mrownerconfig": report.mrownerconfig.hex(),
        **{f"rtmr{number}": value.hex() for number, value in enumerate(report.rtmr)},
        "report_data": report.report_data.hex(),
    }
    require_agreement(found, quote=quote_bytes, endorsements=endorsements, anchor_der=platform.root.anchor_der, now=now)
    return verified


def demand_safe_domain(attributes: TdAttributes) -> None:
    """Refuse a trust domain that its host can look into, take pages from unnoticed, or move.

    Raises:
        VerificationError: It can; all of it is named.
    """
    found = {
        "td_attributes.debug": ("false", _word(set_=attributes.under_debug)),
        "td_attributes.sept_ve_disable": ("true", _word(set_=attributes.sept_ve_disable)),
        "td_attributes.migratable": ("false", _word(set_=attributes.migratable)),
    }
    mismatches = differences(found)
    if attributes.under_debug:
        raise VerificationError(
            "the evidence is of a trust domain under debug, whose memory the host can read",
            action="Launch it without debug.",
            mismatches=mismatches,
        )
    if not attributes.sept_ve_disable:
        raise VerificationError(
            "the host can take pages of this trust domain away unnoticed",
            action="Launch it with SEPT_VE_DISABLE.",
            mismatches=mismatches,
        )
    if attributes.migratable:
        raise VerificationError(
            "the trust domain can be moved to another machine",
            action="Launch it without migration.",
            mismatches=mismatches,
        )


def _word(*, set_: bool) -> str:
    return "true" if set_ else "false"
