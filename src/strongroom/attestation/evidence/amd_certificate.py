"""The certificate of the key that signs SEV-SNP reports: of a chip (VCEK) or of a cloud provider (VLEK).

Source: AMD, Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface Specification (document 57230),
section 3 ("X.509 extensions").
"""

import functools
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

from strongroom.attestation.evidence.snp_report import Product, TcbVersion
from strongroom.base.errors import FormatError
from strongroom.crypto import der, x509

AMD_ARC: Final = "1.3.6.1.4.1.3704.1"
"""AMD's object identifiers of endorsement certificates lie under it."""
HWID_BYTES: Final = 64
TURIN_HWID_BYTES: Final = 8
IA5_STRING: Final = 0x16

EndorsementKey: TypeAlias = Literal["VCEK", "VLEK"]

_COMMON_NAMES: Final[dict[str, EndorsementKey]] = {"SEV-VCEK": "VCEK", "SEV-VLEK": "VLEK"}
_MAX_BYTE: Final = 0xFF
_KEPT: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class AmdCertificate:
    """What the certificate says about the key and the firmware that it was derived for.

    Attributes:
        kind: Of the chip (VCEK) or of the cloud provider (VLEK).
        product: The product line.
        tcb: The firmware's security versions.
        hwid: The chip's id: 64 bytes, on Turin perhaps its first 8; None for a VLEK.
        csp_id: The cloud provider; None for a VCEK.
    """

    kind: EndorsementKey
    product: Product
    tcb: TcbVersion
    hwid: bytes | None
    csp_id: str | None


@functools.lru_cache(maxsize=_KEPT)
def parse_amd_certificate(certificate_der: bytes) -> AmdCertificate:
    """Read AMD's extensions of an endorsement key's certificate; of those read last, the outcome is kept.

    Raises:
        FormatError: Another kind of certificate, an extension is missing or malformed, or it says that the key is a
            chip's and a provider's at once.

    Source: AMD document 57230, table "Certificate extensions".
    """
    kind = _COMMON_NAMES.get(x509.common_name(certificate_der))
    if kind is None:
        raise FormatError("not the certificate of a VCEK or VLEK")
    product = _product(_text(_required(certificate_der, "2")))
    hwid, csp_id = x509.extension(certificate_der, f"{AMD_ARC}.4"), x509.extension(certificate_der, f"{AMD_ARC}.5")
    if (kind == "VCEK") != (hwid is not None) or (kind == "VLEK") != (csp_id is not None):
        raise FormatError("a VCEK names its chip, a VLEK its cloud provider")
    return AmdCertificate(
        kind=kind,
        product=product,
        tcb=_tcb(certificate_der, product),
        hwid=None if hwid is None else _hwid(hwid.value_der, product),
        csp_id=None if csp_id is None else _text(csp_id.value_der),
    )


def _required(certificate_der: bytes, name: str) -> bytes:
    found = x509.extension(certificate_der, f"{AMD_ARC}.{name}")
    if found is None:
        raise FormatError("the endorsement key's certificate lacks an extension")
    return found.value_der


def _product(name: str) -> Product:
    line = name.partition("-")[0]  # a VCEK's names the stepping as well: Milan-B0
    for product in get_args(Product):
        if line == product:
            return product  # type: ignore[no-any-return]
    raise FormatError("the endorsement key is of an unknown product")


def _tcb(certificate_der: bytes, product: Product) -> TcbVersion:
    return TcbVersion(
        boot_loader=_byte(certificate_der, "3.1"),
        tee=_byte(certificate_der, "3.2"),
        snp=_byte(certificate_der, "3.3"),
        microcode=_byte(certificate_der, "3.8"),
        fmc=_byte(certificate_der, "3.9") if product == "Turin" else None,
    )


def _byte(certificate_der: bytes, name: str) -> int:
    value = der.read_element(_required(certificate_der, name)).unsigned()
    if value > _MAX_BYTE:
        raise FormatError("a security version of the endorsement key is larger than a byte")
    return value


def _text(value_der: bytes) -> str:
    try:
        return der.read_element(value_der).expect(IA5_STRING).decode("ascii")
    except UnicodeDecodeError as error:
        raise FormatError("a text of the endorsement key's certificate is not ASCII") from error


def _hwid(value: bytes, product: Product) -> bytes:
    # The value stands bare, without a DER tag.
    sizes = (HWID_BYTES, TURIN_HWID_BYTES) if product == "Turin" else (HWID_BYTES,)
    content = value if len(value) in sizes else der.read_element(value).expect(der.OCTET_STRING)
    if len(content) not in sizes:
        raise FormatError("the chip's id has another size")
    return content
