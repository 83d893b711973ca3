"""X.509 certificates: made, read and checked. DER bytes at the edge, the library's objects inside.

The paths we meet are a vendor's (Intel: leaf, CA, root, with revocation lists) and our own (a service's identity
certificate and the leaf it issued), so the check is strict and small: the chain is given in order, nothing is searched.

Source: RFC 5280, sections 4.2, 5 and 6.1.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

from strongroom.base.clock import to_rfc3339
from strongroom.base.errors import FormatError, Mismatch, UntrustedRootError, VerificationError
from strongroom.crypto.keys import SigningKey, VerifyingKey

if TYPE_CHECKING:
    from datetime import datetime

STRONGROOM_ARC: Final = "2.25.247758241752229457238379220332895467469"
"""Arc of our own object identifiers: a UUID (ba64806d-d586-4777-a438-592f016ef7cd), which needs no registration.

`.1` simulated hardware (a root's critical extension), `.2` a leaf that signs statements (extended key usage).

Source: ITU-T X.667, section 7.
"""

_UNDERSTOOD_CRITICAL: Final = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    }
)
_MALFORMED: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    UserWarning,  # where warnings are errors: the library warns of names and numbers that break the rules
)
_IDENTITY_CHAIN: Final = 2

# AMD gives all of its chips' certificates the serial number 0, which the library still reads, and warns of.
warnings.filterwarnings("ignore", "Parsed a serial number which wasn't positive", CryptographyDeprecationWarning)

_IssuerKey: TypeAlias = "ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey"


class LeafUsage(Enum):
    """What a leaf's key may do, as its extended key usage says; one leaf, one use."""

    TLS = ExtendedKeyUsageOID.SERVER_AUTH.dotted_string
    SIGNING = f"{STRONGROOM_ARC}.2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Extension:
    """An extension that this module does not interpret: dotted object identifier and the DER of its value."""

    oid: str
    value_der: bytes
    critical: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateRequest:
    """What a certificate shall say.

    Attributes:
        common_name: Subject's common name.
        organization: Subject's organization; empty for none.
        public_key: The subject's key.
        not_before: First moment of validity (UTC).
        not_after: Last moment of validity (UTC).
        ca_path_length: None for a leaf; otherwise how many CAs may follow.
        sans: DNS names and IP addresses.
        usage: The leaf's use; None adds no extended key usage.
        extensions: Further extensions.
    """

    common_name: str
    organization: str = ""
    public_key: VerifyingKey
    not_before: datetime
    not_after: datetime
    ca_path_length: int | None
    sans: Sequence[str] = ()
    usage: LeafUsage | None = None
    extensions: Sequence[Extension] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedChain:
    """A chain that was checked up to a given root.

    Attributes:
        leaf_der: The first certificate.
        root_der: The root it ends at.
        not_after: When the first of the certificates and revocation lists runs out.
        crl_numbers: Of the revocation lists that the certificates were looked up in, the leaf's issuer's first.
        newest_signed: The latest time from which one of the certificates and lists holds: now is no earlier.
    """

    leaf_der: bytes
    root_der: bytes
    not_after: datetime
    crl_numbers: tuple[int, ...]
    newest_signed: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedCrl:
    """A revocation list that its issuer signed.

    Attributes:
        number: The list's number; each one that its issuer makes has a higher one. 0 where it names none.
        last_update: When it was issued.
        next_update: Until when it holds.
    """

    number: int
    last_update: datetime
    next_update: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class LeafCertificate:
    """A service's leaf that its identity key issued, verified."""

    certificate_der: bytes
    public_key: VerifyingKey
    common_name: str
    sans: tuple[str, ...]
    not_after: datetime


# --- reading ---------------------------------------------------------------------------------------------------------


def parse_pem_chain(pem: bytes) -> tuple[bytes, ...]:
    """Read the certificates of a PEM text, in their order.

    Args:
        pem: One or more `CERTIFICATE` blocks.

    Returns:
        Their DER bytes; at least one.

    Raises:
        FormatError: No certificate, or a malformed one.
    """
    try:
        return tuple(certificate.public_bytes(Encoding.DER) for certificate in x509.load_pem_x509_certificates(pem))
    except _MALFORMED as error:
        raise FormatError("not certificates in PEM form") from error


def to_pem(certificate_der: bytes) -> str:
    """Return a certificate's PEM text.

    Raises:
        FormatError: Not a certificate.
    """
    return _load(certificate_der).public_bytes(Encoding.PEM).decode("ascii")


def to_x5c(chain_der: Sequence[bytes]) -> list[str]:
    """Return certificates as JOSE carries them: standard base64 of their DER bytes (RFC 7515, section 4.1.6)."""
    return [base64.b64encode(certificate_der).decode("ascii") for certificate_der in chain_der]


def sha1_thumbprint(certificate_der: bytes) -> bytes:
    """Return SHA-1 of a certificate, as Azure names certificates and `x5t` does: a name, which protects nothing."""
    return hashlib.sha1(certificate_der, usedforsecurity=False).digest()


def public_key(certificate_der: bytes) -> VerifyingKey:
    """Return a certificate's public key.

    Raises:
        FormatError: Not a certificate, or a kind of key that is not used here.
    """
    return VerifyingKey(_public_key(_load(certificate_der)))


def spki_sha256(certificate_der: bytes) -> str:
    """Return SHA-256 of the SubjectPublicKeyInfo, 64 hexadecimal digits: the identity that bindings pin.

    Raises:
        FormatError: Not a certificate.
    """
    spki = _public_key(_load(certificate_der)).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).hexdigest()


def common_name(certificate_der: bytes) -> str:
    """Return the subject's common name; empty if it has none.

    Raises:
        FormatError: Not a certificate.
    """
    return _common_name(_load(certificate_der))


def extension(certificate_der: bytes, oid: str) -> Extension | None:
    """Return an extension that the library does not interpret, or None.

    Raises:
        FormatError: Not a certificate.
    """
    for found in _extensions(_load(certificate_der)):
        if found.oid.dotted_string == oid and isinstance(found.value, x509.UnrecognizedExtension):
            return Extension(oid=oid, value_der=found.value.value, critical=found.critical)
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateFields:
    """What a certificate says, for people; nothing of it is checked.

    Attributes:
        subject: Distinguished name (RFC 4514).
        issuer: Likewise.
        serial_number: Hexadecimal text.
        not_before: From when it holds.
        not_after: Until when it holds.
        key: Kind of key and size in bits.
        is_ca: Whether it may certify others.
    """

    subject: str
    issuer: str
    serial_number: str
    not_before: datetime
    not_after: datetime
    key: str
    is_ca: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CrlFields:
    """What a revocation list says, for people; nothing of it is checked.

    Attributes:
        issuer: Distinguished name (RFC 4514).
        number: Grows with each list; None where it has none.
        last_update: From when it holds.
        next_update: Until when it holds; None where it does not say.
        revoked: The serial numbers on it, hexadecimal text.
    """

    issuer: str
    number: int | None
    last_update: datetime
    next_update: datetime | None
    revoked: tuple[str, ...]


def read_certificate(certificate_der: bytes) -> CertificateFields:
    """Return what a certificate says.

    Raises:
        FormatError: Not a certificate.
    """
    certificate = _load(certificate_der)
    constraints = _extension_value(certificate, x509.BasicConstraints)
    key = _public_key(certificate)
    kind = (
        key.curve.name if isinstance(key, ec.EllipticCurvePublicKey) else type(key).__name__.removesuffix("PublicKey")
    )
    try:
        return CertificateFields(
            subject=certificate.subject.rfc4514_string(),
            issuer=certificate.issuer.rfc4514_string(),
            serial_number=f"{certificate.serial_number:x}",
            not_before=certificate.not_valid_before_utc,
            not_after=certificate.not_valid_after_utc,
            key=f"{kind}, {key.key_size} bits" if isinstance(key, rsa.RSAPublicKey) else kind,
            is_ca=constraints is not None and constraints.ca,
        )
    except _MALFORMED as error:
        raise FormatError("a certificate's names or numbers are malformed") from error


def read_crl(crl_der: bytes) -> CrlFields:
    """Return what a certificate revocation list says.

    Raises:
        FormatError: Not a list.
    """
    crl = _load_crl(crl_der)
    try:
        return CrlFields(
            issuer=crl.issuer.rfc4514_string(),
            number=_crl_number(crl),
            last_update=crl.last_update_utc,
            next_update=crl.next_update_utc,
            revoked=tuple(f"{revoked.serial_number:x}" for revoked in crl),
        )
    except _MALFORMED as error:
        raise FormatError("a revocation list is malformed") from error


def crl_distribution_points(certificate_der: bytes) -> tuple[str, ...]:
    """Return where a certificate says that its issuer's revocation list is to be had: addresses, in their order.

    Raises:
        FormatError: Not a certificate.

    Source: RFC 5280, section 4.2.1.13.
    """
    points = _extension_value(_load(certificate_der), x509.CRLDistributionPoints) or ()
    names = [name for point in points for name in point.full_name or ()]
    return tuple(name.value for name in names if isinstance(name, x509.UniformResourceIdentifier))


def crl_issuer(crl_der: bytes) -> str:
    """Return the common name of a revocation list's issuer; empty if it has none.

    Raises:
        FormatError: Not a revocation list.
    """
    names = _load_crl(crl_der).issuer.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""


def crl_pem(crl_der: bytes) -> bytes:
    """Return a revocation list's PEM text.

    Raises:
        FormatError: Not a revocation list.
    """
    return _load_crl(crl_der).public_bytes(Encoding.PEM)


def crl_from_pem(pem: bytes) -> bytes:
    """Return the DER bytes of a revocation list in PEM form.

    Raises:
        FormatError: Not one.
    """
    try:
        return x509.load_pem_x509_crl(pem).public_bytes(Encoding.DER)
    except _MALFORMED as error:
        raise FormatError("not a certificate revocation list in PEM form") from error


class RevocationLists:
    """A hierarchy's revocation lists. Each is checked once, however many certificates are looked up in it.

    Args:
        crls_der: The lists.

    Raises:
        FormatError: One is malformed.
    """

    def __init__(self, crls_der: Sequence[bytes]) -> None:
        self._crls = [_load_crl(crl_der) for crl_der in crls_der]
        self._checked: dict[tuple[int, bytes], VerifiedCrl] = {}

    def check(self, certificate: x509.Certificate, issuer: x509.Certificate, now: datetime) -> VerifiedCrl:
        """Check that the issuer's list holds at `now` and does not name the certificate.

        Returns:
            The list.

        Raises:
            VerificationError: No list of this issuer, a bad signature, out of date, or the certificate is revoked.
        """
        number = next((n for n, crl in enumerate(self._crls) if crl.issuer == issuer.subject), None)
        if number is None:
            raise VerificationError("there is no revocation list for a certificate")
        key = (number, issuer.fingerprint(hashes.SHA256()))
        found = self._checked.get(key) or _check_crl(self._crls[number], issuer)
        self._checked[key] = found
        _check_validity(found.last_update, found.next_update, now, "a revocation list")
        if self._crls[number].get_revoked_certificate_by_serial_number(certificate.serial_number) is not None:
            raise VerificationError("a certificate is revoked", action="Do not use this platform; ask its vendor.")
        return found


# --- making ----------------------------------------------------------------------------------------------------------


def issue_certificate(
    request: CertificateRequest, *, issuer_der: bytes | None, issuer_key: SigningKey, pss: bool = False
) -> bytes:
    """Issue a certificate.

    Args:
        request: What it shall say.
        issuer_der: The issuer's certificate; None for a self-signed one.
        issuer_key: The issuer's key.
        pss: Sign with RSASSA-PSS and SHA-384, as AMD does; the issuer's key is RSA.

    Returns:
        The certificate's DER bytes.

    Raises:
        FormatError: `issuer_der` is not a certificate, or a name cannot stand in one.
    """
    subject = _name(request.common_name, request.organization)
    ca = request.ca_path_length is not None
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer_der is None else _load(issuer_der).subject)
        .public_key(request.public_key.hazmat)
        .serial_number(x509.random_serial_number())
        .not_valid_before(request.not_before)
        .not_valid_after(request.not_after)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=request.ca_path_length), critical=True)
        .add_extension(_key_usage(ca=ca), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(request.public_key.hazmat), critical=False)
        .add_extension(_authority_key_identifier(issuer_key), critical=False)
    )
    if request.sans:
        names = x509.SubjectAlternativeName([_general_name(name) for name in request.sans])
        builder = builder.add_extension(names, critical=False)
    if request.usage is not None:
        usage = x509.ExtendedKeyUsage([x509.ObjectIdentifier(request.usage.value)])
        builder = builder.add_extension(usage, critical=False)
    for extra in request.extensions:
        value = x509.UnrecognizedExtension(x509.ObjectIdentifier(extra.oid), extra.value_der)
        builder = builder.add_extension(value, critical=extra.critical)
    return builder.sign(issuer_key.hazmat, **_signature_of(issuer_key.hazmat, pss=pss)).public_bytes(Encoding.DER)


def issue_crl(
    *,
    issuer_der: bytes,
    issuer_key: SigningKey,
    revoked_der: Sequence[bytes],
    number: int,
    last_update: datetime,
    next_update: datetime,
    pss: bool = False,
) -> bytes:
    """Issue a certificate revocation list.

    Args:
        issuer_der: The issuer's certificate.
        issuer_key: Its key.
        revoked_der: The certificates to revoke.
        number: The list's number.
        last_update: From when it holds.
        next_update: Until when it holds.
        pss: As for certificates.

    Returns:
        The list's DER bytes.
    """
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(_load(issuer_der).subject)
        .last_update(last_update)
        .next_update(next_update)
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(_authority_key_identifier(issuer_key), critical=False)
    )
    for certificate_der in revoked_der:
        entry = x509.RevokedCertificateBuilder().serial_number(_load(certificate_der).serial_number)
        builder = builder.add_revoked_certificate(entry.revocation_date(last_update).build())
    return builder.sign(issuer_key.hazmat, **_signature_of(issuer_key.hazmat, pss=pss)).public_bytes(Encoding.DER)


def new_identity(*, common_name: str, key: SigningKey, not_before: datetime, not_after: datetime) -> bytes:
    """Make a service's identity certificate: a self-signed CA whose key's SHA-256 is the service's identity.

    Returns:
        Its DER bytes.
    """
    request = CertificateRequest(
        common_name=common_name,
        public_key=key.verifying_key,
        not_before=not_before,
        not_after=not_after,
        ca_path_length=0,
    )
    return issue_certificate(request, issuer_der=None, issuer_key=key)


def issue_leaf(
    *,
    issuer_cert: bytes,
    issuer_key: SigningKey,
    subject_public_key: VerifyingKey,
    common_name: str,
    sans: Sequence[str],
    usage: LeafUsage,
    not_before: datetime,
    not_after: datetime,
) -> bytes:
    """Issue a leaf under an identity certificate.

    Args:
        issuer_cert: The identity certificate, DER.
        issuer_key: The identity key.
        subject_public_key: The leaf's key.
        common_name: The leaf's name.
        sans: DNS names and IP addresses (TLS leaves).
        usage: The one use of the leaf's key.
        not_before: First moment of validity.
        not_after: Last moment of validity.

    Returns:
        Its DER bytes.

    Raises:
        FormatError: `issuer_cert` is not a certificate.
    """
    request = CertificateRequest(
        common_name=common_name,
        public_key=subject_public_key,
        not_before=not_before,
        not_after=not_after,
        ca_path_length=None,
        sans=sans,
        usage=usage,
    )
    return issue_certificate(request, issuer_der=issuer_cert, issuer_key=issuer_key)


def anchor_without_extension(root_der: bytes, oid: str) -> bytes:
    """Return a stand-in for a root: its name and key, without one extension.

    For libraries that take from a trust anchor only name and key, but refuse to read one with a critical extension
    they do not know. Its signature is by a key that nobody keeps: it is no certificate for any other purpose.

    Raises:
        FormatError: Not a certificate.
    """
    root = _load(root_der)
    builder = (
        x509.CertificateBuilder()
        .subject_name(root.subject)
        .issuer_name(root.issuer)
        .public_key(_public_key(root))
        .serial_number(root.serial_number)
        .not_valid_before(root.not_valid_before_utc)
        .not_valid_after(root.not_valid_after_utc)
    )
    for found in _extensions(root):
        if found.oid.dotted_string != oid:
            builder = builder.add_extension(found.value, critical=found.critical)
    return builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(Encoding.DER)


# --- checking --------------------------------------------------------------------------------------------------------


def verify_chain(
    chain_der: Sequence[bytes],
    *,
    roots_der: Sequence[bytes],
    revocation: RevocationLists | None,
    now: datetime,
    understood_in_root: str | None = None,
    leaf_is_listed: bool = True,
) -> VerifiedChain:
    """Check a chain of certificates.

    1. The last certificate is, byte for byte, one of the roots.
    2. Each certificate is signed by the next (the root by itself), under the name it gives.
    3. Each is valid at `now`.
    4. Exactly those behind the first are CAs, may sign certificates, and allow the chain's length.
    5. No critical extension is unknown (`understood_in_root` is known in the root only).
    6. With revocation lists: each certificate's issuer has a list that it signed and that holds at `now`, and the
       certificate is not on it.

    Args:
        chain_der: Leaf first, root last; at least two.
        roots_der: The trusted roots; an empty sequence refuses.
        revocation: The revocation lists; None says that this hierarchy has none.
        now: The time of the check.
        understood_in_root: A critical extension that the caller understands and has checked.
        leaf_is_listed: False says that the leaf's issuer keeps no list: only the CAs are looked up.

    Returns:
        The leaf, the root, the earliest end of validity, and which lists were used.

    Raises:
        FormatError: A certificate or list is malformed.
        UntrustedRootError: The chain ends at another root.
        VerificationError: Something else above does not hold.

    Source: RFC 5280, section 6.1.
    """
    certificates = [_load(certificate_der) for certificate_der in chain_der]
    if len(certificates) < 2:  # noqa: PLR2004 - a leaf and a root
        raise VerificationError("a certificate chain needs a leaf and a root")
    if chain_der[-1] not in roots_der:
        raise UntrustedRootError(
            "the certificate chain ends at a root that is not trusted here",
            action="If this root is meant to be trusted, add it to the trusted roots.",
        )
    ends = _check_path(certificates, first_position=0, now=now, understood_in_root=understood_in_root)
    lists: list[VerifiedCrl] = []
    if revocation is not None:
        for certificate, issuer in zip(certificates, [*certificates[1:], certificates[-1]], strict=True):
            if leaf_is_listed or certificate is not certificates[0]:
                lists.append(revocation.check(certificate, issuer, now))
    starts = [certificate.not_valid_before_utc for certificate in certificates]
    return VerifiedChain(
        leaf_der=chain_der[0],
        root_der=chain_der[-1],
        not_after=min([*ends, *(found.next_update for found in lists)]),
        crl_numbers=tuple(found.number for found in lists),
        newest_signed=max([*starts, *(found.last_update for found in lists)]),
    )


def verify_authorities(
    chain_der: Sequence[bytes], *, roots_der: Sequence[bytes], now: datetime, understood_in_root: str | None = None
) -> datetime:
    """Check a chain of CAs that has no leaf: steps 1 to 5 of `verify_chain`. Revocation is not checked.

    Args:
        chain_der: The lowest CA first, the root last; the root alone is a chain too.
        roots_der: The trusted roots; an empty sequence refuses.
        now: The time of the check.
        understood_in_root: A critical extension that the caller understands and has checked.

    Returns:
        When the first of the certificates runs out.

    Raises:
        FormatError: A certificate is malformed.
        UntrustedRootError: The chain ends at another root, or is empty.
        VerificationError: Something else does not hold.

    Source: RFC 5280, section 6.1.
    """
    if not chain_der or chain_der[-1] not in roots_der:
        raise UntrustedRootError("the CA's certificate chain ends at a root that is not trusted here")
    certificates = [_load(certificate_der) for certificate_der in chain_der]
    return min(_check_path(certificates, first_position=1, now=now, understood_in_root=understood_in_root))


def verify_crl(crl_der: bytes, *, issuer_der: bytes, now: datetime) -> VerifiedCrl:
    """Check that a revocation list was signed by its issuer and holds at `now`.

    The caller MUST have checked the issuer's own chain (`verify_authorities`).

    Raises:
        FormatError: List or certificate are malformed.
        VerificationError: Another issuer, a bad signature, or out of date.

    Source: RFC 5280, section 5.
    """
    crl, issuer = _load_crl(crl_der), _load(issuer_der)
    if crl.issuer != issuer.subject:
        raise VerificationError("the revocation list is of another issuer")
    found = _check_crl(crl, issuer)
    _check_validity(found.last_update, found.next_update, now, "a revocation list")
    return found


def verify_leaf(chain_der: list[bytes], *, identity: str, usage: LeafUsage, now: datetime) -> LeafCertificate:
    """Check that a leaf was issued by a service's pinned identity.

    Args:
        chain_der: The leaf and the identity certificate.
        identity: SHA-256 of the identity key's SubjectPublicKeyInfo, 64 hexadecimal digits.
        usage: What the leaf is about to be used for; it must say so.
        now: The time of the check.

    Returns:
        The leaf.

    Raises:
        FormatError: A certificate is malformed.
        VerificationError: Another identity, an expired certificate, a bad signature, or another usage.
    """
    if len(chain_der) != _IDENTITY_CHAIN or spki_sha256(chain_der[1]) != identity:
        raise UntrustedRootError(
            "the certificate was not issued by the pinned identity",
            action="Check that the service is the one that was pinned.",
        )
    verified = verify_chain(chain_der, roots_der=[chain_der[1]], revocation=None, now=now)
    leaf = _load(verified.leaf_der)
    usages = _extension_value(leaf, x509.ExtendedKeyUsage)
    if usages is None or [found.dotted_string for found in usages] != [usage.value]:
        raise VerificationError("the certificate is for another use")
    names = _extension_value(leaf, x509.SubjectAlternativeName)
    return LeafCertificate(
        certificate_der=verified.leaf_der,
        public_key=VerifyingKey(_public_key(leaf)),
        common_name=_common_name(leaf),
        sans=() if names is None else tuple(str(name.value) for name in names),
        not_after=verified.not_after,
    )


def demand_valid(certificate_der: bytes, *, now: datetime) -> None:
    """Refuse a certificate before and after its validity; its signature is not looked at.

    Raises:
        FormatError: Not a certificate.
        VerificationError: It is not valid at `now`.
    """
    certificate = _load(certificate_der)
    _check_validity(certificate.not_valid_before_utc, certificate.not_valid_after_utc, now, "the certificate")


def _check_path(
    certificates: Sequence[x509.Certificate], *, first_position: int, now: datetime, understood_in_root: str | None
) -> list[datetime]:
    """Check signatures, validity and extensions of a path; return when each of its certificates runs out.

    Args:
        certificates: In their order, the root last.
        first_position: How many certificates stand between the leaf and the first one: 0 if it is the leaf itself.
        now: The time of the check.
        understood_in_root: A critical extension that the caller understands.
    """
    for index, certificate in enumerate(certificates):
        is_root = index == len(certificates) - 1
        _check_issued_by(certificate, certificates[index if is_root else index + 1])
        _check_validity(certificate.not_valid_before_utc, certificate.not_valid_after_utc, now, "a certificate")
        _check_extensions(certificate, first_position + index, understood=understood_in_root if is_root else None)
    return [certificate.not_valid_after_utc for certificate in certificates]


def _check_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> None:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, *_MALFORMED) as error:
        raise VerificationError("a certificate was not signed by the next one of its chain") from error


def _check_validity(start: datetime, end: datetime, now: datetime, what: str) -> None:
    if not start <= now <= end:
        raise VerificationError(
            f"{what} is not valid at this time",
            action="Check the clock; renew what has expired.",
            mismatches=(
                Mismatch(name="time", expected=f"{to_rfc3339(start)} to {to_rfc3339(end)}", actual=to_rfc3339(now)),
            ),
        )


def _check_extensions(certificate: x509.Certificate, position: int, *, understood: str | None) -> None:
    known = _UNDERSTOOD_CRITICAL | ({x509.ObjectIdentifier(understood)} if understood else set())
    if any(found.critical and found.oid not in known for found in _extensions(certificate)):
        raise VerificationError("a certificate has a critical extension that is not known here")
    is_ca = position > 0
    constraints = _extension_value(certificate, x509.BasicConstraints)
    if (constraints is not None and constraints.ca) != is_ca:
        raise VerificationError("a certificate stands in the wrong place of its chain")
    if is_ca:
        usage = _extension_value(certificate, x509.KeyUsage)
        if usage is None or not usage.key_cert_sign:
            raise VerificationError("a certificate that may not sign certificates did")
        # `position - 1` CAs stand between this one and the leaf.
        if constraints and constraints.path_length is not None and constraints.path_length < position - 1:
            raise VerificationError("a certificate chain is longer than one of its CAs allows")


def _check_crl(crl: x509.CertificateRevocationList, issuer: x509.Certificate) -> VerifiedCrl:
    """Check a list's signature and extensions."""
    try:
        signed = crl.is_signature_valid(_public_key(issuer))
        critical = any(found.critical for found in crl.extensions)
        for revoked in crl:
            critical = critical or any(found.critical for found in revoked.extensions)
        end = crl.next_update_utc
        number = _crl_number(crl)
    except _MALFORMED as error:
        raise FormatError("a revocation list is malformed") from error
    if not signed or critical or end is None:
        raise VerificationError("a revocation list was not signed by its issuer, or cannot be understood")
    return VerifiedCrl(number=number or 0, last_update=crl.last_update_utc, next_update=end)


def _crl_number(crl: x509.CertificateRevocationList) -> int | None:
    numbers = [found.value.crl_number for found in crl.extensions if isinstance(found.value, x509.CRLNumber)]
    return numbers[0] if numbers else None


# --- the library's objects -------------------------------------------------------------------------------------------


# The library reads names, times and extensions when they are asked for: ask once, where malformed ones are expected.


def _load(certificate_der: bytes) -> x509.Certificate:
    try:
        certificate = x509.load_der_x509_certificate(certificate_der)
        _demand_whole_bytes(certificate_der, certificate.signature)
        _ = (certificate.subject, certificate.issuer, certificate.not_valid_before_utc, certificate.not_valid_after_utc)
    except _MALFORMED as error:
        raise FormatError("not a certificate in DER form") from error
    return certificate


def _load_crl(crl_der: bytes) -> x509.CertificateRevocationList:
    try:
        crl = x509.load_der_x509_crl(crl_der)
        _demand_whole_bytes(crl_der, crl.signature)
        _ = (crl.issuer, crl.last_update_utc, crl.next_update_utc, list(crl.extensions), list(crl))
    except _MALFORMED as error:
        raise FormatError("not a certificate revocation list in DER form") from error
    return crl


def _demand_whole_bytes(signed_der: bytes, signature: bytes) -> None:
    """Refuse a signature with "unused bits": nothing signs their number, so one document would have many spellings."""
    if not signed_der.endswith(b"\0" + signature):
        raise FormatError("the signature of a certificate or revocation list has unused bits")


def _public_key(certificate: x509.Certificate) -> Any:  # noqa: ANN401 - the library's union of all keys
    try:
        return certificate.public_key()
    except _MALFORMED as error:
        raise FormatError("a certificate's key is of an unknown kind") from error


def _extensions(certificate: x509.Certificate) -> list[x509.Extension[x509.ExtensionType]]:
    try:
        return list(certificate.extensions)
    except _MALFORMED as error:
        raise FormatError("a certificate's extensions are malformed") from error


def _extension_value(certificate: x509.Certificate, kind: type[Any]) -> Any:  # noqa: ANN401 - as the kind says
    return next((found.value for found in _extensions(certificate) if isinstance(found.value, kind)), None)


def _common_name(certificate: x509.Certificate) -> str:
    try:
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except _MALFORMED as error:
        raise FormatError("a certificate's subject is malformed") from error
    return str(names[0].value) if names else ""


def _name(common_name: str, organization: str) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    if organization:
        attributes.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    return x509.Name(attributes)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _authority_key_identifier(issuer_key: SigningKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.verifying_key.hazmat)


def _signature_of(key: _IssuerKey, *, pss: bool) -> dict[str, Any]:
    if pss:
        digest = hashes.SHA384()
        return {"algorithm": digest, "rsa_padding": padding.PSS(padding.MGF1(digest), digest.digest_size)}
    return {"algorithm": None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()}
