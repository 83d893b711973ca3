"""What an owner does with a dataset on the owner's own machine: encrypt into a new version, open a version, decrypt."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from strongroom.base.errors import ConflictError, NotFoundError, RefusedError
from strongroom.base.secret import SecretBytes
from strongroom.clients.owner import OwnerClient
from strongroom.datasets.identity import DatasetWrite, is_at_or_below
from strongroom.datasets.manifest import (
    ColumnKeys,
    Manifest,
    build_manifest,
    open_manifest,
    parse_header,
    verify_header,
)
from strongroom.datasets.storage import Storage
from strongroom.wire.key_service import Commit, DatasetVersion, WrittenDataset
from strongroom.wire.manifest import FileEntry

if TYPE_CHECKING:
    import pyarrow as pa

_COMMIT_ATTEMPTS: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedVersion:
    """A version of a dataset with everything that is needed to read it."""

    statement: DatasetVersion
    manifest: Manifest
    write_keys: Mapping[str, SecretBytes]
    column_keys: ColumnKeys


def open_version(client: OwnerClient, *, name: str, location: str, number: int | None) -> OpenedVersion:
    """Fetch a version's statement and keys from the key service, and its manifest from storage; check and open it.

    Args:
        client: The owner's connection.
        name: The dataset.
        location: Where its storage lies.
        number: The version; None for the newest.

    Raises:
        NotFoundError: No such dataset or version.
        IntegrityError: The manifest on storage is missing, changed, or of another version.
    """
    statement = client.head(name) if number is None else _version(client, name, number)
    data = Storage(location).read_manifest(statement.manifest_digest)
    header = verify_header(data, statement=statement)
    asked = WrittenDataset(number=header.number, write_keys=header.write_keys, column_keys=header.column_keys)
    keys = client.unwrap(name, asked)
    write_keys = keys.write_keys.get(name, {})
    return OpenedVersion(
        statement=statement,
        manifest=open_manifest(data, statement=statement, write_keys=write_keys),
        write_keys=write_keys,
        column_keys=keys.column_keys.get(name, {}),
    )


def encrypt(
    client: OwnerClient,
    tables: "Iterable[pa.Table]",
    *,
    name: str,
    key_service: str,
    location: str,
    append: bool,
    progress: Callable[[int], None],
) -> DatasetVersion:
    """Encrypt tables into a dataset's next version.

    1. Ask the key service for a new write key.
    2. Encrypt the tables to storage, under keys derived from it.
    3. Write the manifest; nobody names it yet.
    4. Have the key service countersign it: from now on it is the newest version. If another version came in between,
       and this one only adds, go back to 3 on top of that one.

    Args:
        client: The owner's connection.
        tables: Tables of one schema.
        name: The dataset; it exists already.
        key_service: Identity of its key service.
        location: Where its storage lies.
        append: Keep the files of the version before; otherwise the new version holds the new files alone.
        progress: Told the rows that were encrypted, now and then.

    Raises:
        NotFoundError: No such dataset.
        ConflictError: Somebody else made the next version first, and this one would replace it, or others were faster
            again and again; nothing of this one is left.
    """
    from strongroom.datasets.parquet import encrypt_parquet  # noqa: PLC0415 - loads pyarrow

    write = DatasetWrite.from_message(client.start_write(name))  # 1
    base = None if write.base is None else open_version(client, name=name, location=location, number=write.base)
    files = encrypt_parquet(tables, location=location, dataset=name, write=write, progress=progress)  # 2
    storage = Storage(location)
    try:
        for _ in range(_COMMIT_ATTEMPTS - 1):
            try:
                return _commit(client, storage, base, write, files, name=name, key_service=key_service, append=append)
            except ConflictError:
                if not append:
                    raise
                base = open_version(client, name=name, location=location, number=None)
        return _commit(client, storage, base, write, files, name=name, key_service=key_service, append=append)
    except (ConflictError, RefusedError):
        # Only a clear no: after a lost answer the version may exist, and its files must stay.
        storage.remove_folder(write.write_id)
        raise


def _commit(
    client: OwnerClient,
    storage: Storage,
    base: OpenedVersion | None,
    write: DatasetWrite,
    files: Sequence[FileEntry],
    *,
    name: str,
    key_service: str,
    append: bool,
) -> DatasetVersion:
    kept = base.manifest.files if base and append else ()
    manifest, digest = build_manifest(
        dataset=name,
        key_service=key_service,
        base=base.manifest if base else None,
        write=write,
        files=(*kept, *files),
    )
    storage.write_manifest(manifest, digest)  # 3
    write_ids = tuple(parse_header(manifest).write_keys)
    number = base.statement.number if base else None
    return client.commit(name, Commit(dataset=name, base=number, manifest_digest=digest, write_ids=write_ids))  # 4


def decrypt(version: OpenedVersion, *, location: str, path: str, output: Path, progress: Callable[[int], None]) -> int:
    """Write a version, or what stands at or below a place in it, as plain Parquet files.

    Returns:
        How many files were written.

    Raises:
        NotFoundError: There is no file at that place.
        ConflictError: The output folder exists.
        IntegrityError: A file on storage is missing or changed.
    """
    from strongroom.datasets.parquet import decrypt_parquet  # noqa: PLC0415 - loads pyarrow

    files = tuple(file for file in version.manifest.files if is_at_or_below(file.path, path))
    if not files:
        raise NotFoundError(
            f"version {version.statement.number} has no file at {path!r}",
            action="see the files with: strongroom dataset show",
        )
    chosen = replace(version.manifest, files=files)
    written = decrypt_parquet(
        chosen,
        location=location,
        write_keys=version.write_keys,
        column_keys=version.column_keys,
        output=output,
        progress=progress,
    )
    return len(written)


def _version(client: OwnerClient, name: str, number: int) -> DatasetVersion:
    for version in client.versions(name):
        if version.number == number:
            return version
    raise NotFoundError(f"dataset {name} has no version {number}", action=f"see: strongroom dataset versions {name}")
