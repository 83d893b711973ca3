"""Verification of SGX evidence.

Source: Intel SGX DCAP ECDSA Quote Library Reference, "Quote verification"; Azure Attestation's rule for runtime data.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, TypeVar

from strongroom.attestation.endorsements.sgx import SgxEndorsements
from strongroom.attestation.endorsements.tcb import QeIdentity, TcbInfo, parse_qe_identity, parse_tcb_info
from strongroom.attestation.evidence.pck import PckExtension, parse_pck_extension, pck_chain
from strongroom.attestation.evidence.sgx_quote import SgxQuote, parse_sgx_quote
from strongroom.attestation.evidence.simulated import SIMULATED_HARDWARE
from strongroom.attestation.evidence.unverified import UnverifiedEvidence
from strongroom.attestation.verifier.roots import TrustedRoot, TrustedRoots
from strongroom.attestation.verifier.second_opinion import require_agreement
from strongroom.attestation.verifier.tcb import TcbResult, check_qe_identity, find_tcb
from strongroom.attestation.verifier.verified import VERIFIER, VerifiedSgx
from strongroom.base.clock import to_rfc3339
from strongroom.base.encoding import from_hex
from strongroom.base.errors import VerificationError
from strongroom.crypto import x509
from strongroom.crypto.ecdsa import key_from_point

_DIGEST_BYTES: Final = 32
_SIGNER_CHAIN: Final = 2
_Document = TypeVar("_Document", TcbInfo, QeIdentity)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedQuote:
    """A quote whose signatures hold; what its report data stands for is not checked yet."""

    quote: SgxQuote
    pck: PckExtension
    tcb: TcbResult
    tcb_evaluation_data_number: int
    root: TrustedRoot
    earliest_expiration: datetime


def verify_sgx(
    evidence: UnverifiedEvidence, *, trusted_roots: TrustedRoots, endorsements: SgxEndorsements, now: datetime
) -> VerifiedSgx:
    """Verify SGX evidence.

    1. Parse the quote; refuse versions and key types we do not know, and debug enclaves.
    2. Check the PCK certificate chain up to a trusted root, and its revocation lists, at `now`.
    3. Check the signatures of TCB info and QE identity up to the same root, and that they hold at `now`.
    4. Check the PCK's signature over the quoting enclave's report, and that this names the attestation key.
    5. Check the attestation key's signature over the quote.
    6. Check that the quoting enclave is the vendor's.
    7. Find the TCB level of platform and quoting enclave; refuse unknown and revoked ones.
    8. Let dcap-qvl verify the same, and demand that it found the same.
    9. Check that the quote's report data is SHA-256 of the runtime data, followed by 32 zero bytes.

    The caller MUST still appraise the claims (TCB status, MRENCLAVE, product, configuration, hardware) against an
    evidence policy, and check the nonce in the runtime data.

    Args:
        evidence: Quote and runtime data as they arrived.
        trusted_roots: The roots trusted here; empty refuses.
        endorsements: The vendor's documents for the quote's platform family.
        now: The time of the check.

    Returns:
        The verified evidence.

    Raises:
        FormatError: Quote or endorsements are malformed.
        UntrustedRootError: The quote was made under another root.
        VerificationError: One of the steps does not hold.
    """
    # 1. to 8.
    verified = verify_quote(evidence.quote, trusted_roots=trusted_roots, endorsements=endorsements, now=now)
    # 9.
    digest = hashlib.sha256(evidence.runtime_data).digest()
    if verified.quote.report.report_data != digest + bytes(_DIGEST_BYTES):
        raise VerificationError("the evidence does not bind this runtime data")
    return VerifiedSgx(
        quote=verified.quote,
        runtime_data=evidence.runtime_data,
        tcb_status=verified.tcb.status,
        advisory_ids=verified.tcb.advisory_ids,
        tcb_evaluation_data_number=verified.tcb_evaluation_data_number,
        tcb_date=verified.tcb.tcb_date,
        fmspc=verified.pck.fmspc,
        ppid=verified.pck.ppid,
        platform_instance_id=verified.pck.platform_instance_id,
        hardware=verified.root.hardware,
        earliest_expiration=verified.earliest_expiration,
        endorsements=endorsements,
        made_by=VERIFIER,
    )


def verify_quote(
    quote_bytes: bytes, *, trusted_roots: TrustedRoots, endorsements: SgxEndorsements, now: datetime
) -> VerifiedQuote:
    """Verify a quote alone: steps 1 to 8 of `verify_sgx`. The caller MUST check what the report data stands for.

    Args:
        quote_bytes: The quote as it arrived.
        trusted_roots: The roots trusted here; empty refuses.
        endorsements: The vendor's documents for the quote's platform family.
        now: The time of the check.

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
    if quote.report.attributes.debug:
        raise VerificationError(
            "the evidence is of a debug enclave, whose memory the host can read", action="Launch it without debug."
        )
    # 2.
    chain = pck_chain(quote)
    root = trusted_roots.find(chain[-1])
    revocation = x509.RevocationLists([from_hex(endorsements.root_ca_crl), from_hex(endorsements.pck_crl)])
    pck_verified = _verify_chain(chain, root, revocation, now)
    if x509.parse_pem_chain(endorsements.pck_crl_issuer_chain.encode()) != chain[1:]:
        raise VerificationError("the PCK revocation list is of another CA than the quote's")
    # 3.
    tcb_info = parse_tcb_info(endorsements.tcb_info)
    qe_identity = parse_qe_identity(endorsements.qe_identity)
    signers = {
        chain_pem: _verify_signer(chain_pem, root, revocation, now)
        for chain_pem in {endorsements.tcb_info_issuer_chain, endorsements.qe_identity_issuer_chain}
    }
    tcb_info_end = _verify_document(
        tcb_info,
        signed=(endorsements.tcb_info, endorsements.tcb_info_signature),
        signer=signers[endorsements.tcb_info_issuer_chain],
        now=now,
    )
    qe_identity_end = _verify_document(
        qe_identity,
        signed=(endorsements.qe_identity, endorsements.qe_identity_signature),
        signer=signers[endorsements.qe_identity_issuer_chain],
        now=now,
    )
    # 4. and 5.
    _verify_signatures(quote, pck_der=pck_verified.leaf_der)
    # 6.
    check_qe_identity(quote.signature.qe_report, qe_identity)
    # 7.
    pck = parse_pck_extension(pck_verified.leaf_der)
    tcb = find_tcb(pck, tcb_info, qe_svn=quote.signature.qe_report.isv_svn, qe_identity=qe_identity)
    verified = VerifiedQuote(
        quote=quote,
        pck=pck,
        tcb=tcb,
        tcb_evaluation_data_number=tcb_info.tcb_evaluation_data_number,
        root=root,
        earliest_expiration=min(pck_verified.not_after, tcb_info_end, qe_identity_end),
    )
    # 8.
    require_agreement(
        _comparable(verified), quote=quote_bytes, endorsements=endorsements, anchor_der=root.anchor_der, now=now
    )
    return verified


def _verify_chain(
    chain: Sequence[bytes], root: TrustedRoot, revocation: x509.RevocationLists, now: datetime
) -> x509.VerifiedChain:
    return x509.verify_chain(
        chain,
        roots_der=[root.certificate_der],
        revocation=revocation,
        now=now,
        understood_in_root=SIMULATED_HARDWARE if root.simulated else None,
    )


def _verify_signer(
    chain_pem: str, root: TrustedRoot, revocation: x509.RevocationLists, now: datetime
) -> x509.VerifiedChain:
    chain = x509.parse_pem_chain(chain_pem.encode())
    # The root itself certifies the signer: a platform's PCK certificate, one level deeper, must not pass for it.
    if len(chain) != _SIGNER_CHAIN:
        raise VerificationError("an endorsement was not signed by a key that the vendor's root certifies")
    return _verify_chain(chain, root, revocation, now)


def _verify_document(
    document: _Document, *, signed: tuple[str, str], signer: x509.VerifiedChain, now: datetime
) -> datetime:
    """Check a signed document (its text and signature); return until when it and its signer hold."""
    text, signature_hex = signed
    x509.public_key(signer.leaf_der).verify(text.encode(), from_hex(signature_hex))
    if not document.issue_date <= to_rfc3339(now) <= document.next_update:
        raise VerificationError(
            f"the {document.id} endorsement does not hold at this time", action="Fetch fresh endorsements."
        )
    return min(signer.not_after, datetime.fromisoformat(document.next_update))


def _verify_signatures(quote: SgxQuote, *, pck_der: bytes) -> None:
    signature = quote.signature
    x509.public_key(pck_der).verify(signature.qe_report.to_bytes(), signature.qe_report_signature)
    digest = hashlib.sha256(signature.attestation_key + signature.qe_auth_data).digest()
    if signature.qe_report.report_data != digest + bytes(_DIGEST_BYTES):
        raise VerificationError("the quoting enclave does not vouch for the quote's attestation key")
    key_from_point(signature.attestation_key).verify(quote.signed_bytes(), signature.isv_signature)


def _comparable(verified: VerifiedQuote) -> dict[str, str]:
    report = verified.quote.report
    return {
        "tcb status": verified.tcb.status,
        "advisories": " ".join(verified.tcb.advisory_ids),
        "tcb evaluation data number": str(verified.tcb_evaluation_data_number),
        "tcb date": verified.tcb.tcb_date,
        "fmspc": verified.pck.fmspc,
        "ppid": verified.pck.ppid.hex(),
        "mrenclave": report.mrenclave.hex(),
        "mrsigner": report.mrsigner.hex(),
        "isv_prod_id": str(report.isv_prod_id),
        "isv_svn": str(report.isv_svn),
        "attributes": report.attributes.to_bytes().hex(),
        "report_data": report.report_data.hex(),
        "earliest expiration": str(int(verified.earliest_expiration.timestamp())),
    }
