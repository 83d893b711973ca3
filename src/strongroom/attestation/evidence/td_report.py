"""TDX trust domain reports, as quotes carry them: TDX 1.0 and 1.5. Bytes ↔ frozen dataclasses, with the vendor's names.

All integers are little endian. `to_bytes` gives back exactly the bytes that were parsed.

Source: Intel TDX DCAP Quoting Library API, A.3.2 (TD Quote Body), A.4 (TDX 1.5); Intel TDX Module ABI, ATTRIBUTES.
"""

import struct
from dataclasses import dataclass
from typing import Final

from strongroom.attestation.evidence.bits import read_bits, write_bits
from strongroom.base.errors import FormatError

TD_REPORT_BYTES: Final = 584
TD_REPORT_1_5_BYTES: Final = 648

_REPORT: Final = struct.Struct("<16s48s48s8sQQ48s48s48s48s48s48s48s48s64s")
_EXTENSION: Final = struct.Struct("<16s48s")
_TUD: Final = 0xFF
_ATTRIBUTE_BITS: Final = {
    "debug": 0,
    "hgs_plus_prof": 4,
    "perf_prof": 5,
    "pmt_prof": 6,
    "icssd": 16,
    "lass": 27,
    "sept_ve_disable": 28,
    "migratable": 29,
    "pks": 30,
    "kl": 31,
    "tpa": 62,
    "perfmon": 63,
}
_RESERVED: Final = (1 << 64) - 1 - sum(1 << position for position in _ATTRIBUTE_BITS.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class TdAttributes:
    """ATTRIBUTES of a trust domain: 64 bits.

    Attributes:
        debug: The host may read and change the trust domain's memory.
        hgs_plus_prof, perf_prof, pmt_prof: The host may watch what runs.
        icssd: Entropy of the trust domain may be observed across its calls.
        lass: Linear address space separation is on.
        sept_ve_disable: A page that the host takes away ends the trust domain instead of raising an exception in it.
        migratable: It may be moved to another machine.
        pks: Supervisor protection keys are on.
        kl: Key Locker is on.
        tpa: It attests other trust domains.
        perfmon: It uses performance counters.
    """

    debug: bool = False
    hgs_plus_prof: bool = False
    perf_prof: bool = False
    pmt_prof: bool = False
    icssd: bool = False
    lass: bool = False
    sept_ve_disable: bool = False
    migratable: bool = False
    pks: bool = False
    kl: bool = False
    tpa: bool = False
    perfmon: bool = False

    @classmethod
    def from_int(cls, value: int) -> "TdAttributes":
        """Read the 64 bits.

        Raises:
            FormatError: A reserved bit is set.
        """
        if value & _RESERVED:
            raise FormatError("a reserved bit of the trust domain's attributes is set")
        return cls(**read_bits(value, _ATTRIBUTE_BITS))

    def to_int(self) -> int:
        """Return the 64 bits."""
        return write_bits(self, _ATTRIBUTE_BITS)

    @property
    def under_debug(self) -> bool:
        """Whether any bit of the group TUD is set: the trust domain is then not trusted, whatever else holds."""
        return bool(self.to_int() & _TUD)


@dataclass(frozen=True, slots=True, kw_only=True)
class TdReportBody:
    """What the TDX module says about a trust domain: 584 bytes (TDX 1.0) or 648 (TDX 1.5).

    Attributes:
        tee_tcb_svn: 16 bytes; security versions of the TDX module and the processor's parts.
        mrseam: 48 bytes; measurement of the TDX module.
        mrsignerseam: 48 bytes; its signer, zero for Intel.
        seam_attributes: 8 bytes.
        td_attributes: Debug, migration and the like.
        xfam: Which extended features the trust domain may use.
        mrtd: 48 bytes; measurement of what the trust domain started with.
        mrconfigid: 48 bytes, fixed at launch; here the application digest and 16 zero bytes.
        mrowner: 48 bytes of the owner, fixed at launch.
        mrownerconfig: 48 bytes of the owner, fixed at launch.
        rtmr: Four run-time measurement registers, 48 bytes each.
        report_data: 64 bytes that the trust domain chose.
        tee_tcb_svn2: 16 bytes; of the TDX module that runs now (TDX 1.5).
        mrservicetd: 48 bytes; measurement of the service trust domains bound to this one (TDX 1.5).
    """

    tee_tcb_svn: bytes
    mrseam: bytes
    mrsignerseam: bytes = bytes(48)
    seam_attributes: bytes = bytes(8)
    td_attributes: TdAttributes
    xfam: int
    mrtd: bytes
    mrconfigid: bytes = bytes(48)
    mrowner: bytes = bytes(48)
    mrownerconfig: bytes = bytes(48)
    rtmr: tuple[bytes, bytes, bytes, bytes]
    report_data: bytes
    tee_tcb_svn2: bytes | None = None
    mrservicetd: bytes | None = None

    def to_bytes(self) -> bytes:
        """Return the 584 or 648 bytes."""
        report = _REPORT.pack(
            self.tee_tcb_svn,
            self.mrseam,
            self.mrsignerseam,
            self.seam_attributes,
            self.td_attributes.to_int(),
            self.xfam,
            self.mrtd,
            self.mrconfigid,
            self.mrowner,
            self.mrownerconfig,
            *self.rtmr,
            self.report_data,
        )
        if self.tee_tcb_svn2 is None or self.mrservicetd is None:
            return report
        return report + _EXTENSION.pack(self.tee_tcb_svn2, self.mrservicetd)


def parse_td_report(report_bytes: bytes) -> TdReportBody:
    """Read a trust domain's report.

    Args:
        report_bytes: Exactly 584 or 648 bytes.

    Raises:
        FormatError: Another size, or a reserved bit that is set.

    Source: Intel TDX DCAP Quoting Library API, A.3.2 and A.4.
    """
    if len(report_bytes) not in (TD_REPORT_BYTES, TD_REPORT_1_5_BYTES):
        raise FormatError("a trust domain's report has 584 or 648 bytes")
    (
        tee_tcb_svn,
        mrseam,
        mrsignerseam,
        seam_attributes,
        td_attributes,
        xfam,
        mrtd,
        mrconfigid,
        mrowner,
        mrownerconfig,
        rtmr0,
        rtmr1,
        rtmr2,
        rtmr3,
        report_data,
    ) = _REPORT.unpack(report_bytes[:TD_REPORT_BYTES])
    extension = report_bytes[TD_REPORT_BYTES:]
    tee_tcb_svn2, mrservicetd = _EXTENSION.unpack(extension) if extension else (None, None)
    return TdReportBody(
        tee_tcb_svn=tee_tcb_svn,
        mrseam=mrseam,
        mrsignerseam=mrsignerseam,
        seam_attributes=seam_attributes,
        td_attributes=TdAttributes.from_int(td_attributes),
        xfam=xfam,
        mrtd=mrtd,
        mrconfigid=mrconfigid,
        mrowner=mrowner,
        mrownerconfig=mrownerconfig,
        rtmr=(rtmr0, rtmr1, rtmr2, rtmr3),
        report_data=report_data,
        tee_tcb_svn2=tee_tcb_svn2,
        mrservicetd=mrservicetd,
    )
