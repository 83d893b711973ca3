import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strongroom.base.encoding import canonical_json, from_b64url, parse_json_object, to_b64url
from strongroom.base.errors import FormatError, IntegrityError, LimitError
from strongroom.base.limits import LIMITS
from strongroom.crypto import aead
from strongroom.crypto.derive import sha256_hex
from strongroom.crypto.random import random_bytes, random_id, random_secret
from strongroom.datasets.identity import ColumnKey, DatasetWrite
from strongroom.datasets.manifest import Manifest, build_manifest, open_manifest, parse_header, verify_header
from strongroom.keys.hierarchy import manifest_key
from strongroom.wire.key_service import DatasetVersion
from strongroom.wire.manifest import FileEntry, ManifestBody, ManifestHeader, SealedManifest

KEY_SERVICE = "5e" * 32
MakeWrite = Callable[..., DatasetWrite]
Countersign = Callable[..., DatasetVersion]


def entry(write: DatasetWrite, path: str, **changed: Any) -> FileEntry:
    fields = {"path": path, "write_id": write.write_id, "file_id": random_id(), "length_bytes": 100, "rows": 7}
    return FileEntry.from_object({**fields, **changed})


def build(write: DatasetWrite, *paths: str, base: Manifest | None = None) -> tuple[bytes, str]:
    files = [entry(write, path) for path in paths]
    return build_manifest(dataset="trips", key_service=KEY_SERVICE, base=base, write=write, files=files)


def forge(data: bytes, write: DatasetWrite, body: bytes, **header: Any) -> tuple[bytes, str]:
    """Make a manifest with the right key, as only a broken or malicious writer could."""
    fields = {**parse_header(data).model_dump(mode="json"), **header}
    sealed = aead.encrypt(manifest_key(write.key), body, context=ManifestHeader.from_object(fields).to_json())
    forged = SealedManifest.from_object({**fields, "body": to_b64url(sealed)}).to_json()
    return forged, sha256_hex(forged)


def test_opens_what_was_built(make_write: MakeWrite, countersign: Countersign) -> None:
    write = make_write()
    data, digest = build(write, "b", "a/x")
    manifest = open_manifest(data, statement=countersign(data, digest), write_keys={write.write_id: write.key})
    assert manifest.digest == digest == sha256_hex(data)
    assert [file.path for file in manifest.files] == ["a/x", "b"]
    assert manifest.files[0].rows == 7
    assert (manifest.header.number, manifest.header.previous, manifest.header.sealed_by) == (1, None, write.write_id)


def test_file_names_are_not_readable_on_storage(make_write: MakeWrite) -> None:
    data, _ = build(make_write(), "secret-partition=42/x")
    assert b"secret-partition" not in data
    assert b"secret-partition" not in from_b64url(parse_json_object(data)["body"])


def test_next_version_names_its_predecessor_and_keeps_the_keys_it_needs(
    make_write: MakeWrite, countersign: Countersign
) -> None:
    first, second, third = make_write(), make_write(base=1), make_write(base=2)
    data, digest = build(first, "a")
    one = open_manifest(data, statement=countersign(data, digest), write_keys={first.write_id: first.key})
    files = [*one.files, entry(second, "b")]
    data, digest = build_manifest(dataset="trips", key_service=KEY_SERVICE, base=one, write=second, files=files)
    keys = {write.write_id: write.key for write in (first, second)}
    two = open_manifest(data, statement=countersign(data, digest), write_keys=keys)
    assert (two.header.number, two.header.previous) == (2, one.digest)
    assert two.header.write_keys == {first.write_id: first.wrapped, second.write_id: second.wrapped}
    data, _ = build_manifest(
        dataset="trips", key_service=KEY_SERVICE, base=two, write=third, files=[two.files[1], entry(third, "c")]
    )
    assert set(parse_header(data).write_keys) == {second.write_id, third.write_id}


def test_a_version_may_be_empty(make_write: MakeWrite, countersign: Countersign) -> None:
    write = make_write()
    data, digest = build(write)
    opened = open_manifest(data, statement=countersign(data, digest), write_keys={write.write_id: write.key})
    assert opened.files == ()


def test_refuses_to_build_what_no_reader_would_accept(make_write: MakeWrite) -> None:
    write, other = make_write(), make_write()
    same_id = random_id()
    for files, fault in [
        ([entry(write, "a"), entry(write, "a")], "a path stands in it twice"),
        ([entry(write, "a", file_id=same_id), entry(write, "b", file_id=same_id)], "a file id stands in it twice"),
        ([entry(other, "a")], "unknown write"),
    ]:
        with pytest.raises(FormatError, match=fault):
            build_manifest(dataset="trips", key_service=KEY_SERVICE, base=None, write=write, files=files)


@pytest.mark.parametrize("position", [0, 50, 300, -3, -1])
def test_refuses_a_flipped_byte(make_write: MakeWrite, countersign: Countersign, position: int) -> None:
    write = make_write()
    data, digest = build(write, "a")
    changed = bytearray(data)
    changed[position] ^= 1
    with pytest.raises(IntegrityError, match="refused"):
        open_manifest(bytes(changed), statement=countersign(data, digest), write_keys={write.write_id: write.key})


def test_says_when_an_older_version_was_put_back(make_write: MakeWrite, countersign: Countersign) -> None:
    write = make_write()
    old, digest = build(write, "a")
    base = open_manifest(old, statement=countersign(old, digest), write_keys={write.write_id: write.key})
    new, new_digest = build(write, "b", base=base)
    with pytest.raises(IntegrityError, match="an older one, of version 1") as refusal:
        verify_header(old, statement=countersign(new, new_digest))
    assert refusal.value.mismatches[0].name == "digest"
    assert refusal.value.action


def test_says_when_another_datasets_manifest_was_put_there(make_write: MakeWrite, countersign: Countersign) -> None:
    write = make_write()
    data, digest = build(write, "a")
    other, _ = build_manifest(dataset="fares", key_service=KEY_SERVICE, base=None, write=write, files=[])
    with pytest.raises(IntegrityError, match="a manifest of dataset fares"):
        verify_header(other, statement=countersign(data, digest))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dataset", "fares"),
        ("key_service", "00" * 32),
        ("number", 2),
        ("previous", "00" * 32),
        ("write_ids", []),
        ("write_ids", ["00" * 16]),
    ],
)
def test_refuses_a_header_that_the_statement_contradicts(
    make_write: MakeWrite, countersign: Countersign, field: str, value: object
) -> None:
    write = make_write()
    data, digest = build(write, "a")
    with pytest.raises(IntegrityError, match="says otherwise") as refusal:
        open_manifest(
            data, statement=countersign(data, digest, **{field: value}), write_keys={write.write_id: write.key}
        )
    assert len(refusal.value.mismatches) == 1


def test_refuses_another_key(make_write: MakeWrite, countersign: Countersign) -> None:
    write = make_write()
    data, digest = build(write, "a")
    with pytest.raises(IntegrityError, match="does not decrypt"):
        open_manifest(data, statement=countersign(data, digest), write_keys={write.write_id: random_secret()})


def test_refuses_to_go_on_without_every_write_key(make_write: MakeWrite, countersign: Countersign) -> None:
    first, second = make_write(), make_write()
    data, digest = build(first, "a")
    base = open_manifest(data, statement=countersign(data, digest), write_keys={first.write_id: first.key})
    files = [*base.files, entry(second, "b")]
    data, digest = build_manifest(dataset="trips", key_service=KEY_SERVICE, base=base, write=second, files=files)
    for released in (first, second):
        with pytest.raises(IntegrityError, match="did not give all write keys"):
            open_manifest(data, statement=countersign(data, digest), write_keys={released.write_id: released.key})


def test_refuses_a_body_under_another_header(make_write: MakeWrite, countersign: Countersign) -> None:
    """The key service would have to sign it; still the body belongs to one header only."""
    write = make_write()
    data, _ = build(write, "a")
    fields = {**parse_json_object(data), "number": 2, "previous": "00" * 32}
    moved = SealedManifest.from_object(fields).to_json()
    with pytest.raises(IntegrityError, match="does not decrypt"):
        open_manifest(moved, statement=countersign(moved, sha256_hex(moved)), write_keys={write.write_id: write.key})


def test_refuses_files_that_no_honest_writer_lists(make_write: MakeWrite, countersign: Countersign) -> None:
    write, stranger = make_write(), make_write()
    good, _ = build(write, "a")
    file = entry(write, "a")
    bodies = [
        ManifestBody(files=(file, file.model_copy(update={"file_id": random_id()}))),
        ManifestBody(files=(file, file.model_copy(update={"path": "b"}))),
        ManifestBody(files=(entry(stranger, "a"),)),
    ]
    texts = [body.to_json() for body in bodies]
    texts += [texts[2].replace(b'"a"', b'"../a"'), texts[2].replace(b"parquet", b"parquez"), b"[]", b""]
    for text in texts:
        data, digest = forge(good, write, text)
        with pytest.raises(IntegrityError):
            open_manifest(data, statement=countersign(data, digest), write_keys={write.write_id: write.key})


def test_refuses_a_seal_by_a_write_that_is_not_listed(make_write: MakeWrite, countersign: Countersign) -> None:
    write, other = make_write(), make_write()
    good, _ = build(write, "a")
    data, digest = forge(good, write, ManifestBody(files=()).to_json(), write_keys={other.write_id: other.wrapped})
    with pytest.raises(IntegrityError, match="not among its write keys"):
        open_manifest(
            data,
            statement=countersign(data, digest),
            write_keys={write.write_id: write.key, other.write_id: other.key},
        )


def test_refuses_other_spellings(make_write: MakeWrite) -> None:
    data, _ = build(make_write(), "a")
    assert canonical_json(parse_json_object(data)) == data
    for other in (data + b"\n", data.replace(b'"version":1', b'"version":1.0'), data.replace(b":1", b": 1")):
        with pytest.raises(FormatError):
            parse_header(other)


def test_refuses_unknown_fields_and_versions(make_write: MakeWrite) -> None:
    data, _ = build(make_write(), "a")
    changes: list[dict[str, Any]] = [{"extra": 1}, {"version": 2}, {"write_keys": {}}, {"number": 0}]
    for change in changes:
        with pytest.raises(FormatError):
            parse_header(canonical_json({**parse_json_object(data), **change}))


def test_refuses_too_much() -> None:
    with pytest.raises(LimitError):
        parse_header(b" " * (LIMITS.manifest_bytes + 1))


@settings(deadline=None)
@given(
    st.binary(max_size=256) | st.dictionaries(st.text(max_size=9), st.integers(-9, 9) | st.text()).map(canonical_json)
)
def test_any_bytes_parse_or_raise_format_error(data: bytes) -> None:
    with contextlib.suppress(FormatError):
        parse_header(data)


@settings(deadline=None)
@given(st.data())
def test_edited_manifests_parse_or_raise_format_error(data: st.DataObject) -> None:
    write = DatasetWrite(write_id="0a" * 16, key=random_secret(), wrapped="AAAA", base=None)
    manifest, _ = build(write, "a")
    position = data.draw(st.integers(0, len(manifest) - 1))
    edited = manifest[:position] + data.draw(st.binary(max_size=3)) + manifest[position + 1 :]
    with contextlib.suppress(FormatError):
        parse_header(edited)


def test_manifest_is_frozen(make_write: MakeWrite, countersign: Countersign) -> None:
    write = make_write()
    data, digest = build(write, "a")
    manifest = open_manifest(data, statement=countersign(data, digest), write_keys={write.write_id: write.key})
    with pytest.raises(dataclasses.FrozenInstanceError):
        manifest.digest = "x"  # type: ignore[misc]


# --- column keys -----------------------------------------------------------------------------------------------------


def with_columns(write: DatasetWrite, *columns: str) -> DatasetWrite:
    keys = {column: ColumnKey(key=random_secret(), wrapped=to_b64url(random_bytes(78))) for column in columns}
    return dataclasses.replace(write, columns=keys)


def test_column_keys_stand_in_the_header_as_long_as_a_file_needs_them(
    make_write: MakeWrite, countersign: Countersign
) -> None:
    first, second = with_columns(make_write(), "iban", "ssn"), with_columns(make_write(base=1), "iban", "ssn")
    data, digest = build(first, "a")
    one = open_manifest(data, statement=countersign(data, digest), write_keys={first.write_id: first.key})
    assert one.header.column_keys == {column: {first.write_id: each.wrapped} for column, each in first.columns.items()}
    assert one.header.columns_of(first.write_id) == {"iban", "ssn"}
    assert one.header.columns_of(second.write_id) == frozenset()
    for kept in (True, False):
        files = [*(one.files if kept else ()), entry(second, "b")]
        data, _ = build_manifest(dataset="trips", key_service=KEY_SERVICE, base=one, write=second, files=files)
        expected = {first.write_id, second.write_id} if kept else {second.write_id}
        assert {frozenset(keys) for keys in parse_header(data).column_keys.values()} == {frozenset(expected)}


def test_a_manifest_without_column_keys_does_not_mention_them(make_write: MakeWrite) -> None:
    data, _ = build(make_write(), "a")
    assert "column_keys" not in parse_json_object(data)


def test_refuses_a_column_key_of_an_unknown_write(make_write: MakeWrite, countersign: Countersign) -> None:
    write = make_write()
    data, _ = build(write, "a")
    body = ManifestBody(files=(entry(write, "a"),)).to_json()
    for keys in ({"iban": {"00" * 16: "AAAA"}}, {"iban": {}}):
        forged, digest = forge(data, write, body, column_keys=keys)
        with pytest.raises(IntegrityError, match="column key"):
            open_manifest(forged, statement=countersign(forged, digest), write_keys={write.write_id: write.key})


def test_column_keys_are_bound_to_the_body(make_write: MakeWrite, countersign: Countersign) -> None:
    write = with_columns(make_write(), "iban")
    data, _ = build(write, "a")
    fields = parse_json_object(data)
    fields["column_keys"]["iban"][write.write_id] = to_b64url(random_bytes(78))
    forged = canonical_json(fields)
    with pytest.raises(IntegrityError, match="does not decrypt"):
        open_manifest(forged, statement=countersign(forged, sha256_hex(forged)), write_keys={write.write_id: write.key})
