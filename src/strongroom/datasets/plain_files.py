"""Plain tables on the owner's machine: CSV, CSV.gz and Parquet files, read in pieces. Importing this loads pyarrow."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pyarrow as pa
from pyarrow import csv
from pyarrow import parquet as pq

from strongroom.base.errors import ConfigurationError, FormatError

_BATCH_ROWS: Final = 1 << 16
_CSV_BLOCK_BYTES: Final = 8 << 20
_PARQUET_SUFFIX: Final = ".parquet"
_SUFFIXES: Final = (".csv", ".csv.gz", _PARQUET_SUFFIX)
_SEPARATE: Final = "encrypt them as several datasets"


def read_files(paths: Sequence[Path]) -> Iterator[pa.Table]:
    """Read plain files in pieces that fit in memory, with one schema over all of them.

    Args:
        paths: CSV, CSV.gz (a header line; types are found from the values) or Parquet files; a folder stands for all
            such files in it.

    Yields:
        Tables of one schema. A column that a file lacks is null in its rows.

    Raises:
        ConfigurationError: There is nothing to read.
        FormatError: A file cannot be read, or its columns do not fit the other files'.
    """
    files = _find_files(paths)
    schemas = [_schema_of(file) for file in files]
    try:
        schema = _with_known_types(pa.unify_schemas(schemas, promote_options="permissive"))
    except pa.ArrowException as error:
        raise FormatError("the files do not have the same columns", action=_SEPARATE) from error
    for file in files:
        with _unreadable(file):
            yield from (_conform(piece, schema) for piece in _pieces(file, schema))


def regroup(tables: Iterable[pa.Table], *, schema: pa.Schema, rows: int) -> Iterator[pa.Table]:
    """Cut and join tables into tables of exactly `rows` rows.

    Args:
        tables: At least one.
        schema: The schema that all of them must have.
        rows: At least 1.

    Yields:
        Such tables; the last one has what is left, and is empty only where all are.

    Raises:
        FormatError: A table has another schema.
    """
    pending: list[pa.Table] = []
    pending_rows = 0
    is_empty = True
    for table in tables:
        if not table.schema.equals(schema):
            raise FormatError("the tables do not have the same columns", action=_SEPARATE)
        pending.append(table)
        pending_rows += table.num_rows
        while pending_rows >= rows:
            joined = pa.concat_tables(pending)
            yield joined.slice(0, rows)
            is_empty = False
            pending, pending_rows = [joined.slice(rows)], pending_rows - rows
    if pending_rows or is_empty:
        yield pa.concat_tables(pending)


def _find_files(paths: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        files = [file for file in inside if file.is_file() and file.name.lower().endswith(_SUFFIXES)]
        if not files:
            raise ConfigurationError(
                f"{path} is not, and does not hold, a CSV, CSV.gz or Parquet file", action="name files of these kinds"
            )
        found += files
    if not found:
        raise ConfigurationError("there is no file to read", action="name at least one")
    return found


def _schema_of(file: Path) -> pa.Schema:
    schema = _read_schema(file)
    if len(set(schema.names)) != len(schema.names):
        raise FormatError(f"{file} has two columns of one name", action="rename one")
    return schema


def _read_schema(file: Path) -> pa.Schema:
    with _unreadable(file):
        if _is_parquet(file):
            return pq.read_schema(file).remove_metadata()
        with csv.open_csv(file, read_options=csv.ReadOptions(block_size=_CSV_BLOCK_BYTES)) as reader:
            return reader.schema


def _with_known_types(schema: pa.Schema) -> pa.Schema:
    """Give columns without any value a type that Parquet's readers know."""
    return pa.schema([field.with_type(pa.string()) if pa.types.is_null(field.type) else field for field in schema])


def _pieces(file: Path, schema: pa.Schema) -> Iterator[pa.Table]:
    if _is_parquet(file):
        with pq.ParquetFile(file) as reader:
            yield reader.schema_arrow.empty_table()
            yield from (pa.Table.from_batches([batch]) for batch in reader.iter_batches(batch_size=_BATCH_ROWS))
        return
    types = csv.ConvertOptions(column_types={field.name: field.type for field in schema})
    options = csv.ReadOptions(block_size=_CSV_BLOCK_BYTES)
    with csv.open_csv(file, read_options=options, convert_options=types) as reader:
        yield reader.schema.empty_table()
        yield from (pa.Table.from_batches([batch]) for batch in reader)


def _conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = [
        table[field.name].cast(field.type) if field.name in table.column_names else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _is_parquet(file: Path) -> bool:
    return file.name.lower().endswith(_PARQUET_SUFFIX)


@contextmanager
def _unreadable(file: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeError) as error:
        raise FormatError(
            f"{file} cannot be read as a table: {error}", action="correct the file, or give it as Parquet"
        ) from error
