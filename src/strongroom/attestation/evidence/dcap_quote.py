"""DCAP quotes of SGX enclaves (versions 3 to 5) and of TDX trust domains (versions 4 and 5).

Bytes ↔ frozen dataclasses, with the vendor's names. All integers are little endian. `to_bytes` gives back exactly the
bytes that were parsed.

Source: Intel SGX ECDSA Quote Library Reference, appendix A (version 3); Intel TDX DCAP Quoting Library API, appendix A
(versions 4 and 5).
"""

import struct
from dataclasses import dataclass
from typing import Final, Generic, TypeAlias, TypeVar

from strongroom.attestation.evidence.reader import ByteReader
from strongroom.attestation.evidence.sgx_report import REPORT_BODY_BYTES, SgxReportBody, parse_report_body
from strongroom.attestation.evidence.td_report import (
    TD_REPORT_1_5_BYTES,
    TD_REPORT_BYTES,
    TdReportBody,
    parse_td_report,
)
from strongroom.base.errors import FormatError, LimitError
from strongroom.base.limits import LIMITS

ECDSA_P256: Final = 2
TEE_TYPE_SGX: Final = 0
TEE_TYPE_TDX: Final = 0x81
INTEL_QE_VENDOR_ID: Final = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
PCK_CERTIFICATE_CHAIN: Final = 5
QE_REPORT_CERTIFICATION_DATA: Final = 6
HEADER_BYTES: Final = 48

_SGX_VERSIONS: Final = (3, 4, 5)
_TDX_VERSIONS: Final = (4, 5)
_NESTS_CERTIFICATION: Final = 4
_HAS_DESCRIPTOR: Final = 5
_SGX_BODY: Final = 1
_TD_BODIES: Final = {TD_REPORT_BYTES: 2, TD_REPORT_1_5_BYTES: 3}
"""The body descriptor's type of a version 5 quote, by the body's size."""

_HEADER: Final = struct.Struct("<HHIHH16s20s")
_DESCRIPTOR: Final = struct.Struct("<HI")
_LENGTH: Final = struct.Struct("<I")
_QE_AUTH_LENGTH: Final = struct.Struct("<H")
_CERTIFICATION: Final = struct.Struct("<HI")
_SIGNATURE_BYTES: Final = 64
_KEY_BYTES: Final = 64
_WHAT: Final = "the quote"

Body = TypeVar("Body", SgxReportBody, TdReportBody)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuoteHeader:
    """The first 48 bytes.

    Attributes:
        version: 3, 4 or 5.
        att_key_type: 2, ECDSA over P-256.
        tee_type: 0, SGX, or 0x81, TDX.
        qe_svn: Security version of the quoting enclave; reserved from version 4 on.
        pce_svn: Security version of the provisioning certification enclave; reserved from version 4 on.
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

    def to_bytes(self, *, version: int) -> bytes:
        """Return the bytes behind the length field, as a quote of this version lays them out."""
        certification = b"".join(
            (
                self.qe_report.to_bytes(),
                self.qe_report_signature,
                _QE_AUTH_LENGTH.pack(len(self.qe_auth_data)),
                self.qe_auth_data,
                _CERTIFICATION.pack(PCK_CERTIFICATE_CHAIN, len(self.certification_data)),
                self.certification_data,
            )
        )
        if version >= _NESTS_CERTIFICATION:
            certification = _CERTIFICATION.pack(QE_REPORT_CERTIFICATION_DATA, len(certification)) + certification
        return self.isv_signature + self.attestation_key + certification


@dataclass(frozen=True, slots=True, kw_only=True)
class DcapQuote(Generic[Body]):
    """A whole quote: of an enclave (`SgxQuote`) or of a trust domain (`TdxQuote`)."""

    header: QuoteHeader
    report: Body
    signature: QuoteSignature

    def signed_bytes(self) -> bytes:
        """Return what the attestation key signed: header, body descriptor (version 5) and report."""
        report = self.report.to_bytes()
        if self.header.version < _HAS_DESCRIPTOR:
            return self.header.to_bytes() + report
        kind = _SGX_BODY if self.header.tee_type == TEE_TYPE_SGX else _TD_BODIES[len(report)]
        return self.header.to_bytes() + _DESCRIPTOR.pack(kind, len(report)) + report

    def to_bytes(self) -> bytes:
        """Return the quote's bytes."""
        signature = self.signature.to_bytes(version=self.header.version)
        return self.signed_bytes() + _LENGTH.pack(len(signature)) + signature


SgxQuote: TypeAlias = DcapQuote[SgxReportBody]
TdxQuote: TypeAlias = DcapQuote[TdReportBody]


def parse_sgx_quote(quote_bytes: bytes) -> SgxQuote:
    """Read an enclave's quote.

    Args:
        quote_bytes: The whole quote, nothing behind it.

    Returns:
        The quote; its values are claims until `verify_sgx` has verified them.

    Raises:
        FormatError: Truncated, trailing bytes, reserved bytes that are not zero, or a version, key type, TEE type,
            vendor or kind of certification data that we do not know.
        LimitError: Larger than `LIMITS.evidence_bytes`.

    Source: Intel SGX ECDSA Quote Library Reference, A.1; Intel TDX DCAP Quoting Library API, A.3.
    """
    reader, header = _open(quote_bytes)
    if header.tee_type != TEE_TYPE_SGX or header.version not in _SGX_VERSIONS:
        raise FormatError("not an SGX quote of version 3, 4 or 5")
    if header.version >= _HAS_DESCRIPTOR and _DESCRIPTOR.unpack(reader.take(_DESCRIPTOR.size)) != (
        _SGX_BODY,
        REPORT_BODY_BYTES,
    ):
        raise FormatError("the quote's body is not an SGX enclave's")
    report = parse_report_body(reader.take(REPORT_BODY_BYTES))
    return DcapQuote(header=header, report=report, signature=_close(reader, header))


def parse_tdx_quote(quote_bytes: bytes) -> TdxQuote:
    """Read a trust domain's quote.

    Args:
        quote_bytes: The whole quote. Some makers fill it up with zeros, which are left out.

    Returns:
        The quote; its values are claims until `verify_tdx` has verified them.

    Raises:
        FormatError: As for `parse_sgx_quote`.
        LimitError: Larger than `LIMITS.evidence_bytes`.

    Source: Intel TDX DCAP Quoting Library API, A.3 (version 4) and A.4 (version 5).
    """
    reader, header = _open(quote_bytes)
    if header.tee_type != TEE_TYPE_TDX or header.version not in _TDX_VERSIONS:
        raise FormatError("not a TDX quote of version 4 or 5")
    size = TD_REPORT_BYTES
    if header.version >= _HAS_DESCRIPTOR:
        kind, size = _DESCRIPTOR.unpack(reader.take(_DESCRIPTOR.size))
        if _TD_BODIES.get(size) != kind:
            raise FormatError("the quote's body is not that of a TDX 1.0 or 1.5 trust domain")
    report = parse_td_report(reader.take(size))
    return DcapQuote(header=header, report=report, signature=_close(reader, header))


def parse_header(header_bytes: bytes) -> QuoteHeader:
    """Read a quote's header.

    Args:
        header_bytes: Exactly 48 bytes.

    Raises:
        FormatError: Another size, key type or vendor, or reserved bytes that are not zero.

    Source: Intel SGX ECDSA Quote Library Reference, A.3; Intel TDX DCAP Quoting Library API, A.3.1.
    """
    if len(header_bytes) != HEADER_BYTES:
        raise FormatError("a quote header has 48 bytes")
    version, att_key_type, tee_type, qe_svn, pce_svn, vendor, user_data = _HEADER.unpack(header_bytes)
    if att_key_type != ECDSA_P256:
        raise FormatError("the quote is not signed with a P-256 key")
    if vendor != INTEL_QE_VENDOR_ID:
        raise FormatError("the quoting enclave is of an unknown vendor")
    if version >= _NESTS_CERTIFICATION and qe_svn | pce_svn:
        raise FormatError("a reserved byte of the quote's header is not zero")
    return QuoteHeader(
        version=version,
        att_key_type=att_key_type,
        tee_type=tee_type,
        qe_svn=qe_svn,
        pce_svn=pce_svn,
        qe_vendor_id=vendor,
        user_data=user_data,
    )


def _open(quote_bytes: bytes) -> tuple[ByteReader, QuoteHeader]:
    if len(quote_bytes) > LIMITS.evidence_bytes:
        raise LimitError("the quote is larger than allowed")
    reader = ByteReader(quote_bytes, what=_WHAT)
    return reader, parse_header(reader.take(HEADER_BYTES))


def _close(reader: ByteReader, header: QuoteHeader) -> QuoteSignature:
    """Read what stands behind the report, to the quote's end."""
    (size,) = _LENGTH.unpack(reader.take(_LENGTH.size))
    signed = ByteReader(reader.take(size), what=_WHAT)
    if header.tee_type != TEE_TYPE_TDX or any(reader.rest()):
        reader.finish()
    isv_signature = signed.take(_SIGNATURE_BYTES)
    attestation_key = signed.take(_KEY_BYTES)
    certification = signed
    if header.version >= _NESTS_CERTIFICATION:
        kind, size = _CERTIFICATION.unpack(signed.take(_CERTIFICATION.size))
        if kind != QE_REPORT_CERTIFICATION_DATA:
            raise FormatError("the quote does not carry its quoting enclave's report")
        certification = ByteReader(signed.take(size), what=_WHAT)
        signed.finish()
    qe_report = parse_report_body(certification.take(REPORT_BODY_BYTES))
    qe_report_signature = certification.take(_SIGNATURE_BYTES)
    (auth_size,) = _QE_AUTH_LENGTH.unpack(certification.take(_QE_AUTH_LENGTH.size))
    qe_auth_data = certification.take(auth_size)
    kind, size = _CERTIFICATION.unpack(certification.take(_CERTIFICATION.size))
    if kind != PCK_CERTIFICATE_CHAIN:
        raise FormatError("the quote does not carry its PCK certificate chain")
    certification_data = certification.take(size)
    certification.finish()
    return QuoteSignature(
        isv_signature=isv_signature,
        attestation_key=attestation_key,
        qe_report=qe_report,
        qe_report_signature=qe_report_signature,
        qe_auth_data=qe_auth_data,
        certification_data=certification_data,
    )
