"""Encodings have one spelling, secrets do not show, errors keep what people need."""

import contextlib
import pickle  # noqa: TID251 - to see that secrets refuse it
from datetime import UTC, datetime
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from strongroom.base import encoding, errors
from strongroom.base.clock import to_rfc3339
from strongroom.base.errors import FormatError
from strongroom.base.secret import SecretBytes
from strongroom.base.workflow import Step


@given(st.binary(max_size=64))
def test_base64url_round_trips(data: bytes) -> None:
    assert encoding.from_b64url(encoding.to_b64url(data)) == data


@given(st.text(max_size=24))
def test_any_text_is_canonical_base64url_or_a_format_error(text: str) -> None:
    with contextlib.suppress(FormatError):
        assert encoding.to_b64url(encoding.from_b64url(text)) == text


@given(st.binary(max_size=128))
def test_any_bytes_are_strict_json_or_a_format_error(data: bytes) -> None:
    with contextlib.suppress(FormatError):
        encoding.parse_json(data)


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":1,"a":1}',
        b'{"a":{"b":1,"b":2}}',
        b"NaN",
        b"[Infinity]",
        b"1e400",
        b"-1E999",
        b"9007199254740992.0",
        b"\xff",
        b"[" * 100_000,
        b"{'a':1}",
    ],
)
def test_refuses_json_with_two_readings(text: bytes) -> None:
    with pytest.raises(FormatError):
        encoding.parse_json(text)


@pytest.mark.parametrize("text", [b'{"b":1,"a":1}', b'{"a": 1}', b'{"a":1.0}', b'{"a":"\\u0041"}', b'{"a":1}\n'])
def test_refuses_json_that_is_not_canonical(text: bytes) -> None:
    with pytest.raises(FormatError):
        encoding.parse_canonical_json(text)


def test_secrets_do_not_show() -> None:
    secret = SecretBytes(b"do not show me")
    assert "show" not in repr(secret) + str(secret) + f"{secret}"
    assert secret == SecretBytes(b"do not show me")
    assert secret != b"do not show me"
    for forbidden in (hash, pickle.dumps):
        with pytest.raises(TypeError):
            forbidden(secret)


def test_every_error_has_its_own_code_and_is_found_by_it() -> None:
    pending, found = [errors.StrongroomError], set()
    while pending:
        error = pending.pop()
        assert error.code not in found
        found.add(error.code)
        assert errors.error_for_code(error.code) is error
        pending += [each for each in error.__subclasses__() if each.__module__ == errors.__name__]
    assert errors.error_for_code("no such code") is errors.StrongroomError


def test_numbers_with_a_fraction_survive_canonical_json() -> None:
    for number in (b"1.5", b"-9007199254740991.0", b"1e15", b"5e-324"):
        again = encoding.canonical_json(encoding.parse_json(number))
        assert encoding.canonical_json(encoding.parse_json(again)) == again


def test_what_an_error_says_is_always_text() -> None:
    """A JSON string may hold half of a surrogate pair; an answer that quotes it must still be JSON."""
    difference = errors.Mismatch(name="\ud800", expected="\udfff", actual="a\udc80")
    error = errors.FormatError("\ud800 is not supported", action="\ud800", mismatches=(difference,))
    assert str(error) == error.message == "\\ud800 is not supported"
    encoding.canonical_json([error.message, error.action, *map(str, error.mismatches)])


def test_the_eight_steps_are_numbered_in_order() -> None:
    assert [step.number for step in Step] == list(range(1, 9))
    assert all(Step.from_slug(step.slug) is step for step in Step)


def test_an_error_keeps_the_step_it_happened_in() -> None:
    error = errors.RefusedError("no").at(Step.RELEASE).at(Step.WRITE)
    assert error.step is Step.RELEASE


def test_times_are_whole_seconds_in_utc() -> None:
    assert to_rfc3339(datetime(2026, 1, 2, 3, 4, 5, 999_999, tzinfo=UTC)) == "2026-01-02T03:04:05Z"


_ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@given(_ANY_JSON)
def test_canonical_json_is_the_librarys_whichever_way_it_is_written(value: Any) -> None:
    try:
        expected = rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeError):
        with pytest.raises(FormatError):
            encoding.canonical_json(value)
        return
    assert encoding.canonical_json(value) == expected


@pytest.mark.parametrize("value", [[[]], {"a": "\ud800"}, ["\udfff"], {"\ud800": 1}])
def test_what_has_no_canonical_form_is_a_format_error(value: Any) -> None:
    if value == [[]]:
        for _ in range(100_000):
            value = [value]
    with pytest.raises(FormatError):
        encoding.canonical_json(value)
