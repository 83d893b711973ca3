"""The leak search finds what it has to find: each form of each value in each container."""

import base64
import bz2
import gzip
import hashlib
import io
import pickle  # noqa: TID251 - the format in which Spark and Python exchange rows
import secrets
import struct
import zipfile
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import cramjam
import lz4.block
import lz4.frame
import pyarrow as pa
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet
from tests.support.leaks import LeakSearch, summary
from tests.support.needles import Needle, needles_of, secret_needles
from tests.support.streams import streams_in

VALUES: dict[str, Any] = {
    "zone": "Jamaica Bay·7",
    "trip": 7_351_829_374_518,
    "fare": 73518.2937451,
    "revenue": Decimal("73518293745.12"),
    "pickup": datetime(2018, 3, 4, 5, 6, 7, 123457, tzinfo=UTC),
}
SECRET = hashlib.sha256(b"a secret").digest()
SEARCH = LeakSearch(
    [*(needle for name, value in VALUES.items() for needle in needles_of(name, value)), *secret_needles("MEK", SECRET)]
)


def lz4_java(data: bytes, *, block_bytes: int = 1000) -> bytes:
    """What lz4-java's LZ4BlockOutputStream writes, with blocks that are too small to hold everything."""
    blocks = []
    for start in range(0, len(data), block_bytes):
        plain = data[start : start + block_bytes]
        packed = lz4.block.compress(plain, store_size=False)
        token, stored = (0x20, packed) if len(packed) < len(plain) else (0x10, plain)
        blocks.append(b"LZ4Block" + struct.pack("<BiiI", token, len(stored), len(plain), 0) + stored)
    return b"".join(blocks) + b"LZ4Block" + struct.pack("<BiiI", 0x10, 0, 0, 0)


def snappy_java(data: bytes, *, block_bytes: int = 1000) -> bytes:
    """What snappy-java's SnappyOutputStream writes."""
    blocks = [bytes(cramjam.snappy.compress_raw(data[i : i + block_bytes])) for i in range(0, len(data), block_bytes)]
    return b"\x82SNAPPY\x00" + struct.pack(">ii", 1, 1) + b"".join(struct.pack(">i", len(b)) + b for b in blocks)


def zip_file(data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inside", data)
    return file.getvalue()


CONTAINERS: dict[str, Callable[[bytes], bytes]] = {
    "as it is": bytes,
    "zlib 0": lambda data: zlib.compress(data, 0),
    "zlib 1": lambda data: zlib.compress(data, 1),
    "zlib 3": lambda data: zlib.compress(data, 3),
    "zlib 6": lambda data: zlib.compress(data, 6),
    "zlib 9": lambda data: zlib.compress(data, 9),
    "gzip": gzip.compress,
    "zip": zip_file,
    "LZ4 frame": lz4.frame.compress,
    "LZ4 of Java": lz4_java,
    "Snappy of Java": snappy_java,
    "Snappy framed": lambda data: bytes(cramjam.snappy.compress(data)),
    "Zstandard": zstandard.ZstdCompressor().compress,
    "Zstandard stream": lambda data: _streamed(zstandard.ZstdCompressor().compressobj(), data),
    "gzip in Zstandard in LZ4": lambda data: lz4_java(zstandard.ZstdCompressor().compress(gzip.compress(data))),
}


def _streamed(compressor: Any, data: bytes) -> bytes:
    return b"".join([compressor.compress(data[:700]), compressor.compress(data[700:]), compressor.flush()])


def every_needle() -> list[Needle]:
    return sorted(SEARCH.needles, key=lambda needle: (needle.of, needle.form))


def found(data: bytes) -> set[tuple[str, str]]:
    return {(leak.of, leak.form) for leak in SEARCH.search(data, place="here")}


@pytest.mark.parametrize("container", CONTAINERS)
def test_finds_every_needle_in_every_container(container: str) -> None:
    for needle in every_needle():
        # Letters repeat, so that the bytes are really compressed; random bytes keep the needle from being in one block.
        padding = b"nothing here " * 70 + secrets.token_bytes(60 + len(needle.pattern) % 2)
        data = b"before" + CONTAINERS[container](padding + needle.pattern + padding) + b"after"

        assert (needle.of, needle.form) in found(data), needle


@pytest.mark.parametrize("container", CONTAINERS)
def test_finds_nothing_where_nothing_is(container: str) -> None:
    data = CONTAINERS[container](b"nothing here " * 500 + secrets.token_bytes(200_000))

    assert not found(data)


@pytest.mark.parametrize("container", ["zlib 6", "gzip", "zip", "LZ4 of Java", "Snappy of Java", "Zstandard stream"])
def test_finds_what_comes_before_the_cut_of_a_truncated_stream(container: str) -> None:
    data = CONTAINERS[container](b"some words " * 200 + b"73518.2937451" + secrets.token_bytes(300_000))

    assert ("fare", "text") in found(data[: len(data) - 100_000])


def test_every_value_has_the_forms_that_are_searched_for() -> None:
    forms = {(needle.of, needle.form) for needle in every_needle()}

    assert {
        ("zone", "text"),
        ("zone", "UTF-16, little-endian"),
        ("zone", "JSON escapes"),
        ("trip", "integer, little-endian"),
        ("fare", "double, big-endian (Java, Kryo, pickle)"),
        ("revenue", "unscaled decimal, big-endian"),
        ("pickup", "INT96"),
        ("pickup", "milliseconds, little-endian"),
        ("pickup", "pickled datetime"),
        ("MEK", "base64 at offset 2"),
    } <= forms


@pytest.mark.parametrize("value", [17, 12.5, "12.50", Decimal("12.50"), "N"])
def test_refuses_to_search_for_what_is_found_everywhere(value: Any) -> None:
    with pytest.raises(AssertionError, match="not distinctive"):
        needles_of("value", value)


@pytest.mark.parametrize("codec", ["none", "snappy", "gzip", "zstd", "lz4"])
@pytest.mark.parametrize("dictionary", [True, False])
@pytest.mark.parametrize("old_timestamps", [True, False])
def test_finds_values_in_parquet_files(codec: str, *, dictionary: bool, old_timestamps: bool) -> None:
    rows = 3000
    columns = {
        name: pa.array([value if row == 1777 else _other(value, row) for row in range(rows)])
        for name, value in VALUES.items()
    }
    file = io.BytesIO()
    parquet.write_table(
        pa.table(columns),
        file,
        compression=codec,
        use_dictionary=dictionary,
        use_deprecated_int96_timestamps=old_timestamps,
        write_statistics=False,
        data_page_size=4000,
    )

    values = {value for value, _ in found(file.getvalue())}
    assert values == set(VALUES), codec


def _naive(value: Any) -> Any:
    return value.replace(tzinfo=None) if isinstance(value, datetime) else value


def _other(value: Any, row: int) -> Any:
    """A value of the same type, in the same order of magnitude."""
    match value:
        case str():
            return f"zone {row}"
        case datetime():
            return value.replace(minute=row % 60, second=row // 60, microsecond=row)
        case Decimal():
            return value + row + 1
        case _:
            return value + row + 1


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_finds_values_that_python_pickled(protocol: int) -> None:
    for name, value in VALUES.items():
        if not isinstance(value, Decimal):
            assert name in {of for of, _ in found(pickle.dumps([_naive(value)], protocol))}, name


@pytest.mark.parametrize("prefix", [b"", b"a", b"ab"])
def test_finds_a_key_inside_a_base64_text(prefix: bytes) -> None:
    text = base64.b64encode(prefix + SECRET + b"rest")

    assert {of for of, _ in found(b'{"key":"' + text + b'"}')} == {"MEK"}


def test_names_the_streams_that_a_finding_was_unpacked_from() -> None:
    data = b"12345" + gzip.compress(b"1" + zlib.compress(b"73518.2937451"))

    (leak,) = SEARCH.search(data, place="storage/part-0")
    assert leak.place == "storage/part-0 > gzip at 5 > zlib at 1"
    assert summary([leak]) == "storage/part-0 > gzip at 5 > zlib at 1: fare as text"


def test_finds_a_needle_across_two_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.support.leaks._WINDOW_BYTES", 1000)
    for start in range(980, 1001):
        assert ("fare", "text") in found(b"." * start + b"73518.2937451" + b"." * 10)


def test_other_compression_is_not_claimed_to_be_searched() -> None:
    assert not found(bz2.compress(b"73518.2937451" * 3))


@given(st.binary(max_size=300), st.sampled_from(sorted(CONTAINERS)), st.integers(0, 400), st.binary(max_size=3))
def test_any_bytes_are_unpacked_without_an_error(content: bytes, container: str, cut: int, edit: bytes) -> None:
    data = CONTAINERS[container](content)

    list(streams_in(data[:cut] + edit + data[cut + len(edit) :]))
