"""Certificates of servers under public authorities, where intermediates are to be found and names have wildcards.

The library does it; what we add is whose roots count, and that a certificate for another use does not.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID

from strongroom.base.errors import FormatError, UntrustedRootError, VerificationError
from strongroom.crypto.keys import VerifyingKey
from strongroom.crypto.x509 import LeafUsage, parse_pem_chain

if TYPE_CHECKING:
    from datetime import datetime

_MAX_CERTIFICATES: Final = 8
_MAX_INTERMEDIATES: Final = 4
_USES: Final = frozenset({ExtendedKeyUsageOID.SERVER_AUTH.dotted_string, LeafUsage.SIGNING.value})


def pinned_roots(pem: bytes, *, digests: Collection[str]) -> tuple[bytes, ...]:
    """Return those certificates of a PEM text that are pinned.

    Args:
        pem: Certificates from anywhere.
        digests: SHA-256 of the accepted ones, 64 hexadecimal digits.

    Raises:
        FormatError: Not certificates.
        UntrustedRootError: None of them is pinned.
    """
    found = tuple(each for each in parse_pem_chain(pem) if hashlib.sha256(each).hexdigest() in digests)
    if not found:
        raise UntrustedRootError(
            "none of the given root certificates is one that was pinned",
            action="Give the certificates whose SHA-256 the key's statement names.",
        )
    return found


def verify_server_chain(
    chain_der: Sequence[bytes], *, host: str, roots_der: Sequence[bytes], now: datetime
) -> VerifyingKey:
    """Check a server's certificate up to a root, as the public web's are checked.

    1. A path of at most four authorities leads from the first certificate to one of the roots: names, signatures,
       validity at `now`, constraints, uses of keys, no unknown critical extension.
    2. The first certificate is for this host, by its subject alternative names.
    3. Its key is for servers, or for a service's signatures (`LeafUsage.SIGNING`).

    Args:
        chain_der: The certificate, then others of which a path can be made; the root may be missing.
        host: A DNS name or an IP address.
        roots_der: The trusted roots; without any, nothing is.
        now: The time of the check.

    Returns:
        The certificate's key.

    Raises:
        FormatError: A certificate is malformed, or the host is no name.
        VerificationError: Something above does not hold.

    Source: RFC 5280, section 6; CA/Browser Forum, Baseline Requirements, section 7.1.
    """
    if not 1 <= len(chain_der) <= _MAX_CERTIFICATES:
        raise FormatError(f"a certificate chain has 1 to {_MAX_CERTIFICATES} certificates here")
    if not roots_der:
        raise UntrustedRootError("no root certificate is trusted here")
    leaf, *others = (_load(each) for each in chain_der)
    builder = (
        verification.PolicyBuilder()
        .store(verification.Store([_load(each) for each in roots_der]))
        .time(now)
        .max_chain_depth(_MAX_INTERMEDIATES)
        .extension_policies(ca_policy=verification.ExtensionPolicy.webpki_defaults_ca(), ee_policy=_leaf_policy())
    )
    try:
        builder.build_server_verifier(_subject(host)).verify(leaf, others)
        return VerifyingKey(leaf.public_key())
    except verification.VerificationError as error:
        raise VerificationError(
            f"the certificate is not one for {host} under a pinned root",
            action="Check which roots the key's statement pins, and the clock.",
        ) from error
    except ValueError as error:
        raise FormatError("a certificate holds a key or a name that cannot be read") from error


def _leaf_policy() -> verification.ExtensionPolicy:
    return verification.ExtensionPolicy.webpki_defaults_ee().require_present(
        x509.ExtendedKeyUsage, verification.Criticality.AGNOSTIC, _demand_use
    )


def _demand_use(_policy: verification.Policy, _certificate: x509.Certificate, usages: x509.ExtendedKeyUsage) -> None:
    if not any(usage.dotted_string in _USES for usage in usages):
        raise ValueError("the certificate is for another use")


def _subject(host: str) -> x509.DNSName | x509.IPAddress:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _load(certificate_der: bytes) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(certificate_der)
    except ValueError as error:
        raise FormatError("not a certificate in DER form") from error
