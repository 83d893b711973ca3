import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom.base.errors import FormatError
from strongroom.crypto import der


@given(st.binary(max_size=64))
def test_any_bytes_parse_or_raise_format_error(data: bytes) -> None:
    with contextlib.suppress(FormatError):
        for element in der.read_elements(data):
            for read in (element.members, element.object_identifier, element.unsigned, element.boolean):
                with contextlib.suppress(FormatError):
                    read()


@given(st.integers(min_value=0, max_value=2**70))
def test_integers_survive(value: int) -> None:
    assert der.read_element(der.encode_unsigned(value)).unsigned() == value


@given(st.integers(0, 2), st.integers(0, 39), st.lists(st.integers(0, 2**130), max_size=5))
def test_object_identifiers_survive(first: int, second: int, rest: list[int]) -> None:
    dotted = ".".join(map(str, (first, second, *rest)))
    assert der.read_element(der.encode_object_identifier(dotted)).object_identifier() == dotted


@given(st.binary(min_size=0, max_size=400))
def test_elements_of_any_length_survive(content: bytes) -> None:
    assert der.read_element(der.encode(der.OCTET_STRING, content)).content == content


@pytest.mark.parametrize(
    "data",
    [
        b"\x04",
        b"\x04\x02a",
        b"\x04\x81\x01a",
        b"\x04\x82\x00\x80" + bytes(128),
        b"\x04\x80",
        b"\x1f\x01\x00",
        b"\x04\x01ab",
    ],
    ids=["no length", "truncated", "long form", "leading zero", "indefinite", "long tag", "trailing"],
)
def test_refuses_what_is_not_der(data: bytes) -> None:
    with pytest.raises(FormatError):
        der.read_element(data)


def test_refuses_object_identifiers_with_endless_numbers() -> None:
    for size in (40, 3000):
        identifier = der.Element(tag=der.OBJECT_IDENTIFIER, content=b"\x2a" + b"\xff" * size + b"\x7f")
        with pytest.raises(FormatError, match="256 bits"):
            identifier.object_identifier()


@pytest.mark.parametrize("content", [b"", b"\x00\x01", b"\x80", b"\xff"])
def test_refuses_negative_and_padded_integers(content: bytes) -> None:
    with pytest.raises(FormatError):
        der.Element(tag=der.INTEGER, content=content).unsigned()
