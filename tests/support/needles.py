"""What a value or a secret looks like where it leaks: as text, and in binary forms of Parquet, Spark, Java, Python."""

import base64
import math
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Final, TypeAlias

Value: TypeAlias = str | int | float | Decimal | datetime

MIN_BYTES: Final = 6
_MIN_TELLING_BYTES: Final = 5
_WORD_BYTES: Final = 8
_SECRET_BYTES: Final = 16
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_JULIAN_EPOCH_DAY: Final = 2_440_588 - date(1970, 1, 1).toordinal()


@dataclass(frozen=True, slots=True, kw_only=True)
class Needle:
    """One byte pattern to look for.

    Attributes:
        of: The value or secret, by a name that may be printed.
        form: How the pattern spells it.
        pattern: At least `MIN_BYTES` bytes.
    """

    of: str
    form: str
    pattern: bytes


def needles_of(name: str, value: Value) -> list[Needle]:
    """Return the forms of a value that a search can tell from chance.

    Raises:
        AssertionError: There is none: the value is not distinctive, and a search for it would find nothing or anything.
    """
    match value:
        case str():
            forms = _text_forms(value)
        case int():
            forms = [*_text_forms(str(value)), *_integer_forms("integer", value)]
        case float():
            forms = [*_text_forms(repr(value)), *_double_forms(value)]
        case Decimal():
            forms = [*_text_forms(str(value)), *_integer_forms("unscaled decimal", _unscaled(value))]
        case datetime():
            forms = _time_forms(value.replace(tzinfo=value.tzinfo or UTC))
    return _distinctive(name, forms)


def secret_needles(name: str, secret: bytes) -> list[Needle]:
    """Return the forms of a secret: raw, hexadecimal, base64 of both alphabets at any offset, Python's `repr`.

    Raises:
        AssertionError: It is too short to be a key.
    """
    assert len(secret) >= _SECRET_BYTES, f"{name} is no key"
    return _distinctive(
        name,
        [
            ("raw", secret),
            ("hexadecimal", secret.hex().encode()),
            ("upper-case hexadecimal", secret.hex().upper().encode()),
            ("hexadecimal, UTF-16", secret.hex().encode("utf-16-le")),
            ("hexadecimal with separators", secret.hex(":").encode()),
            ("Python's repr", repr(secret)[2:-1].encode()),
            *_base64_forms(secret),
        ],
    )


def _text_forms(text: str) -> list[tuple[str, bytes]]:
    if len(text) < MIN_BYTES:
        return []
    spellings = {"text": "utf-8", "UTF-16, little-endian": "utf-16-le", "UTF-16, big-endian": "utf-16-be"}
    forms = [(form, text.encode(encoding)) for form, encoding in spellings.items()]
    if not text.isascii():
        forms.append(("JSON escapes", text.encode("ascii", "backslashreplace")))
    return forms


def _integer_forms(name: str, value: int) -> Iterator[tuple[str, bytes]]:
    """Return a 64-bit word of Parquet, Arrow and UnsafeRow, Java's and Kryo's, and the shorter ones of pickle.

    A pickled integer and a fixed-length decimal have no more bytes than they need. Where these are enough to tell,
    they stand for the longer forms, which hold them.
    """
    needed = (value if value >= 0 else ~value).bit_length() // 8 + 1
    size = needed if needed >= MIN_BYTES else _WORD_BYTES
    yield f"{name}, little-endian", value.to_bytes(size, "little", signed=True)
    yield f"{name}, big-endian", value.to_bytes(size, "big", signed=True)


def _double_forms(value: float) -> Iterator[tuple[str, bytes]]:
    yield "double, little-endian (Parquet, Arrow, UnsafeRow)", struct.pack("<d", value)
    yield "double, big-endian (Java, Kryo, pickle)", struct.pack(">d", value)


def _time_forms(time: datetime) -> list[tuple[str, bytes]]:
    since = time - _EPOCH
    micros = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    nanos_of_day = (since.seconds * 1_000_000 + since.microseconds) * 1_000
    plain = time.replace(tzinfo=None)
    forms = [
        ("INT96", struct.pack("<qi", nanos_of_day, time.toordinal() + _JULIAN_EPOCH_DAY)),
        ("pickled datetime", _pickled(plain)),
        ("pickled datetime, protocol 2", _pickled(plain).decode("latin-1").encode()),
    ]
    for separator in " T":
        forms += _text_forms(plain.isoformat(sep=separator))
    for unit, count in {
        "seconds": micros // 1_000_000,
        "milliseconds": micros // 1_000,
        "microseconds": micros,
        "nanoseconds": micros * 1_000,
    }.items():
        forms += _integer_forms(unit, count)
    return forms


def _pickled(time: datetime) -> bytes:
    """Return the ten bytes in which Python pickles a time (`datetime.__reduce__`)."""
    state = time.__reduce__()[1][0]
    assert isinstance(state, bytes)
    return state


def _unscaled(value: Decimal) -> int:
    sign, digits, _ = value.as_tuple()
    number = int("".join(map(str, digits)))
    return -number if sign else number


def _base64_forms(secret: bytes) -> Iterator[tuple[str, bytes]]:
    """Return the characters that a secret alone decides, wherever it begins in what was encoded."""
    for encoding, encode in {"base64": base64.b64encode, "base64url": base64.urlsafe_b64encode}.items():
        for offset in range(3):
            text = encode(bytes(offset) + secret + bytes(2))
            first, end = math.ceil(offset * 8 / 6), (offset + len(secret)) * 8 // 6
            yield f"{encoding} at offset {offset}", text[first:end]


def _distinctive(name: str, forms: Iterable[tuple[str, bytes]]) -> list[Needle]:
    """Return each telling pattern once: long enough, and not mostly zeros."""
    patterns: dict[bytes, Needle] = {}
    for form, pattern in forms:
        telling = len(pattern) - pattern.count(0)
        if len(pattern) >= MIN_BYTES and telling >= _MIN_TELLING_BYTES:
            patterns.setdefault(pattern, Needle(of=name, form=form, pattern=pattern))
    assert patterns, f"{name} is not distinctive: nothing to search for"
    return list(patterns.values())
