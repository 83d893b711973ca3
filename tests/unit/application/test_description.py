import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strongroom.application.description import ApplicationDescription, difference, parse_description
from strongroom.base.encoding import canonical_json
from strongroom.base.errors import FormatError
from strongroom.crypto.derive import sha256_hex

FIELDS: dict[str, Any] = {
    "version": 1,
    "name": "report",
    "entry_point": "report.py",
    "files": [
        {"name": "report.py", "size_bytes": 10, "sha256": "ab" * 32, "use": "entry-point"},
        {"name": "zones.csv", "size_bytes": 20, "sha256": "cd" * 32, "use": "file"},
    ],
    "arguments": ["strongroom://trips", "--month", "2018-01"],
    "environment": {"MODE": "full"},
    "settings": {"spark.sql.shuffle.partitions": "8"},
    "datasets": {"trips": {"key_service": "5e" * 32, "access": "read", "version": 3}},
    "log_level": "WARN",
}


def described(**changed: Any) -> ApplicationDescription:
    return parse_description(canonical_json({**FIELDS, **changed}))


def file(name: str = "report.py", **changed: Any) -> dict[str, Any]:
    return {"name": name, "size_bytes": 10, "sha256": "ab" * 32, "use": "entry-point", **changed}


def test_digest_is_over_the_canonical_text() -> None:
    text = canonical_json(FIELDS)
    description = parse_description(text)
    assert description.to_json() == text
    assert description.digest == sha256_hex(text)


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text + b"\n",
        lambda text: text.replace(b'"version":1', b'"version":1.0'),
        lambda text: text.replace(b":10,", b": 10,"),
        lambda text: text.replace(b"report.py", b"\\u0072eport.py", 1),
        lambda text: text.replace(b',"version":1', b""),
        lambda text: b'{"name":"x",' + text[1:],
    ],
    ids=["line end", "float", "space", "escape", "default left out", "duplicate name"],
)
def test_refuses_other_spellings_of_the_same_application(edit: Any) -> None:
    text = canonical_json(FIELDS)
    assert edit(text) != text
    with pytest.raises(FormatError):
        parse_description(edit(text))


@pytest.mark.parametrize(
    "changed",
    [
        {"version": 2},
        {"extra": 1},
        {"name": ""},
        {"name": "a\nb"},
        {"entry_point": "zones.csv"},
        {"entry_point": "missing.py"},
        {"files": []},
        {"files": [file(), file("other.py")]},
        {"files": [file(), file("REPORT.py", use="file")]},
        {"files": [file(), file("description.json", use="file")]},
        {"files": [file(), file("../x", use="file")]},
        {"files": [file(), file("a/b", use="file")]},
        {"files": [file(), file(".hidden", use="file")]},
        {"files": [file(), file("x\n", use="file")]},
        {"files": [file(), file("x#alias", use="archive")]},
        {"files": [file(use="jar")]},
        {"files": [file(size_bytes=-1)]},
        {"files": [file(size_bytes="10")]},
        {"files": [file(sha256="AB" * 32)]},
        {"arguments": ["a\0b"]},
        {"arguments": "x"},
        {"environment": {"A": 1}},
        {"settings": {"spark.x": True}},
        {"datasets": {}},
        {"datasets": {"Trips": FIELDS["datasets"]["trips"]}},
        {"datasets": {"trips": {**FIELDS["datasets"]["trips"], "access": "admin"}}},
        {"datasets": {"trips": {**FIELDS["datasets"]["trips"], "version": 0}}},
        {"datasets": {"trips": {"key_service": "5e" * 32, "access": "read"}}},
        {"log_level": "TRACE"},
    ],
    ids=str,
)
def test_refuses_what_is_no_application(changed: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        described(**changed)


@settings(deadline=None)
@given(
    st.binary(max_size=256) | st.dictionaries(st.text(max_size=9), st.integers(-9, 9) | st.text()).map(canonical_json)
)
def test_any_bytes_parse_or_raise_format_error(data: bytes) -> None:
    with contextlib.suppress(FormatError):
        parse_description(data)


@settings(deadline=None)
@given(st.data())
def test_edited_descriptions_parse_or_raise_format_error(data: st.DataObject) -> None:
    text = canonical_json(FIELDS)
    position = data.draw(st.integers(0, len(text) - 1))
    edited = text[:position] + data.draw(st.binary(max_size=2)) + text[position + 1 :]
    with contextlib.suppress(FormatError):
        assert parse_description(edited).to_json() == edited


def test_no_difference_between_equal_descriptions() -> None:
    assert difference(described(), described()) == []


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"name": "other"}, "name: 'report' → 'other'"),
        ({"log_level": "INFO"}, "log level: 'WARN' → 'INFO'"),
        ({"arguments": ["strongroom://trips", "--month", "2018-02"]}, "argument 3: '2018-01' → '2018-02'"),
        ({"arguments": ["strongroom://trips", "--month"]}, "argument 3 was removed: '2018-01'"),
        ({"arguments": [*FIELDS["arguments"], "x"]}, "argument 4 was added: 'x'"),
        ({"environment": {}}, "environment variable MODE was removed: 'full'"),
        ({"settings": {"spark.sql.shuffle.partitions": "9"}}, "setting spark.sql.shuffle.partitions: '8' → '9'"),
        (
            {"files": [file(sha256="ee" * 32, size_bytes=11), FIELDS["files"][1]]},
            "file report.py changed: 10 → 11 bytes, SHA-256 eeeeeeeeeeeeeeee…",
        ),
        ({"files": [file()]}, "file zones.csv was removed"),
        ({"files": [*FIELDS["files"], file("x.csv", use="file")]}, "file x.csv was added"),
        ({"files": [file(), {**FIELDS["files"][1], "use": "archive"}]}, "file zones.csv: file → archive"),
        ({"files": [file(size_bytes=9), FIELDS["files"][1]]}, "file report.py: its size is said to be 10 → 9 bytes"),
        ({"files": FIELDS["files"][::-1]}, "files: their order is now zones.csv, report.py"),
        (
            {"datasets": {"trips": {"key_service": "5e" * 32, "access": "write", "version": None}}},
            "dataset trips: 'read version 3 by key service {0}' → 'write version newest by key service {0}'".format(
                "5e" * 32
            ),
        ),
    ],
    ids=str,
)
def test_says_in_words_what_changed(changed: dict[str, Any], line: str) -> None:
    assert difference(described(), described(**changed)) == [line]
    assert described().digest != described(**changed).digest


def test_says_when_another_file_becomes_the_entry_point() -> None:
    files = [file(use="py-file"), file("main.py"), FIELDS["files"][1]]
    assert difference(described(), described(entry_point="main.py", files=files)) == [
        "entry point: 'report.py' → 'main.py'",
        "file report.py: entry-point → py-file",
        "file main.py was added",
    ]
