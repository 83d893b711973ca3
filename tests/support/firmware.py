"""A small firmware, made here, with the tables in which an SEV-SNP firmware says what the host has to measure.

Sources of the layout: EDK II, `OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm` (table of GUIDs before the reset vector),
`OvmfPkg/ResetVector/X64/OvmfSevMetadata.asm` (sections); AMD SEV-SNP Firmware ABI, 8.17.2 "PAGE_INFO structure".
"""

import hashlib
import struct
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

FOUR_GIB = 1 << 32
PAGE = 4096
RESET_ADDRESS = 0x80B004
HASH_TABLE_ADDRESS = 0x810C00
SECTIONS = {  # kind: (address, size)
    1: (0x800000, 2 * PAGE),  # memory of the firmware
    2: (0x80D000, PAGE),  # secrets
    3: (0x80E000, PAGE),  # CPUID
    0x10: (0x810000, PAGE),  # hashes of kernel, initial file system and command line
}
_FOOTER = "96b582de-1fb2-45f7-baea-a366c55a082d"
_HASH_TABLE = "7255371f-3a3b-4b04-927b-1da6efa8d454"
_RESET_BLOCK = "00f771de-1a7e-4fcb-890e-68c77e2fb44e"
_METADATA = "dc886566-984a-4798-a75e-5585a7bf67cc"
_RESET_VECTOR_BYTES = 32
_METADATA_FROM_END = 2048

_NORMAL, _VMSA, _ZERO, _SECRETS, _CPUID = 1, 2, 3, 5, 6


def make_firmware(path: Path, *, code: bytes = b"strongroom", sections: Iterable[int] = SECTIONS) -> Path:
    """Write a firmware of four pages.

    Args:
        path: Where.
        code: What stands at its beginning.
        sections: Which sections its metadata names.
    """
    data = bytearray(4 * PAGE)
    data[: len(code)] = code
    named = [struct.pack("<III", *SECTIONS[kind], kind) for kind in sections]
    metadata = b"ASEV" + struct.pack("<III", 16 + 12 * len(named), 1, len(named)) + b"".join(named)
    start = len(data) - _METADATA_FROM_END
    data[start : start + len(metadata)] = metadata
    table = b"".join(
        (
            _entry(_METADATA, struct.pack("<I", _METADATA_FROM_END)),
            _entry(_HASH_TABLE, struct.pack("<II", HASH_TABLE_ADDRESS, 1024)),
            _entry(_RESET_BLOCK, struct.pack("<I", RESET_ADDRESS)),
        )
    )
    table += struct.pack("<H", len(table) + 18) + uuid.UUID(_FOOTER).bytes_le
    end = len(data) - _RESET_VECTOR_BYTES
    data[end - len(table) : end] = table
    path.write_bytes(data)
    return path


@dataclass
class LaunchDigest:
    """The digest that the security processor makes of a guest's pages, page by page: a second implementation."""

    value: bytes = bytes(48)

    def measure(self, firmware: bytes, *, kernel_hashes: bytes | None, vmsas: Sequence[bytes]) -> str:
        """Return the digest of a guest: firmware, sections in the metadata's order, state of each processor."""
        self._pages(_NORMAL, FOUR_GIB - len(firmware), firmware)
        for kind, (address, size) in SECTIONS.items():
            match kind:
                case 1:
                    self._empty(_ZERO, address, size)
                case 2:
                    self._empty(_SECRETS, address, size)
                case 3:
                    self._empty(_CPUID, address, size)
                case _ if kernel_hashes is not None:
                    page = bytearray(PAGE)
                    offset = HASH_TABLE_ADDRESS - address
                    page[offset : offset + len(kernel_hashes)] = kernel_hashes
                    self._pages(_NORMAL, address, bytes(page))
                case _:
                    self._empty(_ZERO, address, size)
        for vmsa in vmsas:
            self._update(_VMSA, 0xFFFFFFFFF000, hashlib.sha384(vmsa).digest())
        return self.value.hex()

    def _pages(self, kind: int, address: int, data: bytes) -> None:
        for offset in range(0, len(data), PAGE):
            self._update(kind, address + offset, hashlib.sha384(data[offset : offset + PAGE]).digest())

    def _empty(self, kind: int, address: int, size: int) -> None:
        for offset in range(0, size, PAGE):
            self._update(kind, address + offset, bytes(48))

    def _update(self, kind: int, address: int, contents: bytes) -> None:
        info = self.value + contents + struct.pack("<HBBI", 0x70, kind, 0, 0) + struct.pack("<Q", address)
        assert len(info) == 0x70
        self.value = hashlib.sha384(info).digest()


def hash_table(kernel: bytes, initrd: bytes, append: str) -> bytes:
    """Return the table that QEMU hands to the firmware with `kernel-hashes=on`."""

    def entry(name: str, data: bytes) -> bytes:
        return uuid.UUID(name).bytes_le + struct.pack("<H", 50) + hashlib.sha256(data).digest()

    entries = (
        entry("97d02dd8-bd20-4c94-aa78-e7714d36ab2a", append.encode() + b"\0"),
        entry("44baf731-3a2f-4bd7-9af1-41e29169781d", initrd),
        entry("4de79437-abd2-427f-b835-d5b172d2045b", kernel),
    )
    header = uuid.UUID("9438d606-4f22-4cc9-b479-a793d411fd21").bytes_le + struct.pack("<H", 18 + 3 * 50)
    table = header + b"".join(entries)
    return table.ljust((len(table) + 15) & ~15, b"\0")


def _entry(name: str, data: bytes) -> bytes:
    return data + struct.pack("<H", len(data) + 18) + uuid.UUID(name).bytes_le
