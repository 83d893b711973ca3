import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strongroom.base.encoding import to_b64url
from strongroom.base.errors import FormatError
from strongroom.datasets.identity import (
    DatasetWrite,
    aad_prefix,
    file_id_of,
    is_at_or_below,
    parse_path,
    parse_write_keys,
    with_file_id,
)
from strongroom.keys.hierarchy import derive_file_key
from strongroom.wire.key_service import NewWrite

FILE_ID = "0123456789abcdef" * 2
WRITE_ID = "fedcba9876543210" * 2


def test_aad_prefix_names_dataset_write_and_file() -> None:
    prefix = aad_prefix(dataset="trips", write_id=WRITE_ID, file_id=FILE_ID)
    assert prefix == f"strongroom/1|trips|{WRITE_ID}|{FILE_ID}".encode()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("part-0.snappy.parquet", f"part-0-{FILE_ID}.snappy.parquet"),
        ("by_month/m=1.5/part-0.parquet", f"by_month/m=1.5/part-0-{FILE_ID}.parquet"),
        ("no.dots/plain", f"no.dots/plain-{FILE_ID}"),
        (".hidden", f"-{FILE_ID}.hidden"),
    ],
)
def test_file_id_stands_before_the_first_dot_of_the_base_name(path: str, expected: str) -> None:
    assert with_file_id(path, file_id=FILE_ID) == expected
    assert file_id_of(expected) == FILE_ID


@pytest.mark.parametrize(
    "path",
    [
        "part-0.parquet",
        f"part{FILE_ID}.parquet",
        f"part-{FILE_ID.upper()}.parquet",
        f"part-{FILE_ID}0.parquet",
        f"part-{FILE_ID[1:]}.parquet",
        f"part.a-{FILE_ID}.parquet",
        f"folder-{FILE_ID}/part.parquet",
        f"part-{FILE_ID[:-1]}٣.parquet",
        FILE_ID,
    ],
)
def test_finds_no_file_id_elsewhere(path: str) -> None:
    assert file_id_of(path) is None


@pytest.mark.parametrize(
    "path", ["", "/a", "a/", "a//b", ".", "..", "a/../b", "a/./b", "a\\b", "a\n", "a\0b", "\x1f", "a" * 1025]
)
def test_refuses_paths_with_a_second_meaning(path: str) -> None:
    with pytest.raises(FormatError):
        parse_path(path)


@settings(deadline=None)
@given(st.text(max_size=64))
def test_any_text_is_a_path_or_raises_format_error(text: str) -> None:
    with contextlib.suppress(FormatError):
        assert parse_path(text) == text
        assert file_id_of(with_file_id(text, file_id=FILE_ID)) == FILE_ID


def test_places_are_whole_folder_names() -> None:
    assert is_at_or_below("a/b", "")
    assert is_at_or_below("a/b", "a")
    assert is_at_or_below("a/b", "a/b")
    assert not is_at_or_below("ab/c", "a")
    assert not is_at_or_below("a", "a/b")


def test_takes_over_the_key_services_write() -> None:
    message = NewWrite(write_id=WRITE_ID, key=to_b64url(b"k" * 32), wrapped="AAAA", base=3)
    write = DatasetWrite.from_message(message)
    assert (write.write_id, write.wrapped, write.base) == (WRITE_ID, "AAAA", 3)
    assert write.file_key(FILE_ID) == derive_file_key(write.key, file_id=FILE_ID)
    assert to_b64url(b"k" * 32) not in repr(write)


@pytest.mark.parametrize("key", ["", to_b64url(b"k" * 31), to_b64url(b"k" * 33), "not base64"])
def test_refuses_write_keys_of_another_size(key: str) -> None:
    with pytest.raises(FormatError):
        parse_write_keys({WRITE_ID: key})
