"""SGX DCAP quotes, version 3: bytes ↔ frozen dataclasses, with the vendor's names.

All integers are little endian. `to_bytes` gives back exactly the bytes that were parsed.

Source: Intel SGX ECDSA Quote Library Reference, appendix A; Intel SDM volume 3D, table 38-21 (REPORT).
"""

import struct
from dataclasses import dataclass
from typing import Final

from strongroom.base.errors import FormatError, LimitError
from strongroom.base.limits import LIMITS

QUOTE_VERSION: Final = 3
ECDSA_P256: Final = 2
TEE_TYPE_SGX: Final = 0
INTEL_QE_VENDOR_ID: Final = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
PCK_CERTIFICATE_CHAIN: Final = 5

HEADER_BYTES: Final = 48
REPORT_BODY_BYTES: Final = 384

_HEADER: Final = struct.Struct("<HHIHH16s20s")
_REPORT: Final = struct.Struct("<16sI12s16sQQ32s32s32s32s64sHHH42s16s64s")
_LENGTH: Final = struct.Struct("<I")
_QE_AUTH_LENGTH: Final = struct.Struct("<H")
_CERTIFICATION: Final = struct.Struct("<HI")
_SIGNATURE_BYTES: Final = 64
_KEY_BYTES: Final = 64

FLAG_INIT: Final = 0x01
FLAG_DEBUG: Final = 0x02
FLAG_MODE64BIT: Final = 0x04
FLAG_KSS: Final = 0x80


@dataclass(frozen=True, slots=True, kw_only=True)
class QuoteHeader:
    """The first 48 bytes.

    Attributes:
        version: 3.
        att_key_type: 2, ECDSA over P-256.
        tee_type: 0, SGX.
        qe_svn: Security version of the quoting enclave.
        pce_svn: Security version of the provisioning certification enclave.
        qe_vendor_id: 16 bytes; who made the quoting enclave.
        user_data: 20 bytes; the first 16 name the platform.
    """

    version: int
    att_key_type: int
    tee_type: int
    qe_svn: int
    pce_svn: int
    qe_vendor_id: bytes
    user_data: bytes

    def to_bytes(self) -> bytes:
        """Return the 48 bytes."""
        return _HEADER.pack(
            self.version,
            self.att_key_type,
            self.tee_type,
            self.qe_svn,
            self.pce_svn,
            self.qe_vendor_id,
            self.user_data,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SgxAttributes:
    """ATTRIBUTES of an enclave: two words of 64 bits."""

    flags: int
    xfrm: int

    @property
    def debug(self) -> bool:
        """The enclave was launched for debugging: the host can read and change its memory."""
        return bool(self.flags & FLAG_DEBUG)

    @property
    def kss(self) -> bool:
        """Key separation and sharing is on: config_id, isv_family_id and the like were fixed at launch."""
        return bool(self.flags & FLAG_KSS)

    def to_bytes(self) -> bytes:
        """Return the 16 bytes."""
        return struct.pack("<QQ", self.flags, self.xfrm)


@dataclass(frozen=True, slots=True, kw_only=True)
class SgxReportBody:
    """`sgx_report_body_t`, 384 bytes: what the processor says about an enclave.

    Attributes:
        cpusvn: 16 bytes; security versions of the processor's parts.
        miscselect: Which extended features save their state.
        isv_ext_prod_id: 16 bytes (with KSS).
        attributes: Debug, 64 bit, KSS and the like.
        mrenclave: 32 bytes; measurement of what was loaded.
        mrsigner: 32 bytes; who signed it.
        config_id: 64 bytes (with KSS), fixed at launch; here the application digest and 32 zero bytes.
        isv_prod_id: The signer's number for the product.
        isv_svn: The signer's security version of the product.
        config_svn: Security version of the configuration (with KSS).
        isv_family_id: 16 bytes (with KSS).
        report_data: 64 bytes that the enclave chose.
    """

    cpusvn: bytes
    miscselect: int = 0
    isv_ext_prod_id: bytes = bytes(16)
    attributes: SgxAttributes
    mrenclave: bytes
    mrsigner: bytes
    config_id: bytes = bytes(64)
    isv_prod_id: int
    isv_svn: int
    config_svn: int = 0
    isv_family_id: bytes = bytes(16)
    report_data: bytes

    def to_bytes(self) -> bytes:
        """Return the 384 bytes."""
        return _REPORT.pack(
            self.cpusvn,
            self.miscselect,
            bytes(12),
            self.isv_ext_prod_id,
            self.attributes.flags,
            self.attributes.xfrm,
            self.mrenclave,
            bytes(32),
            self.mrsigner,
            bytes(32),
            self.config_id,
            self.isv_prod_id,
            self.isv_svn,
            self.config_svn,
            bytes(42),
            self.isv_family_id,
            self.report_data,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class QuoteSignature:
    """What vouches for header and report.

    Attributes:
        isv_signature: r || s over header and report, by the attestation key.
        attestation_key: x || y, P-256.
        qe_report: The quoting enclave's own report; its report data names the attestation key.
        qe_report_signature: r || s over the quoting enclave's report, by the platform's PCK.
        qe_auth_data: What the quoting enclave hashed together with the attestation key.
        certification_data: PEM of the PCK certificate chain: leaf, CA, root.
    """

    isv_signature: bytes
    attestation_key: bytes
    qe_report: SgxReportBody
    qe_report_signature: bytes
    qe_auth_data: bytes
    certification_data: bytes

    def to_bytes(self) -> bytes:
        """Return the bytes behind the length field."""
        return b"".join(
            (
                self.isv_signature,
                self.attestation_key,
                self.qe_report.to_bytes(),
                self.qe_report_signature,
                _QE_AUTH_LENGTH.pack(len(self.qe_auth_data)),
                self.qe_auth_data,
                _CERTIFICATION.pack(PCK_CERTIFICATE_CHAIN, len(self.certification_data)),
                self.certification_data,
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SgxQuote:
    """A whole quote."""

    header: QuoteHeader
    report: SgxReportBody
    signature: QuoteSignature

    def signed_bytes(self) -> bytes:
        """Return what the attestation key signed: header and report."""
        return self.header.to_bytes() + self.report.to_bytes()

    def to_bytes(self) -> bytes:
        """Return the quote's bytes."""
        signature = self.signature.to_bytes()
        return self.signed_bytes() + _LENGTH.pack(len(signature)) + signature


def parse_sgx_quote(quote_bytes: bytes) -> SgxQuote:
    """Read a quote.

    Args:
        quote_bytes: The whole quote, nothing behind it.

    Returns:
        The quote; its values are claims until `verify_sgx` has verified them.

    Raises:
        FormatError: Truncated, trailing bytes, reserved bytes that are not zero, or a version, key type, TEE type,
            vendor or kind of certification data that we do not know.
        LimitError: Larger than `LIMITS.evidence_bytes`.

    Source: Intel SGX ECDSA Quote Library Reference, A.1.
    """
    if len(quote_bytes) > LIMITS.evidence_bytes:
        raise LimitError("the quote is larger than allowed")
    reader = _Reader(quote_bytes)
    header = parse_header(reader.take(HEADER_BYTES))
    report = parse_report_body(reader.take(REPORT_BODY_BYTES))
    (size,) = _LENGTH.unpack(reader.take(_LENGTH.size))
    signature = _parse_signature(_Reader(reader.take(size)))
    reader.finish()
    return SgxQuote(header=header, report=report, signature=signature)


def parse_header(header_bytes: bytes) -> QuoteHeader:
    """Read a quote's header.

    Args:
        header_bytes: Exactly 48 bytes.

    Raises:
        FormatError: Another size, version, key type, TEE type or vendor.

    Source: Intel SGX ECDSA Quote Library Reference, A.3.
    """
    if len(header_bytes) != HEADER_BYTES:
        raise FormatError("a quote header has 48 bytes")
    version, att_key_type, tee_type, qe_svn, pce_svn, vendor, user_data = _HEADER.unpack(header_bytes)
    if (version, att_key_type, tee_type) != (QUOTE_VERSION, ECDSA_P256, TEE_TYPE_SGX):
        raise FormatError("not an SGX quote of version 3 with a P-256 key")
    if vendor != INTEL_QE_VENDOR_ID:
        raise FormatError("the quoting enclave is of an unknown vendor")
    return QuoteHeader(
        version=version,
        att_key_type=att_key_type,
        tee_type=tee_type,
        qe_svn=qe_svn,
        pce_svn=pce_svn,
        qe_vendor_id=vendor,
        user_data=user_data,
    )


def parse_report_body(report_bytes: bytes) -> SgxReportBody:
    """Read an enclave report.

    Args:
        report_bytes: Exactly 384 bytes.

    Raises:
        FormatError: Another size, or a reserved byte that is not zero.

    Source: Intel SGX ECDSA Quote Library Reference, A.4 (Enclave Report Body); Intel SDM volume 3D, 38.15.
    """
    if len(report_bytes) != REPORT_BODY_BYTES:
        raise FormatError("an enclave report has 384 bytes")
    (
        cpusvn,
        miscselect,
        reserved_1,
        isv_ext_prod_id,
        flags,
        xfrm,
        mrenclave,
        reserved_2,
        mrsigner,
        reserved_3,
        config_id,
        isv_prod_id,
        isv_svn,
        config_svn,
        reserved_4,
        isv_family_id,
        report_data,
    ) = _REPORT.unpack(report_bytes)
    if any(reserved_1 + reserved_2 + reserved_3 + reserved_4):
        raise FormatError("a reserved byte of the enclave report is not zero")
    return SgxReportBody(
        cpusvn=cpusvn,
        miscselect=miscselect,
        isv_ext_prod_id=isv_ext_prod_id,
        attributes=SgxAttributes(flags=flags, xfrm=xfrm),
        mrenclave=mrenclave,
        mrsigner=mrsigner,
        config_id=config_id,
        isv_prod_id=isv_prod_id,
        isv_svn=isv_svn,
        config_svn=config_svn,
        isv_family_id=isv_family_id,
        report_data=report_data,
    )


def _parse_signature(reader: "_Reader") -> QuoteSignature:
    isv_signature = reader.take(_SIGNATURE_BYTES)
    attestation_key = reader.take(_KEY_BYTES)
    qe_report = parse_report_body(reader.take(REPORT_BODY_BYTES))
    qe_report_signature = reader.take(_SIGNATURE_BYTES)
    (auth_size,) = _QE_AUTH_LENGTH.unpack(reader.take(_QE_AUTH_LENGTH.size))
    qe_auth_data = reader.take(auth_size)
    kind, size = _CERTIFICATION.unpack(reader.take(_CERTIFICATION.size))
    if kind != PCK_CERTIFICATE_CHAIN:
        raise FormatError("the quote does not carry its PCK certificate chain")
    certification_data = reader.take(size)
    reader.finish()
    return QuoteSignature(
        isv_signature=isv_signature,
        attestation_key=attestation_key,
        qe_report=qe_report,
        qe_report_signature=qe_report_signature,
        qe_auth_data=qe_auth_data,
        certification_data=certification_data,
    )


class _Reader:
    """Bytes taken from the front, never more than there are."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._offset = 0

    def take(self, size_bytes: int) -> bytes:
        part = self._data[self._offset : self._offset + size_bytes]
        if len(part) != size_bytes:
            raise FormatError("the quote is truncated")
        self._offset += size_bytes
        return part

    def finish(self) -> None:
        if self._offset != len(self._data):
            raise FormatError("bytes follow the end of the quote")
