"""Compressed streams in any bytes: found by their marks, unpacked as far as they go.

Raw Snappy and raw LZ4 carry no mark; they are found where a Parquet page header announces them.
"""

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import cramjam
import lz4.block
import lz4.frame
import zstandard

MAX_BYTES: Final = 512 << 20
_PIECE_BYTES: Final = 64 << 10
_MAX_PAGE_HEADER_BYTES: Final = 64 << 10
_MARKS: Final[dict[str, bytes]] = {
    "zlib": rb"\x78[\x01\x5e\x9c\xda]",
    "gzip": rb"\x1f\x8b\x08",
    "zip_member": rb"PK\x03\x04",
    "lz4_frame": rb"\x04\x22\x4d\x18",
    "lz4_block": rb"LZ4Block",
    "snappy_java": rb"\x82SNAPPY\x00",
    "snappy_framed": rb"\xff\x06\x00\x00sNaPpY",
    "zstandard": rb"\x28\xb5\x2f\xfd",
    # PageHeader's first three fields, all i32: type, uncompressed and compressed size.
    "parquet_page": rb"\x15[\x00\x02\x04\x06]\x15[\x80-\xff]{0,4}[\x01-\x7f]\x15[\x80-\xff]{0,4}[\x01-\x7f]",
}
_Unpack: TypeAlias = Callable[[memoryview], tuple[bytes, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """What was unpacked: of which kind, where it began, the contents."""

    kind: str
    offset: int
    content: bytes


def streams_in(data: bytes) -> Iterator[Stream]:
    """Return every compressed stream in the data; streams inside streams are for the caller to ask for."""
    view = memoryview(data)
    for kind, mark in _MARKS.items():  # one after the other: many times faster than all at once
        end = 0
        for match in re.finditer(mark, data, re.DOTALL):
            if match.start() >= end:  # otherwise the next block of a stream that is unpacked already
                content, used = _UNPACK[kind](view[match.start() :])
                if content:
                    end = match.start() + used
                    yield Stream(kind=kind, offset=match.start(), content=content)


def _fed(decompress: Callable[[memoryview], bytes], data: memoryview) -> bytes:
    """Feed a decompressor piece by piece: what comes out before an error counts."""
    pieces: list[bytes] = []
    size = 0
    with suppress(*_ERRORS):
        for start in range(0, len(data), _PIECE_BYTES):
            piece = decompress(data[start : start + _PIECE_BYTES])
            pieces.append(piece)
            size += len(piece)
            if size > MAX_BYTES:
                break
    return b"".join(pieces)


_ERRORS: Final = (
    zlib.error,
    zstandard.ZstdError,
    cramjam.DecompressionError,
    lz4.block.LZ4BlockError,
    RuntimeError,  # lz4.frame's
    EOFError,  # after the stream's end
    ValueError,
    OverflowError,
    MemoryError,
    struct.error,
    IndexError,
)


def _unpack_zlib(data: memoryview) -> tuple[bytes, int]:
    return _unpack_deflate(data, window_bits=zlib.MAX_WBITS)


def _unpack_gzip(data: memoryview) -> tuple[bytes, int]:
    return _unpack_deflate(data, window_bits=zlib.MAX_WBITS | 16)


def _unpack_deflate(data: memoryview, *, window_bits: int) -> tuple[bytes, int]:
    decompressor = zlib.decompressobj(window_bits)
    return _fed(_until(decompressor), data), 0


def _unpack_zip_member(data: memoryview) -> tuple[bytes, int]:
    with suppress(*_ERRORS):
        method, name_bytes, extra_bytes = struct.unpack_from("<8xH16xHH", data)
        if method == 8:
            return _unpack_deflate(data[30 + name_bytes + extra_bytes :], window_bits=-zlib.MAX_WBITS)
    return b"", 0


def _unpack_zstandard(data: memoryview) -> tuple[bytes, int]:
    decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
    return _fed(_until(decompressor), data), 0


def _unpack_lz4_frame(data: memoryview) -> tuple[bytes, int]:
    return _fed(_until(lz4.frame.LZ4FrameDecompressor()), data), 0


def _until(decompressor: Any) -> Callable[[memoryview], bytes]:
    """Return a decompressor's function, which says EOFError after its stream's end."""

    def decompress(piece: memoryview) -> bytes:
        if decompressor.eof:
            raise EOFError
        return bytes(decompressor.decompress(piece))

    return decompress


def _unpack_lz4_block(data: memoryview) -> tuple[bytes, int]:
    """Unpack lz4-java's blocks, which Spark writes: mark, token, two lengths, checksum, bytes."""
    blocks: list[bytes] = []
    position, header_bytes = 0, 21
    with suppress(*_ERRORS):
        while bytes(data[position : position + 8]) == b"LZ4Block":
            token, packed, unpacked = struct.unpack_from("<Bii", data, position + 8)
            block = data[position + header_bytes : position + header_bytes + max(packed, 0)]
            blocks.append(
                lz4.block.decompress(block, uncompressed_size=unpacked) if token & 0xF0 == 0x20 else bytes(block)
            )
            position += header_bytes + packed
    return b"".join(blocks), position


def _unpack_snappy_java(data: memoryview) -> tuple[bytes, int]:
    """Unpack a SnappyOutputStream of snappy-java: mark, two versions, then length and bytes of each block."""
    blocks: list[bytes] = []
    position = 16
    with suppress(*_ERRORS):
        while position + 4 <= len(data):
            (packed,) = struct.unpack_from(">i", data, position)
            if packed <= 0:
                break
            blocks.append(_raw_snappy(data[position + 4 : position + 4 + packed]))
            position += 4 + packed
    return b"".join(blocks), position


def _unpack_snappy_framed(data: memoryview) -> tuple[bytes, int]:
    """Unpack the framing format: chunks of a type, a length and, for data, a checksum."""
    blocks: list[bytes] = []
    position = 10
    with suppress(*_ERRORS):
        while position + 4 <= len(data):
            kind, size = data[position], int.from_bytes(data[position + 1 : position + 4], "little")
            chunk = data[position + 8 : position + 4 + size]
            if kind not in {0x00, 0x01} and not 0x80 <= kind <= 0xFF:
                break
            if kind in {0x00, 0x01}:
                blocks.append(_raw_snappy(chunk) if kind == 0x00 else bytes(chunk))
            position += 4 + size
    return b"".join(blocks), position


def _raw_snappy(data: memoryview) -> bytes:
    return bytes(cramjam.snappy.decompress_raw(data))


def _unpack_parquet_page(data: memoryview) -> tuple[bytes, int]:
    """Unpack a Parquet page that is raw Snappy or raw LZ4; the other codecs have marks of their own."""
    with suppress(*_ERRORS):
        header = _CompactReader(bytes(data[:_MAX_PAGE_HEADER_BYTES]))
        sizes = header.read_struct()
        unpacked, packed = sizes.get(2, 0), sizes.get(3, 0)
        page = data[header.position : header.position + packed]
        if not 0 < packed == len(page) or not 0 < unpacked <= MAX_BYTES:
            return b"", 0
        with suppress(*_ERRORS):
            if cramjam.snappy.decompress_raw_len(page) == unpacked:
                return _raw_snappy(page), 0
        return bytes(lz4.block.decompress(page, uncompressed_size=unpacked)), 0
    return b"", 0


class _CompactReader:
    """Reads the integers of one struct in Thrift's compact protocol, and gets past everything else."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0

    def read_struct(self) -> dict[int, int]:
        integers: dict[int, int] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._zigzag()
            kind = head & 0x0F
            if kind in {4, 5, 6}:
                integers[number] = self._zigzag()
            else:
                self._skip(kind)
        return integers

    def _skip(self, kind: int) -> None:
        match kind:
            case 1 | 2:  # a boolean, in the field's head
                pass
            case 3:
                self.position += 1
            case 4 | 5 | 6:
                self._varint()
            case 7:
                self.position += 8
            case 8:
                size = self._varint()
                self.position += size
            case 12:
                self.read_struct()
            case _:  # a page header has no list, set or map
                raise ValueError(kind)

    def _byte(self) -> int:
        self.position += 1
        return self._data[self.position - 1]

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)


_UNPACK: Final[dict[str, _Unpack]] = {
    "zlib": _unpack_zlib,
    "gzip": _unpack_gzip,
    "zip_member": _unpack_zip_member,
    "lz4_frame": _unpack_lz4_frame,
    "lz4_block": _unpack_lz4_block,
    "snappy_java": _unpack_snappy_java,
    "snappy_framed": _unpack_snappy_framed,
    "zstandard": _unpack_zstandard,
    "parquet_page": _unpack_parquet_page,
}
