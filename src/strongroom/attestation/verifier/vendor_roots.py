"""The hardware vendors' own roots, pinned by the SHA-256 of their keys (SubjectPublicKeyInfo).

A root's certificate travels with the evidence or its endorsements; here stands only what it must be.

Source: Intel SGX Provisioning Certification Service, "Intel SGX Root CA"; AMD key distribution service,
`/vcek/v1/{Milan,Genoa,Turin}/cert_chain`.
"""

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

from strongroom.attestation.verifier.roots import TrustedRoot
from strongroom.crypto import x509

Vendor: TypeAlias = Literal["Intel", "AMD"]

VENDOR_ROOTS: Final[Mapping[Vendor, Mapping[str, str]]] = {
    "Intel": {
        "a0af031289f5d5d4132f9186068a7fc13628633ba235777472e29b6b6c67a49e": "Intel SGX Root CA",
    },
    "AMD": {
        "9f056bee44377e29308cb5ffa895bdfb62d18881fa6bed8d6f075b0204089cb9": "ARK-Milan",
        "429a69c9422aa258ee4d8db5fcda9c6470ef15f8cd5a9cebd6cbc7d90b863831": "ARK-Genoa",
        "4f125410563a2ab9a50356f9243f6fe0b6f73de98603f53f90339c70e9d7ad08": "ARK-Turin",
    },
}
"""Common names by the SHA-256 of the keys."""


def vendor_root(certificate_der: bytes, *, vendor: Vendor) -> TrustedRoot | None:
    """Return a certificate as a trusted root, where it has the name and the key of one of a vendor's roots.

    The caller MUST still check that the certificate signs itself (`x509.verify_chain` does).

    Args:
        certificate_der: The last certificate of a chain, as it arrived.
        vendor: Whose roots count: those of one vendor say nothing about another's hardware.

    Returns:
        The root; None if it is none of the vendor's.

    Raises:
        FormatError: Not a certificate.
        ConfigurationError: It says that it is of simulated hardware.
    """
    name = VENDOR_ROOTS[vendor].get(x509.spki_sha256(certificate_der))
    if name is None or x509.common_name(certificate_der) != name:
        return None
    return TrustedRoot(certificate_der=certificate_der, simulated=False)
