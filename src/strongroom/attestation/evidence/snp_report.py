"""SEV-SNP attestation reports, versions 2, 3 and 5: bytes ↔ frozen dataclasses, with the vendor's names.

All integers are little endian. `to_bytes` gives back exactly the bytes that were parsed.

Source: AMD, SEV Secure Nested Paging Firmware ABI Specification (document 56860), revision 1.58: ATTESTATION_REPORT,
TCB_VERSION, GUEST_POLICY; chapter "ECDSA P-384 with SHA-384 signature format".
"""

import struct
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from typing_extensions import override

from strongroom.attestation.evidence.bits import read_bits, write_bits
from strongroom.base.errors import FormatError

REPORT_BYTES: Final = 0x4A0
SIGNED_BYTES: Final = 0x2A0
ECDSA_P384_SHA384: Final = 1

Product: TypeAlias = Literal["Milan", "Genoa", "Turin"]
SigningKeyKind: TypeAlias = Literal["VCEK", "VLEK", "none"]

_VERSIONS: Final = (2, 3, 5)
_HAS_CPUID: Final = 3
_HAS_MITIGATIONS: Final = 5
_BODY: Final = struct.Struct("<IIQ16s16sII8sQI4x64s48s32s48s48s32s32s8s24s64s8s4s4s8sQQ152x")
_HEAD_RESERVED: Final = slice(0x4C, 0x50)
_TAIL_RESERVED: Final = slice(0x208, SIGNED_BYTES)
_COMPONENT_BYTES: Final = 72
_COORDINATE_BYTES: Final = 48
_SIGNATURE_PADDING: Final = 512 - 2 * _COMPONENT_BYTES
_CPUID: Final = struct.Struct("<BBB21x")
_FIRMWARE: Final = struct.Struct("<BBBx")

_POLICY_ALWAYS_ONE: Final = 1 << 17
_POLICY_RESERVED: Final = ~((1 << 26) - 1)
_SIGNER_RESERVED: Final = ~0x1F
_SIGNING_KEYS: Final[dict[int, SigningKeyKind]] = {0: "VCEK", 1: "VLEK", 7: "none"}
_SIGNING_KEY_NUMBERS: Final = {name: number for number, name in _SIGNING_KEYS.items()}
_PLATFORM_INFO_RESERVED: Final = ~0b1011_1111
_PRODUCTS: Final[dict[tuple[int, int], Product]] = {(0x19, 0x0): "Milan", (0x19, 0x1): "Genoa", (0x1A, 0x0): "Turin"}


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestPolicy:
    """POLICY: what the guest's owner demanded at launch; the firmware enforces it.

    Attributes:
        abi_minor: Least minor version of the firmware's interface.
        abi_major: Least major version of it.
        smt: The machine may run two threads on a core.
        migrate_ma: A migration agent may be associated.
        debug: The host may read and change the guest's memory.
        single_socket: The guest runs on one socket only.
        cxl_allow: CXL devices may be populated.
        mem_aes_256_xts: Memory must be encrypted with AES-256-XTS.
        rapl_dis: Running average power limits must be off.
        ciphertext_hiding_dram: The host may not even read ciphertext.
        page_swap_disable: The host may not move or swap the guest's pages.
    """

    abi_minor: int = 0
    abi_major: int = 0
    smt: bool = False
    migrate_ma: bool = False
    debug: bool = False
    single_socket: bool = False
    cxl_allow: bool = False
    mem_aes_256_xts: bool = False
    rapl_dis: bool = False
    ciphertext_hiding_dram: bool = False
    page_swap_disable: bool = False

    @classmethod
    def from_int(cls, value: int) -> "GuestPolicy":
        """Read the 64 bits.

        Raises:
            FormatError: A reserved bit is set, or bit 17 is not.
        """
        if value & _POLICY_RESERVED or not value & _POLICY_ALWAYS_ONE:
            raise FormatError("a reserved bit of the guest policy has the wrong value")
        return cls(abi_minor=value & 0xFF, abi_major=value >> 8 & 0xFF, **read_bits(value, _POLICY_BITS))

    def to_int(self) -> int:
        """Return the 64 bits."""
        return self.abi_minor | self.abi_major << 8 | _POLICY_ALWAYS_ONE | write_bits(self, _POLICY_BITS)


_POLICY_BITS: Final = {
    "smt": 16,
    "migrate_ma": 18,
    "debug": 19,
    "single_socket": 20,
    "cxl_allow": 21,
    "mem_aes_256_xts": 22,
    "rapl_dis": 23,
    "ciphertext_hiding_dram": 24,
    "page_swap_disable": 25,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformInfo:
    """PLATFORM_INFO: how the machine runs.

    Attributes:
        smt_en: Two threads run on a core.
        tsme_en: All memory is encrypted, also that of the host.
        ecc_en: Memory has error correction.
        rapl_dis: Running average power limits are off.
        ciphertext_hiding_dram_en: The host cannot read ciphertext.
        alias_check_complete: No two addresses stand for one place of memory, as checked since the last reset.
        tio_en: Trusted devices (SEV-TIO) are enabled.
    """

    smt_en: bool = False
    tsme_en: bool = False
    ecc_en: bool = False
    rapl_dis: bool = False
    ciphertext_hiding_dram_en: bool = False
    alias_check_complete: bool = False
    tio_en: bool = False

    @classmethod
    def from_int(cls, value: int) -> "PlatformInfo":
        """Read the 64 bits.

        Raises:
            FormatError: A reserved bit is set.
        """
        if value & _PLATFORM_INFO_RESERVED:
            raise FormatError("a reserved bit of the platform info is set")
        return cls(**read_bits(value, _PLATFORM_INFO_BITS))

    def to_int(self) -> int:
        """Return the 64 bits."""
        return write_bits(self, _PLATFORM_INFO_BITS)


_PLATFORM_INFO_BITS: Final = {
    "smt_en": 0,
    "tsme_en": 1,
    "ecc_en": 2,
    "rapl_dis": 3,
    "ciphertext_hiding_dram_en": 4,
    "alias_check_complete": 5,
    "tio_en": 7,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TcbVersion:
    """TCB_VERSION: security versions of the firmware's parts. Its bytes are laid out as the product wants it.

    Attributes:
        boot_loader, tee, snp, microcode: One byte each.
        fmc: Turin's first mutable code; None on Milan and Genoa.
    """

    boot_loader: int
    tee: int
    snp: int
    microcode: int
    fmc: int | None = None

    def is_at_most(self, other: "TcbVersion") -> bool:
        """Whether no part is newer than the other's."""
        return all(mine <= others for mine, others in zip(self.parts(), other.parts(), strict=True))

    @override
    def __str__(self) -> str:
        parts = {} if self.fmc is None else {"fmc": self.fmc}
        parts |= {"boot_loader": self.boot_loader, "tee": self.tee, "snp": self.snp, "microcode": self.microcode}
        return " ".join(f"{name}={value}" for name, value in parts.items())

    def parts(self) -> tuple[int, ...]:
        """Return the parts, to compare with another version's one by one."""
        return (self.fmc or 0, self.boot_loader, self.tee, self.snp, self.microcode)


def parse_tcb_version(tcb_bytes: bytes, *, product: Product) -> TcbVersion:
    """Read a TCB version.

    Args:
        tcb_bytes: 8 bytes.
        product: The processor, which decides what stands where.

    Raises:
        FormatError: A reserved byte is not zero.
    """
    if product == "Turin":
        fmc, boot_loader, tee, snp, *reserved, microcode = tcb_bytes
    else:
        boot_loader, tee, *reserved, snp, microcode = tcb_bytes
        fmc = None
    if any(reserved):
        raise FormatError("a reserved byte of a TCB version is not zero")
    return TcbVersion(boot_loader=boot_loader, tee=tee, snp=snp, microcode=microcode, fmc=fmc)


def tcb_version_bytes(tcb: TcbVersion) -> bytes:
    """Return the 8 bytes of a TCB version."""
    if tcb.fmc is None:
        return bytes([tcb.boot_loader, tcb.tee, 0, 0, 0, 0, tcb.snp, tcb.microcode])
    return bytes([tcb.fmc, tcb.boot_loader, tcb.tee, tcb.snp, 0, 0, 0, tcb.microcode])


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuId:
    """Family, model and stepping of the processor, base and extended parts combined."""

    family: int
    model: int
    stepping: int

    @property
    def product(self) -> Product:
        """The product line.

        Raises:
            FormatError: One that we do not know.
        """
        found = _PRODUCTS.get((self.family, self.model >> 4))
        if found is None:
            raise FormatError("the report is of an unknown processor")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class FirmwareVersion:
    """A version of the firmware."""

    build: int
    minor: int
    major: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpReport:
    """ATTESTATION_REPORT, 1184 bytes.

    Attributes:
        version: 2, 3 or 5.
        guest_svn: The guest owner's security version.
        policy: What the guest's owner demanded at launch.
        family_id: 16 bytes of the guest's owner.
        image_id: 16 bytes of the guest's owner.
        vmpl: Privilege level of who asked: 0 is the highest, 3 the lowest.
        current_tcb: 8 bytes; what runs now.
        platform_info: How the machine runs.
        author_key_en: Whether `author_key_digest` stands for an author key.
        mask_chip_key: Whether the host had the chip's id masked.
        signing_key: Which key signed: of the chip (VCEK), of the cloud provider (VLEK), or none.
        report_data: 64 bytes that the guest chose.
        measurement: 48 bytes; the launch digest of the guest.
        host_data: 32 bytes that the host fixed at launch; here the application digest.
        id_key_digest: SHA-384 of the key that signed the id block.
        author_key_digest: SHA-384 of the key that certified that key.
        report_id: 32 bytes; this guest.
        report_id_ma: 32 bytes; its migration agent's report id.
        reported_tcb: 8 bytes; the TCB version that the signing key was derived for.
        cpuid: The processor (from version 3 on).
        chip_id: 64 bytes, zero where masked.
        committed_tcb: 8 bytes; the version below which the firmware cannot go back.
        current: Version of the firmware that runs.
        committed: Version of the firmware below which it cannot go back.
        launch_tcb: 8 bytes; the current TCB when the guest was launched or imported.
        launch_mit_vector: Mitigations that were verified at launch (version 5).
        current_mit_vector: Mitigations that are verified now (version 5).
        signature: r || s, 48 bytes each, big endian, over the first 672 bytes.
    """

    version: int
    guest_svn: int = 0
    policy: GuestPolicy
    family_id: bytes = bytes(16)
    image_id: bytes = bytes(16)
    vmpl: int
    current_tcb: bytes
    platform_info: PlatformInfo
    author_key_en: bool = False
    mask_chip_key: bool = False
    signing_key: SigningKeyKind
    report_data: bytes
    measurement: bytes
    host_data: bytes = bytes(32)
    id_key_digest: bytes = bytes(48)
    author_key_digest: bytes = bytes(48)
    report_id: bytes
    report_id_ma: bytes = b"\xff" * 32
    reported_tcb: bytes
    cpuid: CpuId | None = None
    chip_id: bytes
    committed_tcb: bytes
    current: FirmwareVersion
    committed: FirmwareVersion
    launch_tcb: bytes
    launch_mit_vector: int | None = None
    current_mit_vector: int | None = None
    signature: bytes = bytes(2 * _COORDINATE_BYTES)

    def signed_bytes(self) -> bytes:
        """Return what the signing key signed: the first 672 bytes."""
        signer = self.author_key_en | self.mask_chip_key << 1 | _SIGNING_KEY_NUMBERS[self.signing_key] << 2
        cpuid = self.cpuid
        return _BODY.pack(
            self.version,
            self.guest_svn,
            self.policy.to_int(),
            self.family_id,
            self.image_id,
            self.vmpl,
            ECDSA_P384_SHA384,
            self.current_tcb,
            self.platform_info.to_int(),
            signer,
            self.report_data,
            self.measurement,
            self.host_data,
            self.id_key_digest,
            self.author_key_digest,
            self.report_id,
            self.report_id_ma,
            self.reported_tcb,
            bytes(_CPUID.size) if cpuid is None else _CPUID.pack(cpuid.family, cpuid.model, cpuid.stepping),
            self.chip_id,
            self.committed_tcb,
            _firmware_bytes(self.current),
            _firmware_bytes(self.committed),
            self.launch_tcb,
            self.launch_mit_vector or 0,
            self.current_mit_vector or 0,
        )

    def to_bytes(self) -> bytes:
        """Return the report's bytes."""
        halves = (self.signature[:_COORDINATE_BYTES], self.signature[_COORDINATE_BYTES:])
        components = b"".join(half[::-1].ljust(_COMPONENT_BYTES, b"\0") for half in halves)
        return self.signed_bytes() + components + bytes(_SIGNATURE_PADDING)


def parse_snp_report(report_bytes: bytes) -> SnpReport:
    """Read a report.

    Args:
        report_bytes: Exactly 1184 bytes.

    Returns:
        The report; its values are claims until `verify_snp` has verified them.

    Raises:
        FormatError: Another size, version or signature algorithm, or reserved bits that have the wrong value.

    Source: AMD SEV-SNP Firmware ABI, ATTESTATION_REPORT.
    """
    if len(report_bytes) != REPORT_BYTES:
        raise FormatError("an SEV-SNP report has 1184 bytes")
    if any(report_bytes[_HEAD_RESERVED] + report_bytes[_TAIL_RESERVED]):
        raise FormatError("a reserved byte of the SEV-SNP report is not zero")
    (
        version,
        guest_svn,
        policy,
        family_id,
        image_id,
        vmpl,
        signature_algo,
        current_tcb,
        platform_info,
        signer_info,
        report_data,
        measurement,
        host_data,
        id_key_digest,
        author_key_digest,
        report_id,
        report_id_ma,
        reported_tcb,
        cpuid,
        chip_id,
        committed_tcb,
        current,
        committed,
        launch_tcb,
        launch_mit_vector,
        current_mit_vector,
    ) = _BODY.unpack(report_bytes[:SIGNED_BYTES])
    if version not in _VERSIONS:
        raise FormatError("not an SEV-SNP report of version 2, 3 or 5")
    if signature_algo != ECDSA_P384_SHA384:
        raise FormatError("the SEV-SNP report has an unknown signature algorithm")
    if signer_info & _SIGNER_RESERVED or signer_info >> 2 not in _SIGNING_KEYS:
        raise FormatError("the SEV-SNP report names an unknown signing key")
    has_mitigations = version >= _HAS_MITIGATIONS
    if not has_mitigations and launch_mit_vector | current_mit_vector:
        raise FormatError("a reserved byte of the SEV-SNP report is not zero")
    return SnpReport(
        version=version,
        guest_svn=guest_svn,
        policy=GuestPolicy.from_int(policy),
        family_id=family_id,
        image_id=image_id,
        vmpl=vmpl,
        current_tcb=current_tcb,
        platform_info=PlatformInfo.from_int(platform_info),
        author_key_en=bool(signer_info & 1),
        mask_chip_key=bool(signer_info & 2),
        signing_key=_SIGNING_KEYS[signer_info >> 2],
        report_data=report_data,
        measurement=measurement,
        host_data=host_data,
        id_key_digest=id_key_digest,
        author_key_digest=author_key_digest,
        report_id=report_id,
        report_id_ma=report_id_ma,
        reported_tcb=reported_tcb,
        cpuid=_parse_cpuid(cpuid, is_there=version >= _HAS_CPUID),
        chip_id=chip_id,
        committed_tcb=committed_tcb,
        current=_parse_firmware(current),
        committed=_parse_firmware(committed),
        launch_tcb=launch_tcb,
        launch_mit_vector=launch_mit_vector if has_mitigations else None,
        current_mit_vector=current_mit_vector if has_mitigations else None,
        signature=_parse_signature(report_bytes[SIGNED_BYTES:]),
    )


def _parse_cpuid(field: bytes, *, is_there: bool) -> CpuId | None:
    family, model, stepping = _CPUID.unpack(field)
    if any(field[3:]) or (not is_there and any(field)):
        raise FormatError("a reserved byte of the SEV-SNP report is not zero")
    return CpuId(family=family, model=model, stepping=stepping) if is_there else None


def _parse_firmware(field: bytes) -> FirmwareVersion:
    if field[3]:
        raise FormatError("a reserved byte of the SEV-SNP report is not zero")
    build, minor, major = _FIRMWARE.unpack(field)
    return FirmwareVersion(build=build, minor=minor, major=major)


def _firmware_bytes(version: FirmwareVersion) -> bytes:
    return _FIRMWARE.pack(version.build, version.minor, version.major)


def _parse_signature(field: bytes) -> bytes:
    r, s, padding = (
        field[:_COMPONENT_BYTES],
        field[_COMPONENT_BYTES : 2 * _COMPONENT_BYTES],
        field[2 * _COMPONENT_BYTES :],
    )
    if any(r[_COORDINATE_BYTES:] + s[_COORDINATE_BYTES:] + padding):
        raise FormatError("the signature of the SEV-SNP report is longer than P-384 allows")
    return r[:_COORDINATE_BYTES][::-1] + s[:_COORDINATE_BYTES][::-1]
