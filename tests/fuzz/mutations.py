"""Bad input made from good input: edits that know lengths, places and JSON, beside bytes that know nothing."""

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

_BOUNDARIES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_MAX_RANDOM_BYTES = 512
_MAX_EDITS = 3

_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**53, 2**64, -1, 10**400])
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.sampled_from(["", "\ud800", "0" * 64, "A" * 64, "2026-02-30T00:00:00Z", "a.b.c"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


def inputs(samples: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Return bytes for a parser: edits of its samples (bytes, lengths, splices, JSON members), and random bytes."""
    return st.one_of(
        st.binary(max_size=_MAX_RANDOM_BYTES),
        _edited(samples),
        *([_edited_json(samples)] if all(sample.startswith(b"{") for sample in samples) else []),
    )


@st.composite
def _edited(draw: st.DrawFn, samples: Sequence[bytes]) -> bytes:
    data = draw(st.sampled_from(samples))
    for _ in range(draw(st.integers(1, _MAX_EDITS))):
        at = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["flip", "set", "cut", "remove", "insert", "number", "splice", "repeat"])):
            case "flip" if at < len(data):
                data = data[:at] + bytes([data[at] ^ 1 << draw(st.integers(0, 7))]) + data[at + 1 :]
            case "set":
                value = draw(st.binary(min_size=1, max_size=8))
                data = data[:at] + value + data[at + len(value) :]
            case "cut":
                data = data[:at]
            case "remove":
                data = data[:at] + data[at + draw(st.integers(1, 64)) :]
            case "insert":
                data = data[:at] + draw(st.binary(min_size=1, max_size=64)) + data[at:]
            case "number":
                data = _with_number(draw, data, at)
            case "splice":
                other = draw(st.sampled_from(samples))
                data = data[:at] + other[draw(st.integers(0, len(other))) :]
            case "repeat":
                part = data[at : at + draw(st.integers(1, 64))]
                data = data[:at] + part * draw(st.integers(1, 64)) + data[at:]
    return data


def _with_number(draw: st.DrawFn, data: bytes, at: int) -> bytes:
    """Overwrite what may be a length: with a boundary, or with about as many bytes as are left."""
    size = draw(st.sampled_from([1, 2, 4, 8]))
    left = len(data) - at - size
    value = draw(st.sampled_from(_BOUNDARIES) | st.integers(left - 2, left + 2)) % (1 << 8 * size)
    return data[:at] + value.to_bytes(size, draw(st.sampled_from(["little", "big"]))) + data[at + size :]


@st.composite
def _edited_json(draw: st.DrawFn, samples: Sequence[bytes]) -> bytes:
    """Replace, remove, add or rename one member, at any depth."""
    document = json.loads(draw(st.sampled_from(samples)))
    holder, key = draw(st.sampled_from(list(_places(document))))
    match draw(st.sampled_from(["replace", "remove", "add", "copy"])):
        case "replace":
            holder[key] = draw(_json)
        case "remove":
            del holder[key]
        case "add" if isinstance(holder, dict):
            holder[draw(st.text(max_size=4) | st.just("\ud800"))] = draw(_json)
        case "copy":
            other, name = draw(st.sampled_from(list(_places(document))))
            holder[key] = json.loads(json.dumps(other[name]))
    return json.dumps(document, separators=(",", ":"), sort_keys=draw(st.booleans())).encode()


def _places(value: Any) -> Any:
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, member in members:
        yield value, key
        yield from _places(member)
