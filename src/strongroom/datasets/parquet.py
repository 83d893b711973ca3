"""The owner's side: plain tables into encrypted Parquet files, and back.

Runs on the owner's machine, with the owner's keys. Importing this loads pyarrow: the agent never does, and commands do
where they need it. Spark reads and writes the same files through the Java part.

Source: Apache Parquet, Modular Encryption.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import unquote

import pyarrow as pa
from pyarrow import parquet as pq
from pyarrow.parquet import encryption

from strongroom.base.errors import ConfigurationError, ConflictError, FormatError, IntegrityError, NotFoundError
from strongroom.base.secret import SecretBytes
from strongroom.base.workflow import Step
from strongroom.crypto.random import random_id
from strongroom.datasets.column_encryption import demand_columns, encryption_properties, open_file
from strongroom.datasets.identity import DatasetWrite, aad_prefix, is_at_or_below, storage_name, with_file_id
from strongroom.datasets.manifest import ColumnKeys, Manifest, file_keys_of
from strongroom.datasets.plain_files import regroup
from strongroom.datasets.storage import Storage, storage_errors, writing_file
from strongroom.keys.hierarchy import derive_file_key
from strongroom.wire.manifest import FileEntry

ROWS_PER_FILE: Final = 1 << 20
_ALGORITHM: Final = "AES_GCM_V1"
_ROW_GROUP_ROWS: Final = 1 << 20
_ROW_GROUP_BYTES: Final = 256 << 20
_TRAILER_BYTES: Final = 8
_ENCRYPTED_FOOTER: Final = b"PARE"
_GCM_V1_METADATA: Final = b"\x1c\x1c"
"""How FileCryptoMetaData begins, in Thrift's compact protocol: field 1, a struct; in it field 1: AES_GCM_V1."""
_NULL_PARTITION: Final = "__HIVE_DEFAULT_PARTITION__"
_RESTORE: Final = "restore the file from the owner's copy"


def encrypt_parquet(
    tables: Iterable[pa.Table],
    *,
    location: str,
    dataset: str,
    write: DatasetWrite,
    rows_per_file: int = ROWS_PER_FILE,
    progress: Callable[[int], None] = lambda _rows: None,
) -> tuple[FileEntry, ...]:
    """Write tables as encrypted Parquet files: all of them, or nothing.

    Args:
        tables: Tables of one schema (`plain_files.read_files`, or anyone's).
        location: Where the dataset's storage lies, `file:///…`.
        dataset: The dataset's name.
        write: The write that the key service made for this import.
        rows_per_file: Rows of each file at most.
        progress: Told the rows of each row group, when it is written.

    Returns:
        The files, for `build_manifest`.

    Raises:
        ConfigurationError: There is no table, or storage may not be written.
        FormatError: A table has other columns, or a type that Parquet cannot hold for Spark.
        UnavailableError: Storage is full or does not work.
    """
    storage = Storage(location)
    first, tables = _peek(tables)
    demand_columns(first.schema, write.columns)
    group_rows = min(_rows_per_group(first), rows_per_file)
    groups = regroup(tables, schema=first.schema, rows=group_rows)
    entries: list[FileEntry] = []
    try:
        for group in groups:
            others = itertools.islice(groups, rows_per_file // group_rows - 1)
            with_progress = _telling(itertools.chain([group], others), progress)
            entries.append(
                _write_file(with_progress, storage=storage, number=len(entries), dataset=dataset, write=write)
            )
    except BaseException:
        storage.remove_folder(write.write_id)
        raise
    return tuple(entries)


def read_tables(
    manifest: Manifest,
    *,
    location: str,
    write_keys: Mapping[str, SecretBytes],
    column_keys: ColumnKeys | None = None,
    path: str = "",
) -> Iterator[pa.Table]:
    """Decrypt the files of a version, one after the other.

    Each file is read whole into memory, checked as Spark's reader checks it (present, length, encrypted footer,
    AES_GCM_V1), and decrypted with the key and the AAD prefix that the manifest gives it.

    Args:
        manifest: The opened manifest.
        location: Where the dataset's storage lies.
        write_keys: The version's write keys, by write id.
        column_keys: Its column keys, by column and write id, where it has any.
        path: Only files at or below this place.

    Yields:
        A table for each file; `name=value` folders become text columns.

    Raises:
        RefusedError: A column has a key of its own that is not given.
        IntegrityError: A file is missing, changed, swapped, truncated, or weaker encrypted.
        ConfigurationError: Storage may not be read.
        UnavailableError: Storage does not work.
    """
    storage = Storage(location)
    for entry in manifest.files:
        if is_at_or_below(entry.path, path):
            table = _read_file(entry, manifest, storage=storage, write_keys=write_keys, column_keys=column_keys)
            yield _with_partitions(table, entry.path.removeprefix(path))


def read_table(
    manifest: Manifest,
    *,
    location: str,
    write_keys: Mapping[str, SecretBytes],
    column_keys: ColumnKeys | None = None,
    path: str = "",
) -> pa.Table:
    """Decrypt what stands at or below a place into one table; see `read_tables`.

    Raises:
        NotFoundError: There is no file there.
        FormatError: The files there have different columns.
    """
    tables = list(read_tables(manifest, location=location, write_keys=write_keys, column_keys=column_keys, path=path))
    if not tables:
        raise NotFoundError(
            f"dataset {manifest.header.dataset} has no file at {path!r} in version {manifest.header.number}",
            action="see the files with `strongroom dataset show`",
        )
    try:
        return pa.concat_tables(tables, promote_options="default")
    except pa.ArrowException as error:
        raise FormatError(f"the files at {path!r} hold different tables", action="read each one by itself") from error


def decrypt_parquet(
    manifest: Manifest,
    *,
    location: str,
    write_keys: Mapping[str, SecretBytes],
    column_keys: ColumnKeys | None = None,
    output: Path,
    progress: Callable[[int], None] = lambda _rows: None,
) -> tuple[Path, ...]:
    """Write a version as plain Parquet files: all of them, or nothing.

    Args:
        manifest: The opened manifest.
        location: Where the dataset's storage lies.
        write_keys: The version's write keys, by write id.
        column_keys: Its column keys, by column and write id, where it has any.
        output: A folder that does not exist yet; the files get their names in the dataset.
        progress: Told the rows of each file, when it is written.

    Returns:
        The files written.

    Raises:
        ConflictError: The folder exists.
        IntegrityError: See `read_tables`.
        ConfigurationError: Storage may not be read, or the folder may not be written.
        UnavailableError: Storage does not work, or there is no room.
    """
    if output.exists():
        raise ConflictError(f"{output} exists already", action="name a folder that does not exist yet")
    source, plain = Storage(location), Storage(output.absolute().as_uri())
    try:
        for entry in manifest.files:
            table = _read_file(entry, manifest, storage=source, write_keys=write_keys, column_keys=column_keys)
            target = plain.path(entry.path)
            with writing_file(target) as partial, storage_errors(target):
                pq.write_table(table, partial, compression="snappy", coerce_timestamps="us")
            progress(table.num_rows)
    except BaseException:
        plain.remove_folder("")
        raise
    return tuple(plain.path(entry.path) for entry in manifest.files)


def _peek(tables: Iterable[pa.Table]) -> tuple[pa.Table, Iterator[pa.Table]]:
    rest = iter(tables)
    first = next(rest, None)
    if first is None:
        raise ConfigurationError("there is nothing to encrypt", action="name at least one table")
    return first, itertools.chain([first], rest)


def _rows_per_group(table: pa.Table) -> int:
    """Return row group rows such that a Spark task holds one in memory, however wide the table is."""
    bytes_per_row: int = max(int(table.nbytes) // max(table.num_rows, 1), 1)
    return max(min(_ROW_GROUP_ROWS, _ROW_GROUP_BYTES // bytes_per_row), 1)


def _telling(groups: Iterable[pa.Table], progress: Callable[[int], None]) -> Iterator[pa.Table]:
    """Tell of each group when the next one is asked for: then it is written."""
    for group in groups:
        yield group
        progress(group.num_rows)


def _write_file(
    groups: Iterator[pa.Table], *, storage: Storage, number: int, dataset: str, write: DatasetWrite
) -> FileEntry:
    file_id = random_id()
    path = with_file_id(f"part-{number:05}.snappy.parquet", file_id=file_id)
    first, groups = _peek(groups)
    properties = _encryption(write, dataset=dataset, file_id=file_id, schema=first.schema)
    name = storage_name(write_id=write.write_id, path=path)
    target = storage.path(name)
    with writing_file(target) as partial:
        rows = _write_groups(groups, partial, target=target, properties=properties)
        length_bytes = partial.stat().st_size
    return FileEntry(path=path, write_id=write.write_id, file_id=file_id, length_bytes=length_bytes, rows=rows)


def _encryption(write: DatasetWrite, *, dataset: str, file_id: str, schema: pa.Schema) -> pq.FileEncryptionProperties:
    if write.columns:
        keys = write.file_keys(file_id, dataset=dataset)
        return encryption_properties(keys, schema=schema, algorithm=_ALGORITHM)
    return encryption.create_encryption_properties(
        write.file_key(file_id).reveal(),
        aad_prefix=aad_prefix(dataset=dataset, write_id=write.write_id, file_id=file_id),
        store_aad_prefix=True,
        encryption_algorithm=_ALGORITHM,
        plaintext_footer=False,
    )


def _write_groups(
    groups: Iterator[pa.Table], partial: Path, *, target: Path, properties: pq.FileEncryptionProperties
) -> int:
    first, groups = _peek(groups)
    rows = 0
    with _unwritable(target):
        writer = pq.ParquetWriter(
            partial, first.schema, compression="snappy", coerce_timestamps="us", encryption_properties=properties
        )
    try:
        for group in groups:
            with _unwritable(target):
                writer.write_table(group, row_group_size=max(group.num_rows, 1))
            rows += group.num_rows
    finally:
        with _unwritable(target):
            writer.close()
    return rows


@contextmanager
def _unwritable(target: Path) -> Iterator[None]:
    try:
        with storage_errors(target):
            yield
    except pa.ArrowException as error:
        raise FormatError(
            f"the table cannot be written as Parquet: {error}", action="convert the columns it names"
        ) from error


def _read_file(
    entry: FileEntry,
    manifest: Manifest,
    *,
    storage: Storage,
    write_keys: Mapping[str, SecretBytes],
    column_keys: ColumnKeys | None,
) -> pa.Table:
    name = storage_name(write_id=entry.write_id, path=entry.path)
    # The algorithm stands unauthenticated in the file's tail: what is checked must be the very bytes that are read.
    data = _checked_bytes(entry, storage=storage, name=name)
    header = manifest.header
    try:
        if columns := header.columns_of(entry.write_id):
            keys = file_keys_of(
                entry, dataset=header.dataset, columns=columns, write_keys=write_keys, column_keys=column_keys or {}
            )
            return open_file(keys, data)
        key = derive_file_key(write_keys[entry.write_id], file_id=entry.file_id)
        prefix = aad_prefix(dataset=header.dataset, write_id=entry.write_id, file_id=entry.file_id)
        properties = encryption.create_decryption_properties(key.reveal(), aad_prefix=prefix)
        with pq.ParquetFile(pa.BufferReader(data), decryption_properties=properties) as reader:
            return reader.read()
    except (pa.ArrowException, OSError, IntegrityError) as error:
        raise _refused(storage.path(name), "it does not decrypt as the file that the manifest lists") from error


def _checked_bytes(entry: FileEntry, *, storage: Storage, name: str) -> bytes:
    path = storage.path(name)
    try:
        data = storage.read(name, max_bytes=entry.length_bytes)
    except NotFoundError as error:
        raise _refused(path, "it is missing from storage") from error
    if len(data) != entry.length_bytes:
        raise _refused(path, f"it has {len(data)} bytes instead of {entry.length_bytes}")
    if data[-len(_ENCRYPTED_FOOTER) :] != _ENCRYPTED_FOOTER:
        raise _refused(path, "it is not a Parquet file with encrypted footer")
    footer_bytes = int.from_bytes(data[-_TRAILER_BYTES:][:4], "little")
    footer_at = len(data) - _TRAILER_BYTES - footer_bytes
    if footer_at < 0 or not data.startswith(_GCM_V1_METADATA, footer_at):
        raise _refused(path, f"it is not encrypted under {_ALGORITHM}")
    return data


def _with_partitions(table: pa.Table, path: str) -> pa.Table:
    """Add the columns that stand in the names of folders, as `partitionBy` writes them."""
    for folder in path.split("/")[:-1]:
        name, is_partition, value = folder.partition("=")
        if is_partition:
            text = None if value == _NULL_PARTITION else unquote(value)
            table = table.append_column(unquote(name), pa.array([text] * table.num_rows, pa.string()))
    return table


def _refused(path: Path, reason: str) -> IntegrityError:
    return IntegrityError(f"{path} is refused: {reason}", action=_RESTORE, step=Step.DECRYPT)
