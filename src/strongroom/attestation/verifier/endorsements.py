"""Verification of single endorsements, before they are kept: a source that lies must not replace what is good.

Evidence is still verified with all of its endorsements together, revocation of their signers included (`verify_sgx`
and its siblings); what is checked here is that one document is the vendor's, is the one that was asked for, and holds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from strongroom.attestation.endorsements.documents import (
    AmdChainName,
    AmdCrlName,
    AmdName,
    Document,
    DocumentName,
    IntelName,
    PckCrlName,
    QeIdentityName,
    RootCaCrlName,
    TcbInfoName,
    VcekName,
)
from strongroom.attestation.endorsements.tcb import QeIdentity, TcbInfo, parse_qe_identity, parse_tcb_info
from strongroom.attestation.evidence.amd_certificate import EndorsementKey, parse_amd_certificate
from strongroom.attestation.evidence.pck import authority_kind
from strongroom.attestation.evidence.simulated import SIMULATED_HARDWARE
from strongroom.attestation.evidence.snp_report import Product
from strongroom.attestation.verifier.roots import TrustedRoot, TrustedRoots
from strongroom.base.clock import to_rfc3339
from strongroom.base.encoding import from_hex
from strongroom.base.errors import FormatError, Mismatch, VerificationError, differences
from strongroom.crypto import x509

_AMD_ROOT: Final = "ARK-"
_SIGNER_CHAIN: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What a verified document says about itself.

    Attributes:
        root: SHA-256 of the key of the root that it ends at, hexadecimal.
        number: `tcbEvaluationDataNumber` or the revocation list's number; 0 for certificates, which have none.
        issued_at: When it was issued; None for certificates.
        next_update: Until when it holds.
        renewed: Whether the vendor renews it; certificates stay what they are until they run out.
    """

    root: str
    number: int
    issued_at: datetime | None
    next_update: datetime
    renewed: bool


def verify_document(name: DocumentName, document: Document, *, trusted_roots: TrustedRoots, now: datetime) -> Standing:
    """Check that a document is the vendor's, is the one of this name, and holds at `now`.

    Revocation of its signer is not checked: that needs other documents, and is done whenever evidence is verified.

    Args:
        name: Which document was asked for.
        document: What came.
        trusted_roots: The roots trusted here; empty refuses.
        now: The time of the check.

    Returns:
        What it says about its age.

    Raises:
        FormatError: It is malformed.
        UntrustedRootError: It ends at another root.
        VerificationError: The signature does not hold, it is about something else, or it does not hold at `now`.
    """
    now = now.replace(microsecond=0)
    if isinstance(name, AmdChainName | AmdCrlName | VcekName):
        return _verify_amds(name, document, trusted_roots, now)
    return _verify_intels(name, document, trusted_roots, now)


def _verify_intels(name: IntelName, document: Document, trusted_roots: TrustedRoots, now: datetime) -> Standing:
    match name:
        case PckCrlName():
            return _pck_crl(name, document, trusted_roots, now)
        case RootCaCrlName():
            return _root_crl(document, [root for root in trusted_roots.roots if not _is_amds(root)], now)
        case TcbInfoName():
            tcb_info = parse_tcb_info(document.content)
            asked = {"TEE": (name.tee, tcb_info.id), "platform family": (name.fmspc, tcb_info.fmspc.lower())}
            _demand_same(asked, edition=name.edition, number=tcb_info.tcb_evaluation_data_number)
            return _signed_json(tcb_info, document, trusted_roots, now)
        case QeIdentityName():
            identity = parse_qe_identity(document.content)
            asked = {"quoting enclave": ("QE" if name.tee == "SGX" else "TD_QE", identity.id)}
            _demand_same(asked, edition=name.edition, number=identity.tcb_evaluation_data_number)
            return _signed_json(identity, document, trusted_roots, now)


def _verify_amds(name: AmdName, document: Document, trusted_roots: TrustedRoots, now: datetime) -> Standing:
    match name:
        case AmdChainName():
            chain = _chain(document.content, length=2)
            return _amd_authorities(chain, name.signing_key, name.product, trusted_roots, now)
        case AmdCrlName():
            named = f"{_AMD_ROOT}{name.product}"
            return _root_crl(document, [root for root in trusted_roots.roots if _common_name(root) == named], now)
        case VcekName():
            return _vcek(name, document, trusted_roots, now)


def _pck_crl(name: PckCrlName, document: Document, trusted_roots: TrustedRoots, now: datetime) -> Standing:
    chain = _chain(document.issuer_chain, length=2)
    if authority_kind(chain[0]) != name.ca:
        raise VerificationError("the revocation list is of another PCK CA")
    root = trusted_roots.find(chain[-1])
    _verify_authorities(chain, root, now)
    return _crl_standing(document, root, issuer_der=chain[0], now=now)


def _root_crl(document: Document, roots: Sequence[TrustedRoot], now: datetime) -> Standing:
    refused = VerificationError("no root of this vendor is trusted here", action="Add it to the trusted roots.")
    for root in roots:
        try:
            _verify_authorities([root.certificate_der], root, now)
            return _crl_standing(document, root, issuer_der=root.certificate_der, now=now)
        except VerificationError as error:
            refused = error
    raise refused


def _crl_standing(document: Document, root: TrustedRoot, *, issuer_der: bytes, now: datetime) -> Standing:
    verified = x509.verify_crl(from_hex(document.content), issuer_der=issuer_der, now=now)
    return Standing(
        root=x509.spki_sha256(root.certificate_der),
        number=verified.number,
        issued_at=verified.last_update,
        next_update=verified.next_update,
        renewed=True,
    )


def _signed_json(parsed: TcbInfo | QeIdentity, document: Document, roots: TrustedRoots, now: datetime) -> Standing:
    # The root itself certifies the signer: a platform's PCK certificate, one level deeper, must not pass for it.
    chain = _chain(document.issuer_chain, length=_SIGNER_CHAIN)
    root = roots.find(chain[-1])
    signer = x509.verify_chain(
        chain, roots_der=[root.certificate_der], revocation=None, now=now, understood_in_root=_understood(root)
    )
    x509.public_key(signer.leaf_der).verify(document.content.encode(), from_hex(document.signature))
    if not parsed.issue_date <= to_rfc3339(now) <= parsed.next_update:
        raise VerificationError(f"the {parsed.id} endorsement does not hold at this time")
    return Standing(
        root=x509.spki_sha256(root.certificate_der),
        number=parsed.tcb_evaluation_data_number,
        issued_at=datetime.fromisoformat(parsed.issue_date),
        next_update=datetime.fromisoformat(parsed.next_update),
        renewed=True,
    )


def _amd_authorities(
    chain: Sequence[bytes], signing_key: EndorsementKey, product: Product, roots: TrustedRoots, now: datetime
) -> Standing:
    root = roots.find(chain[-1])
    infix = "" if signing_key == "VCEK" else "VLEK-"
    mismatches = differences(
        {
            "issuer": (f"SEV-{infix}{product}", x509.common_name(chain[0])),
            "root": (f"{_AMD_ROOT}{product}", x509.common_name(chain[1])),
        }
    )
    if mismatches:
        raise VerificationError("the certificates are of another product or key", mismatches=mismatches)
    return _certificates_standing(root, not_after=_verify_authorities(chain, root, now))


def _vcek(name: VcekName, document: Document, trusted_roots: TrustedRoots, now: datetime) -> Standing:
    (leaf,), authorities = _chain(document.content, length=1), _chain(document.issuer_chain, length=2)
    _amd_authorities(authorities, "VCEK", name.product, trusted_roots, now)
    root = trusted_roots.find(authorities[-1])
    verified = x509.verify_chain(
        [leaf, *authorities],
        roots_der=[root.certificate_der],
        revocation=None,
        now=now,
        understood_in_root=_understood(root),
    )
    certificate = parse_amd_certificate(leaf)
    mismatches = differences(
        {
            "signing key": ("VCEK", certificate.kind),
            "product": (name.product, certificate.product),
            "tcb": (str(name.tcb), str(certificate.tcb)),
            "chip id": (name.hwid, (certificate.hwid or b"")[: len(name.hwid) // 2].hex()),
        }
    )
    if mismatches:
        raise VerificationError("the certificate is of another chip or TCB version", mismatches=mismatches)
    return _certificates_standing(root, not_after=verified.not_after)


def _certificates_standing(root: TrustedRoot, *, not_after: datetime) -> Standing:
    return Standing(
        root=x509.spki_sha256(root.certificate_der), number=0, issued_at=None, next_update=not_after, renewed=False
    )


def _demand_same(values: dict[str, tuple[str, str]], *, edition: str | int, number: int) -> None:
    mismatches = differences(values)
    if isinstance(edition, int) and edition != number:
        mismatches += (Mismatch(name="tcbEvaluationDataNumber", expected=str(edition), actual=str(number)),)
    if mismatches:
        raise VerificationError("the document is about something else than was asked for", mismatches=mismatches)


def _verify_authorities(chain: Sequence[bytes], root: TrustedRoot, now: datetime) -> datetime:
    return x509.verify_authorities(
        chain, roots_der=[root.certificate_der], now=now, understood_in_root=_understood(root)
    )


def _understood(root: TrustedRoot) -> str | None:
    return SIMULATED_HARDWARE if root.simulated else None


def _chain(pem: str, *, length: int) -> tuple[bytes, ...]:
    chain = x509.parse_pem_chain(pem.encode())
    if len(chain) != length:
        raise FormatError("the document came with another number of certificates than its kind has")
    return chain


def _common_name(root: TrustedRoot) -> str:
    return x509.common_name(root.certificate_der)


def _is_amds(root: TrustedRoot) -> bool:
    return _common_name(root).startswith(_AMD_ROOT)
