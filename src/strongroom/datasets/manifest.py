"""Manifests: made by a writer, countersigned by the key service, believed together with that statement only."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from strongroom.base.encoding import from_b64url, to_b64url
from strongroom.base.errors import FormatError, IntegrityError, LimitError, Mismatch
from strongroom.base.limits import LIMITS
from strongroom.base.secret import SecretBytes
from strongroom.base.workflow import Step
from strongroom.crypto import aead
from strongroom.crypto.derive import sha256_hex
from strongroom.datasets.file_keys import FileKeys
from strongroom.datasets.identity import DatasetWrite
from strongroom.keys.hierarchy import manifest_key
from strongroom.wire.key_service import DatasetVersion
from strongroom.wire.manifest import FileEntry, ManifestBody, ManifestHeader, SealedManifest

_RESTORE = "restore the file from the owner's copy, or ask the operator which storage holds the newest version"


ColumnKeys: TypeAlias = Mapping[str, Mapping[str, SecretBytes]]
"""Column keys of a version: by column, then by write id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A version of a dataset that the key service countersigned and whose manifest was opened.

    Attributes:
        header: Its readable part.
        digest: SHA-256 of the manifest's bytes: the `previous` of the next version.
        files: Its files, in the order of their paths.
    """

    header: ManifestHeader
    digest: str
    files: tuple[FileEntry, ...]


def build_manifest(
    *, dataset: str, key_service: str, base: Manifest | None, write: DatasetWrite, files: Sequence[FileEntry]
) -> tuple[bytes, str]:
    """Make the manifest of a dataset's next version.

    Args:
        dataset: The dataset's name.
        key_service: Identity of its key service.
        base: The version this one follows; None for the first.
        write: The write that makes the version; its key encrypts the manifest.
        files: Every file of the new version. Write keys that none of them needs are left out.

    Returns:
        The manifest's bytes, for `Storage.write_manifest`; and their SHA-256, for the key service to countersign.

    Raises:
        FormatError: A path or file id stands twice, or a file belongs to a write other than `write` and the base's.
        LimitError: More files than a manifest can list.
    """
    wrapped = {**(base.header.write_keys if base else {}), write.write_id: write.wrapped}
    needed = {write.write_id, *(file.write_id for file in files)}
    header = ManifestHeader(
        dataset=dataset,
        key_service=key_service,
        number=base.header.number + 1 if base else 1,
        previous=base.digest if base else None,
        write_keys={write_id: key for write_id, key in sorted(wrapped.items()) if write_id in needed},
        sealed_by=write.write_id,
        column_keys=_column_keys(base, write, needed=needed),
    )
    ordered = tuple(sorted(files, key=lambda file: file.path))
    if fault := _fault_in_files(header, ordered):
        raise FormatError(f"this cannot be a version of dataset {dataset}: {fault}")
    body = aead.encrypt(manifest_key(write.key), ManifestBody(files=ordered).to_json(), context=header.to_json())
    data = SealedManifest(**dict(header), body=to_b64url(body)).to_json()
    if len(data) > LIMITS.manifest_bytes:
        raise LimitError(f"dataset {dataset} would have too many files", action="write fewer and larger files")
    return data, sha256_hex(data)


def _column_keys(base: Manifest | None, write: DatasetWrite, *, needed: set[str]) -> dict[str, dict[str, str]]:
    """Return the wrapped column keys of the writes that a version needs, by column and write id."""
    before = base.header.column_keys if base else {}
    own = {column: {write.write_id: each.wrapped} for column, each in write.columns.items()}
    merged = {column: {**before.get(column, {}), **own.get(column, {})} for column in sorted({*before, *own})}
    kept = {
        column: {write_id: key for write_id, key in sorted(keys.items()) if write_id in needed}
        for column, keys in merged.items()
    }
    return {column: keys for column, keys in kept.items() if keys}


def parse_header(data: bytes) -> ManifestHeader:
    """Read a manifest's header. What it says is a claim until `verify_header`.

    Raises:
        FormatError: Not a manifest, or not in canonical form.
        LimitError: Too large.
    """
    return _header(_parse(data))


def verify_header(data: bytes, *, statement: DatasetVersion) -> ManifestHeader:
    """Check that a manifest is the one that the key service countersigned.

    The caller MUST have verified the statement's signature.

    Args:
        data: The manifest's bytes, from storage.
        statement: The key service's word on this version.

    Returns:
        The header, with the wrapped write keys for the key service to unwrap.

    Raises:
        IntegrityError: Another, an older, a foreign or a changed manifest.
    """
    return _header(_verified(data, statement=statement))


def open_manifest(data: bytes, *, statement: DatasetVersion, write_keys: Mapping[str, SecretBytes]) -> Manifest:
    """Verify and decrypt a manifest.

    1. Its digest, dataset, key service, number, predecessor and write ids are those of the statement.
    2. It decrypts under the key of the write that sealed it, with its header as context.
    3. Each file's write is known; no path and no file id stands twice.
    The caller MUST have verified the statement's signature, and that it is the version it wants.

    Args:
        data: The manifest's bytes, from storage.
        statement: The key service's word on this version.
        write_keys: The write keys that it released, by write id.

    Raises:
        IntegrityError: Any of these does not hold.
    """
    manifest = _verified(data, statement=statement)
    header = _header(manifest)
    key = write_keys.get(header.sealed_by)
    if key is None or not header.write_keys.keys() <= write_keys.keys():
        raise IntegrityError(
            f"the key service did not give all write keys of version {header.number} of dataset {header.dataset}",
            action="check that the binding names this version",
            step=Step.DECRYPT,
        )
    try:
        opened = aead.decrypt(manifest_key(key), from_b64url(manifest.body), context=header.to_json())
        files = ManifestBody.from_json(opened.reveal()).files
    except (FormatError, IntegrityError) as error:
        raise _not_the_manifest(statement, "it does not decrypt under the dataset's key") from error
    if fault := _fault_in_files(header, files):
        raise _not_the_manifest(statement, fault)
    return Manifest(header=header, digest=statement.manifest_digest, files=files)


def file_keys_of(
    entry: FileEntry,
    *,
    dataset: str,
    columns: Collection[str],
    write_keys: Mapping[str, SecretBytes],
    column_keys: ColumnKeys,
) -> FileKeys:
    """Return the keys of a file in which columns have keys of their own, as far as they are known.

    Args:
        entry: The file.
        dataset: Its dataset.
        columns: The columns that have keys of their own in it, as the manifest says.
        write_keys: The version's write keys.
        column_keys: What is known of its column keys.
    """
    found = {column: column_keys.get(column, {}).get(entry.write_id) for column in columns}
    return FileKeys(
        dataset=dataset,
        write_id=entry.write_id,
        file_id=entry.file_id,
        write_key=write_keys[entry.write_id],
        column_keys={column: key for column, key in found.items() if key is not None},
    )


def _parse(data: bytes) -> SealedManifest:
    if len(data) > LIMITS.manifest_bytes:
        raise LimitError("the manifest is larger than allowed")
    manifest = SealedManifest.from_json(data)
    if manifest.to_json() != data:
        raise FormatError("the manifest is not in canonical form (RFC 8785)")
    return manifest


def _header(manifest: SealedManifest) -> ManifestHeader:
    return ManifestHeader(**{name: getattr(manifest, name) for name in ManifestHeader.model_fields})


def _verified(data: bytes, *, statement: DatasetVersion) -> SealedManifest:
    found = sha256_hex(data)
    if found != statement.manifest_digest:
        mismatch = Mismatch(name="digest", expected=statement.manifest_digest, actual=found)
        raise _not_the_manifest(statement, _what_stands_there(data, statement), mismatch)
    try:
        manifest = _parse(data)
    except (FormatError, LimitError) as error:
        raise _not_the_manifest(statement, error.message) from error
    mismatches = _header_mismatches(manifest, statement)
    if mismatches:
        raise _not_the_manifest(statement, "the key service's statement says otherwise", *mismatches)
    return manifest


def _header_mismatches(header: ManifestHeader, statement: DatasetVersion) -> list[Mismatch]:
    compared = {
        "dataset": (statement.dataset, header.dataset),
        "key service": (statement.key_service, header.key_service),
        "version": (statement.number, header.number),
        "previous version": (statement.previous, header.previous),
        "write ids": (sorted(statement.write_ids), sorted(header.write_keys)),
    }
    return [
        Mismatch(name=name, expected=str(expected), actual=str(actual))
        for name, (expected, actual) in compared.items()
        if expected != actual
    ]


def _what_stands_there(data: bytes, statement: DatasetVersion) -> str:
    """Say what is in a manifest's place; for people, as nothing in it is verified."""
    try:
        claimed = _parse(data)
    except (FormatError, LimitError):
        return "the file was changed"
    if claimed.dataset != statement.dataset:
        return f"a manifest of dataset {claimed.dataset} stands in its place"
    if claimed.number < statement.number:
        return f"an older one, of version {claimed.number}, stands in its place"
    return "another manifest of the dataset stands in its place"


def _fault_in_files(header: ManifestHeader, files: Sequence[FileEntry]) -> str | None:
    if header.sealed_by not in header.write_keys:
        return "the key that seals it is not among its write keys"
    if any(not keys or not keys.keys() <= header.write_keys.keys() for keys in header.column_keys.values()):
        return "a column key in it belongs to an unknown write"
    if len({file.path for file in files}) != len(files):
        return "a path stands in it twice"
    if len({file.file_id for file in files}) != len(files):
        return "a file id stands in it twice"
    if not {file.write_id for file in files} <= header.write_keys.keys():
        return "a file in it belongs to an unknown write"
    return None


def _not_the_manifest(statement: DatasetVersion, reason: str, *mismatches: Mismatch) -> IntegrityError:
    return IntegrityError(
        f"the manifest of version {statement.number} of dataset {statement.dataset} is refused: {reason}",
        action=_RESTORE,
        step=Step.DECRYPT,
        mismatches=mismatches,
    )
