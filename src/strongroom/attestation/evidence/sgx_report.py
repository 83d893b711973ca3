"""SGX enclave reports: bytes ↔ frozen dataclasses, with the vendor's names.

All integers are little endian. `to_bytes` gives back exactly the bytes that were parsed.

Source: Intel SDM volume 3D, table 38-21 (REPORT); Intel SGX ECDSA Quote Library Reference, A.4.
"""

import struct
from dataclasses import dataclass
from typing import Final

from strongroom.base.errors import FormatError

REPORT_BODY_BYTES: Final = 384

FLAG_INIT: Final = 0x01
FLAG_DEBUG: Final = 0x02
FLAG_MODE64BIT: Final = 0x04
FLAG_PROVISION_KEY: Final = 0x10
FLAG_KSS: Final = 0x80

_REPORT: Final = struct.Struct("<16sI12s16sQQ32s32s32s32s64sHHH42s16s64s")


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
    def provision_key(self) -> bool:
        """The enclave may use the provisioning key, with which it could follow the processor across owners."""
        return bool(self.flags & FLAG_PROVISION_KEY)

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
