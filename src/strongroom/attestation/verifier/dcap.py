"""What verifying a DCAP quote has in common for SGX and TDX: who signed it, on which platform, vouched for by whom.

Source: Intel SGX DCAP ECDSA Quote Library Reference, "Quote verification"; Intel PCS API, version 4.
"""

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Generic, TypeVar

from strongroom.attestation.endorsements.dcap import DcapEndorsements
from strongroom.attestation.endorsements.tcb import QeIdentity, TcbInfo, parse_qe_identity, parse_tcb_info
from strongroom.attestation.evidence.dcap_quote import TEE_TYPE_SGX, Body, DcapQuote, SgxQuote, TdxQuote
from strongroom.attestation.evidence.pck import PckExtension, parse_pck_extension, pck_chain
from strongroom.attestation.evidence.simulated import SIMULATED_HARDWARE
from strongroom.attestation.evidence.unverified import UnverifiedEvidence
from strongroom.attestation.verifier.revocation import revocation_lists
from strongroom.attestation.verifier.roots import TrustedRoot, TrustedRoots
from strongroom.attestation.verifier.tcb import TcbResult, check_qe_identity
from strongroom.attestation.verifier.verified import VERIFIER, VerifiedDcap, demand_bound
from strongroom.base.clock import to_rfc3339
from strongroom.base.encoding import from_hex
from strongroom.base.errors import VerificationError, differences
from strongroom.crypto import x509
from strongroom.crypto.ecdsa import key_from_point

_ATTESTATION_KEY_PADDING: Final = bytes(32)
_SIGNER_CHAIN: Final = 2
_KEPT: Final = 16
OUR_VERIFIER: Final = ("strongroom",)
BOTH_VERIFIERS: Final = ("dcap-qvl", "strongroom")
_Document = TypeVar("_Document", TcbInfo, QeIdentity)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedPlatform:
    """Who made a quote: a platform and a quoting enclave that its vendor vouches for.

    Attributes:
        pck: What the platform's certificate says.
        root: The root that all signatures end at.
        tcb_info: The vendor's TCB levels for this platform family.
        qe_identity: The vendor's levels for the quoting enclave.
        earliest_expiration: When the first of the certificates, lists and documents used runs out.
        newest_signed: The latest time that one of the lists and documents was signed at.
        crl_number: Of the PCK CA's revocation list.
        root_crl_number: Of the root's revocation list.
    """

    pck: PckExtension
    root: TrustedRoot
    tcb_info: TcbInfo
    qe_identity: QeIdentity
    earliest_expiration: datetime
    newest_signed: datetime
    crl_number: int
    root_crl_number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedQuote(Generic[Body]):
    """A quote whose signatures hold; what its report data stands for is not checked yet.

    Attributes:
        quote: The parsed quote.
        platform: Who made it.
        tcb: What the vendor says of it.
        verifiers: `BOTH_VERIFIERS`, or `OUR_VERIFIER` where dcap-qvl cannot read such evidence.
    """

    quote: DcapQuote[Body]
    platform: VerifiedPlatform
    tcb: TcbResult
    verifiers: tuple[str, ...]

    def comparable(self) -> dict[str, str]:
        """Return what dcap-qvl must have found as well, without the report."""
        return {
            "tcb status": self.tcb.status,
            "advisories": " ".join(self.tcb.advisory_ids),
            "tcb evaluation data number": str(self.platform.tcb_info.tcb_evaluation_data_number),
            "tcb date": self.tcb.tcb_date,
            "fmspc": self.platform.pck.fmspc,
            "ppid": self.platform.pck.ppid.hex(),
            "earliest expiration": str(int(self.platform.earliest_expiration.timestamp())),
        }


def verify_platform(
    quote: SgxQuote | TdxQuote, *, trusted_roots: TrustedRoots, endorsements: DcapEndorsements, now: datetime
) -> VerifiedPlatform:
    """Verify who made a quote, and that it was made for exactly this report.

    1. Check the PCK certificate chain up to a trusted root, and its revocation lists, at `now`.
    2. Check the signatures of TCB info and QE identity up to the same root, that they are for this kind of TEE, and
       that they hold at `now`.
    3. Check the PCK's signature over the quoting enclave's report, and that this names the attestation key.
    4. Check the attestation key's signature over the quote.
    5. Check that the quoting enclave is the vendor's.

    The caller MUST find the platform's TCB level and check what the report says.

    Args:
        quote: The parsed quote.
        trusted_roots: The roots trusted here; empty refuses.
        endorsements: The vendor's documents for the quote's platform family.
        now: The time of the check, in whole seconds.

    Raises:
        FormatError: Certificates or endorsements are malformed.
        UntrustedRootError: The quote was made under another root.
        VerificationError: One of the steps does not hold.
    """
    # 1.
    chain = pck_chain(quote)
    root = trusted_roots.find(chain[-1])
    revocation = revocation_lists(endorsements.root_ca_crl, endorsements.pck_crl)
    pck = _verify_chain(chain, root, revocation, now)
    if x509.parse_pem_chain(endorsements.pck_crl_issuer_chain.encode()) != chain[1:]:
        raise VerificationError("the PCK revocation list is of another CA than the quote's")
    # 2.
    documents = _verify_documents(endorsements, root=root, now=now)
    tcb_info, qe_identity = documents.tcb_info, documents.qe_identity
    _demand_kind(quote, tcb_info, qe_identity)
    # 3. and 4.
    _verify_signatures(quote, pck_der=pck.leaf_der)
    # 5.
    check_qe_identity(quote.signature.qe_report, qe_identity)
    return VerifiedPlatform(
        pck=parse_pck_extension(pck.leaf_der),
        root=root,
        tcb_info=tcb_info,
        qe_identity=qe_identity,
        earliest_expiration=min(pck.not_after, documents.earliest_expiration),
        newest_signed=max(pck.newest_signed, documents.newest_signed),
        crl_number=pck.crl_numbers[0],
        root_crl_number=pck.crl_numbers[1],
    )


def bind(
    verified: VerifiedQuote[Body], evidence: UnverifiedEvidence, *, endorsements: DcapEndorsements
) -> VerifiedDcap[Body]:
    """Check what the report data stands for, and return the evidence as verified.

    Raises:
        VerificationError: The report data does not bind the runtime data.
    """
    demand_bound(verified.quote.report.report_data, runtime_data=evidence.runtime_data)
    platform = verified.platform
    return VerifiedDcap(
        quote=verified.quote,
        runtime_data=evidence.runtime_data,
        verifiers=verified.verifiers,
        tcb_status=verified.tcb.status,
        advisory_ids=verified.tcb.advisory_ids,
        tcb_evaluation_data_number=platform.tcb_info.tcb_evaluation_data_number,
        tcb_date=verified.tcb.tcb_date,
        crl_number=platform.crl_number,
        root_crl_number=platform.root_crl_number,
        newest_signed=platform.newest_signed,
        pck=platform.pck,
        hardware=platform.root.hardware,
        earliest_expiration=platform.earliest_expiration,
        endorsements=endorsements,
        made_by=VERIFIER,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _VerifiedDocuments:
    """TCB info and QE identity whose signatures hold."""

    tcb_info: TcbInfo
    qe_identity: QeIdentity
    earliest_expiration: datetime
    newest_signed: datetime


@functools.lru_cache(maxsize=_KEPT)
def _verify_documents(endorsements: DcapEndorsements, *, root: TrustedRoot, now: datetime) -> _VerifiedDocuments:
    """Check the signatures of TCB info and QE identity up to the root, and that they hold at `now`.

    That depends on nothing of the quote: for all quotes of one family in the same second it is done once.
    """
    revocation = revocation_lists(endorsements.root_ca_crl, endorsements.pck_crl)
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
    return _VerifiedDocuments(
        tcb_info=tcb_info,
        qe_identity=qe_identity,
        earliest_expiration=min(tcb_info_end, qe_identity_end),
        newest_signed=max(
            *(datetime.fromisoformat(document.issue_date) for document in (tcb_info, qe_identity)),
            *(chain.newest_signed for chain in signers.values()),
        ),
    )


def _demand_kind(quote: SgxQuote | TdxQuote, tcb_info: TcbInfo, qe_identity: QeIdentity) -> None:
    info_id, identity_id = ("SGX", "QE") if quote.header.tee_type == TEE_TYPE_SGX else ("TDX", "TD_QE")
    mismatches = differences({"TCB info": (info_id, tcb_info.id), "QE identity": (identity_id, qe_identity.id)})
    if mismatches:
        raise VerificationError("the endorsements are for another kind of TEE", mismatches=mismatches)


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


def _verify_signatures(quote: SgxQuote | TdxQuote, *, pck_der: bytes) -> None:
    signature = quote.signature
    x509.public_key(pck_der).verify(signature.qe_report.to_bytes(), signature.qe_report_signature)
    digest = hashlib.sha256(signature.attestation_key + signature.qe_auth_data).digest()
    if signature.qe_report.report_data != digest + _ATTESTATION_KEY_PADDING:
        raise VerificationError("the quoting enclave does not vouch for the quote's attestation key")
    key_from_point(signature.attestation_key).verify(quote.signed_bytes(), signature.isv_signature)
