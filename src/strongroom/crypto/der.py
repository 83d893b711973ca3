"""The few DER forms that certificates' vendor extensions need, read strictly and written.

Source: ITU-T X.690, sections 8 and 10.
"""

from dataclasses import dataclass
from typing import Final

from strongroom.base.errors import FormatError

BOOLEAN: Final = 0x01
INTEGER: Final = 0x02
OCTET_STRING: Final = 0x04
OBJECT_IDENTIFIER: Final = 0x06
ENUMERATED: Final = 0x0A
UTF8_STRING: Final = 0x0C
SEQUENCE: Final = 0x30

_LONG_FORM: Final = 0x80
_MORE: Final = 0x80
_LOW_BITS: Final = 0x7F
_MAX_LENGTH_BYTES: Final = 4
_MAX_ARC_BITS: Final = 256
"""The largest arcs in use are UUIDs, of 128 bits (ITU-T X.667); Python does not write numbers of any length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Element:
    """One value: its tag (one byte) and its content."""

    tag: int
    content: bytes

    def expect(self, tag: int) -> bytes:
        """Return the content of an element that must have this tag.

        Raises:
            FormatError: It has another one.
        """
        if self.tag != tag:
            raise FormatError(f"DER: tag {tag:#04x} was expected, {self.tag:#04x} was found")
        return self.content

    def members(self) -> tuple["Element", ...]:
        """Return the members of a SEQUENCE.

        Raises:
            FormatError: Not a SEQUENCE of well-formed elements.
        """
        return read_elements(self.expect(SEQUENCE))

    def object_identifier(self) -> str:
        """Return an OBJECT IDENTIFIER in dotted form.

        Raises:
            FormatError: Not one.
        """
        return _dotted(self.expect(OBJECT_IDENTIFIER))

    def unsigned(self) -> int:
        """Return a non-negative INTEGER or ENUMERATED.

        Raises:
            FormatError: Another type, negative, or not in its shortest form.
        """
        if self.tag not in (INTEGER, ENUMERATED):
            raise FormatError("DER: an integer was expected")
        value = int.from_bytes(self.content, "big", signed=True)
        if value < 0 or _unsigned_content(value) != self.content:
            raise FormatError("DER: not a non-negative integer in its shortest form")
        return value

    def boolean(self) -> bool:
        """Return a BOOLEAN.

        Raises:
            FormatError: Not one.
        """
        content = self.expect(BOOLEAN)
        if content not in (b"\x00", b"\xff"):
            raise FormatError("DER: not a boolean")
        return content == b"\xff"


def read_elements(data: bytes) -> tuple[Element, ...]:
    """Read elements that stand one after another and fill the bytes exactly.

    Raises:
        FormatError: Truncated, trailing bytes, a long tag, or a length that is not in its shortest form.
    """
    elements = []
    offset = 0
    while offset < len(data):
        element, offset = _read(data, offset)
        elements.append(element)
    return tuple(elements)


def read_element(data: bytes) -> Element:
    """Read exactly one element.

    Raises:
        FormatError: Not exactly one well-formed element.
    """
    elements = read_elements(data)
    if len(elements) != 1:
        raise FormatError("DER: exactly one element was expected")
    return elements[0]


def encode(tag: int, content: bytes) -> bytes:
    """Return one element's bytes."""
    size = len(content)
    if size < _LONG_FORM:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, _LONG_FORM | len(length)]) + length + content


def encode_sequence(*members: bytes) -> bytes:
    """Return a SEQUENCE of encoded members."""
    return encode(SEQUENCE, b"".join(members))


def encode_unsigned(value: int, *, tag: int = INTEGER) -> bytes:
    """Return a non-negative INTEGER (or ENUMERATED)."""
    return encode(tag, _unsigned_content(value))


def encode_boolean(*, value: bool) -> bytes:
    """Return a BOOLEAN."""
    return encode(BOOLEAN, b"\xff" if value else b"\x00")


def encode_object_identifier(dotted: str) -> bytes:
    """Return an OBJECT IDENTIFIER from its dotted form."""
    first, second, *rest = (int(arc) for arc in dotted.split("."))
    return encode(OBJECT_IDENTIFIER, b"".join(_arc(arc) for arc in (first * 40 + second, *rest)))


def _read(data: bytes, offset: int) -> tuple[Element, int]:
    header = data[offset : offset + 2]
    if len(header) != 2 or header[0] & 0x1F == 0x1F:  # noqa: PLR2004 - tag and length; the long tag's mark
        raise FormatError("DER: truncated or an unknown kind of tag")
    start, size = offset + 2, header[1]
    if size & _LONG_FORM:
        count = size & _LOW_BITS
        length = data[start : start + count]
        size = int.from_bytes(length, "big")
        if not 1 <= count <= _MAX_LENGTH_BYTES or len(length) != count or length[0] == 0 or size < _LONG_FORM:
            raise FormatError("DER: a length is not in its shortest form")
        start += count
    content = data[start : start + size]
    if len(content) != size:
        raise FormatError("DER: truncated")
    return Element(tag=header[0], content=content), start + size


def _unsigned_content(value: int) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1, "big")


def _arc(value: int) -> bytes:
    groups = [value & _LOW_BITS]
    while value := value >> 7:
        groups.append(_MORE | value & _LOW_BITS)
    return bytes(reversed(groups))


def _dotted(content: bytes) -> str:
    if not content or content[-1] & _MORE:
        raise FormatError("DER: not an object identifier")
    arcs = []
    value = 0
    for byte in content:
        if value == 0 and byte == _MORE:
            raise FormatError("DER: an object identifier is not in its shortest form")
        value = value << 7 | byte & _LOW_BITS
        if value.bit_length() > _MAX_ARC_BITS:
            raise FormatError("DER: an object identifier has a number of more than 256 bits")
        if not byte & _MORE:
            arcs.append(value)
            value = 0
    first = min(arcs[0] // 40, 2)
    return ".".join(map(str, (first, arcs[0] - 40 * first, *arcs[1:])))
