"""Text forms of bytes and JSON, each with exactly one accepted spelling."""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias, cast

import rfc8785

from strongroom.base.errors import FormatError

_DOUBLE_LIMIT: Final = 2**53

Json: TypeAlias = Mapping[str, "Json"] | Sequence["Json"] | str | int | float | bool | None

_LARGEST_INTEGER: Final = (1 << 53) - 1
_encode_plain: Final = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")
).encode


def to_b64url(data: bytes) -> str:
    """Return unpadded base64url text (RFC 7515, section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def from_b64url(text: str) -> bytes:
    """Return the bytes of unpadded base64url text.

    Raises:
        FormatError: Another alphabet, padding, or unused bits that are not zero; so that one value has one spelling.
    """
    try:
        data = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error) as error:
        msg = "not base64url text"
        raise FormatError(msg) from error
    if to_b64url(data) != text:
        msg = "base64url text is not in its canonical spelling"
        raise FormatError(msg)
    return data


def from_any_b64(text: str) -> bytes:
    """Return the bytes of base64 or base64url text, padded or not, as Azure's clients send it.

    Raises:
        FormatError: The text is neither.
    """
    try:
        plain = text.replace("-", "+").replace("_", "/").rstrip("=").encode("ascii")
        return base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
    except (ValueError, binascii.Error) as error:
        msg = "not base64 text"
        raise FormatError(msg) from error


def from_hex(text: str, *, size_bytes: int | None = None) -> bytes:
    """Return the bytes of lower-case hexadecimal text.

    Raises:
        FormatError: Not lower-case hexadecimal, or of another size.
    """
    try:
        data = bytes.fromhex(text)
    except ValueError as error:
        msg = "not hexadecimal text"
        raise FormatError(msg) from error
    if data.hex() != text or (size_bytes is not None and len(data) != size_bytes):
        msg = "hexadecimal text of another size or spelling"
        raise FormatError(msg)
    return data


def canonical_json(value: Json) -> bytes:
    """Return RFC 8785 canonical JSON.

    Raises:
        FormatError: The value has no canonical form (NaN, integers beyond 2**53, not JSON).
    """
    try:
        if _is_plain(value):
            return _encode_plain(value).encode("utf-8")
        return rfc8785.dumps(cast("Any", value))
    except (rfc8785.CanonicalizationError, RecursionError, UnicodeError) as error:
        msg = "the value has no canonical JSON form"
        raise FormatError(msg) from error


def _is_plain(value: object) -> bool:
    """Return whether Python's own encoder writes a value in canonical form: without fractions, names in ASCII.

    It is several times faster than the library. Names in ASCII sort alike by code points and by UTF-16 units.
    """
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return True
    if kind is int:
        return -_LARGEST_INTEGER <= cast("int", value) <= _LARGEST_INTEGER
    if kind is dict:
        items = cast("dict[object, object]", value).items()
        return all(type(name) is str and name.isascii() and _is_plain(item) for name, item in items)
    if kind is list or kind is tuple:
        return all(map(_is_plain, cast("list[object]", value)))
    return False


def parse_json(text: bytes | str) -> Any:  # noqa: ANN401 - JSON is of any type; callers give it to a model
    """Parse JSON strictly: UTF-8, no duplicate names, no NaN or Infinity, no large number written as a fraction.

    What has a point or an exponent is read as a double. From 2**53 on, doubles are whole, so canonical JSON would write
    them as integers that it does not read; and 1e400 would be Infinity.

    Raises:
        FormatError: The text is not such JSON.
    """
    try:
        return json.loads(
            text.decode("utf-8") if isinstance(text, bytes) else text,
            object_pairs_hook=_unique_pairs,
            parse_float=_exact_float,
            parse_constant=_refuse_constant,
        )
    except (ValueError, RecursionError) as error:
        msg = f"not strict JSON: {error}" if isinstance(error, json.JSONDecodeError) else "not strict JSON"
        raise FormatError(msg) from error


def parse_json_object(text: bytes | str) -> dict[str, Any]:
    """Parse strict JSON whose top level is an object.

    Raises:
        FormatError: Not JSON, or not an object.
    """
    value = parse_json(text)
    if not isinstance(value, dict):
        msg = "a JSON object was expected"
        raise FormatError(msg)
    return value


def parse_canonical_json(text: bytes) -> dict[str, Any]:
    """Parse a JSON object that must be in RFC 8785 canonical form, byte for byte.

    Raises:
        FormatError: Not JSON, not an object, or not canonical.
    """
    value = parse_json_object(text)
    if canonical_json(value) != text:
        msg = "the JSON text is not in canonical form (RFC 8785)"
        raise FormatError(msg)
    return value


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        msg = "duplicate name"
        raise ValueError(msg)
    return result


def _exact_float(text: str) -> float:
    value = float(text)
    if abs(value) >= _DOUBLE_LIMIT:
        msg = "a number with a point or an exponent is 2**53 or larger"
        raise ValueError(msg)
    return value


def _refuse_constant(name: str) -> Any:  # noqa: ANN401 - the hook's type in the standard library
    msg = f"{name} is not JSON"
    raise ValueError(msg)
