"""The PCK certificate: which platform signed, and how new its parts are.

Source: Intel SGX PCK Certificate and Certificate Revocation List Profile Specification, section 1.3.5.
"""

import functools
from dataclasses import dataclass
from typing import Final, Literal

from strongroom.attestation.evidence.dcap_quote import SgxQuote, TdxQuote
from strongroom.base.errors import FormatError
from strongroom.crypto import der, x509

SGX_EXTENSION: Final = "1.2.840.113741.1.13.1"
"""Object identifier of Intel's extension; its members lie under it."""

TCB_COMPONENTS: Final = 16
_CHAIN_LENGTH: Final = 3
_PPID_BYTES: Final = 16
_PCEID_BYTES: Final = 2
_FMSPC_BYTES: Final = 6
_KEPT: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class PckExtension:
    """What the PCK certificate says about the platform.

    Attributes:
        ppid: 16 bytes; the processor package.
        tcb_components: The 16 security versions that TCB levels are compared with.
        pce_svn: Security version of the provisioning certification enclave.
        pceid: 4 lower-case hexadecimal digits.
        fmspc: 12 lower-case hexadecimal digits: family, model, stepping, platform, custom SKU.
        cpu_svn: 16 bytes; the processor's own form of the components.
        sgx_type: 0 standard, 1 scalable (memory without integrity against the host's hardware), 2 scalable with
            integrity.
        platform_instance_id: 16 bytes; this and what follows only from a Platform CA.
        dynamic_platform: Packages may be added to the platform.
        cached_keys: The vendor keeps the platform's root keys.
        smt_enabled: More than one thread may run on a core.
    """

    ppid: bytes
    tcb_components: tuple[int, ...]
    pce_svn: int
    pceid: str
    fmspc: str
    cpu_svn: bytes
    sgx_type: int
    platform_instance_id: bytes | None
    dynamic_platform: bool | None
    cached_keys: bool | None
    smt_enabled: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformKind:
    """What endorsements are looked up by.

    Attributes:
        fmspc: 12 lower-case hexadecimal digits.
        ca: Which of the vendor's CAs issued the PCK certificate.
    """

    fmspc: str
    ca: Literal["platform", "processor"]


def pck_chain(quote: SgxQuote | TdxQuote) -> tuple[bytes, ...]:
    """Return the quote's PCK certificate chain, DER: leaf, CA, root.

    Raises:
        FormatError: Not three certificates.
    """
    chain = x509.parse_pem_chain(quote.signature.certification_data.rstrip(b"\x00"))
    if len(chain) != _CHAIN_LENGTH:
        raise FormatError("a PCK certificate chain has three certificates")
    return chain


def platform_kind(quote: SgxQuote | TdxQuote) -> PlatformKind:
    """Return which endorsements this quote needs. Unverified: good for a look-up, nothing else.

    Raises:
        FormatError: The quote's certificate chain is malformed, or of an unknown CA.
    """
    leaf, authority, _ = pck_chain(quote)
    return PlatformKind(fmspc=parse_pck_extension(leaf).fmspc, ca=authority_kind(authority))


def authority_kind(certificate_der: bytes) -> Literal["platform", "processor"]:
    """Return which PCK CA a certificate belongs to.

    Raises:
        FormatError: Neither of the two.
    """
    name = x509.common_name(certificate_der)
    if "Platform" in name:
        return "platform"
    if "Processor" in name:
        return "processor"
    raise FormatError("the PCK certificate was issued by an unknown CA")


@functools.lru_cache(maxsize=_KEPT)
def parse_pck_extension(certificate_der: bytes) -> PckExtension:
    """Read Intel's extension of a PCK certificate; of those read last, the outcome is kept.

    Args:
        certificate_der: The certificate.

    Raises:
        FormatError: No such extension, or a malformed one.

    Source: Intel SGX PCK Certificate Profile Specification, section 1.3.5.
    """
    found = x509.extension(certificate_der, SGX_EXTENSION)
    if found is None:
        raise FormatError("the certificate has no SGX extension: not a PCK certificate")
    values = _values(der.read_element(found.value_der), prefix=SGX_EXTENSION)
    tcb = _values(_required(values, "2"), prefix=f"{SGX_EXTENSION}.2")
    instance = values.get("6")
    flags = _values(values["7"], prefix=f"{SGX_EXTENSION}.7") if "7" in values else {}
    dynamic_platform, cached_keys, smt_enabled = (
        flags[number].boolean() if number in flags else None for number in ("1", "2", "3")
    )
    return PckExtension(
        ppid=_octets(_required(values, "1"), _PPID_BYTES),
        tcb_components=tuple(_required(tcb, str(number)).unsigned() for number in range(1, TCB_COMPONENTS + 1)),
        pce_svn=_required(tcb, "17").unsigned(),
        pceid=_octets(_required(values, "3"), _PCEID_BYTES).hex(),
        fmspc=_octets(_required(values, "4"), _FMSPC_BYTES).hex(),
        cpu_svn=_octets(_required(tcb, "18"), TCB_COMPONENTS),
        sgx_type=_required(values, "5").unsigned(),
        platform_instance_id=None if instance is None else _octets(instance, _PPID_BYTES),
        dynamic_platform=dynamic_platform,
        cached_keys=cached_keys,
        smt_enabled=smt_enabled,
    )


def _values(sequence: der.Element, *, prefix: str) -> dict[str, der.Element]:
    """Return the sequence's values by the part of their object identifier behind the prefix."""
    values: dict[str, der.Element] = {}
    for member in sequence.members():
        pair = member.members()
        if len(pair) != 2:  # noqa: PLR2004 - name and value
            raise FormatError("the SGX extension is malformed")
        base, _, last = pair[0].object_identifier().rpartition(".")
        if base != prefix or last in values:
            raise FormatError("the SGX extension has a foreign or repeated member")
        values[last] = pair[1]
    return values


def _required(values: dict[str, der.Element], name: str) -> der.Element:
    if name not in values:
        raise FormatError("the SGX extension lacks a member")
    return values[name]


def _octets(element: der.Element, size_bytes: int) -> bytes:
    content = element.expect(der.OCTET_STRING)
    if len(content) != size_bytes:
        raise FormatError("a member of the SGX extension has another size")
    return content
