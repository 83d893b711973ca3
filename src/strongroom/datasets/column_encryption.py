"""Files in which columns have keys of their own, through pyarrow. Importing this loads pyarrow.

pyarrow takes explicit keys for whole files only; keys of columns go through Parquet's key tools, whose "key management
service" is here the keys of one file.
"""

from collections.abc import Mapping
from typing import Final

import pyarrow as pa
from pyarrow import parquet as pq
from pyarrow.parquet import encryption
from typing_extensions import override

from strongroom.base.errors import FormatError
from strongroom.base.secret import SecretBytes
from strongroom.datasets.file_keys import KMS_INSTANCE, FileKeys, column_of, key_id

_KEY_BITS: Final = 256
_SEPARATORS: Final = frozenset(",:;")


class _FileKms(encryption.KmsClient):  # type: ignore[misc]  # pyarrow has no types
    """Wraps and unwraps the Parquet keys of one file."""

    def __init__(self, keys: FileKeys) -> None:
        super().__init__()
        self._keys = keys

    @override
    def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> str:
        return self._keys.wrap(SecretBytes(key_bytes), column_of(master_key_identifier))

    @override
    def unwrap_key(self, wrapped_key: str, master_key_identifier: str) -> bytes:
        return self._keys.unwrap(wrapped_key, column_of(master_key_identifier)).reveal()


def _factory(keys: FileKeys) -> encryption.CryptoFactory:
    return encryption.CryptoFactory(lambda _connection: _FileKms(keys))


def _connection() -> encryption.KmsConnectionConfig:
    return encryption.KmsConnectionConfig(kms_instance_id=KMS_INSTANCE, kms_instance_url=KMS_INSTANCE)


def encryption_properties(keys: FileKeys, *, schema: pa.Schema, algorithm: str) -> pq.FileEncryptionProperties:
    """Return how a new file is encrypted: every column, each under its own key or the write's.

    Args:
        keys: The file's keys.
        schema: Its columns.
        algorithm: Parquet's name of the algorithm.

    Raises:
        FormatError: A column with a key is missing, or is called so that Parquet's key tools mistake it.
    """
    configuration = encryption.EncryptionConfiguration(
        key_id(None),
        column_keys=_columns_by_key(schema, keys.column_keys),
        encryption_algorithm=algorithm,
        plaintext_footer=False,
        double_wrapping=False,
        internal_key_material=True,
        data_key_length_bits=_KEY_BITS,
    )
    return _factory(keys).file_encryption_properties(_connection(), configuration)


def demand_columns(schema: pa.Schema, columns: Mapping[str, object]) -> None:
    """Refuse data in which a column with a key of its own is missing, or spelt differently.

    Raises:
        FormatError: It is.
    """
    folded = {name.casefold(): name for name in schema.names}
    for column in columns:
        found = folded.get(column.casefold())
        if found != column:
            what = "is missing from the data" if found is None else f"is called {found} in the data"
            raise FormatError(
                f"column {column}, which has a key of its own, {what}", action="name it as the dataset was made with"
            )


def _columns_by_key(schema: pa.Schema, columns: Mapping[str, SecretBytes]) -> dict[str, list[str]]:
    """Return every leaf column by the name of its key: a column that is left out, pyarrow would write in the clear."""
    demand_columns(schema, columns)
    named: dict[str, list[str]] = {}
    for path in _leaf_paths(schema):
        if _SEPARATORS & set(path) or path != path.strip():
            raise FormatError(
                f"column {path!r} cannot stand beside columns with keys of their own",
                action="rename it, without commas, colons, semicolons, and spaces at its ends",
            )
        top = path.partition(".")[0]
        named.setdefault(key_id(top if top in columns else None), []).append(path)
    return named


def _leaf_paths(schema: pa.Schema) -> list[str]:
    """Return the paths of Parquet's columns: of nested types several for a field. Parquet itself says which."""
    if any("." in name for name in schema.names):
        raise FormatError("a column's name holds a dot", action="rename it: beside column keys a dot means nesting")
    buffer = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), buffer)
    with pq.ParquetFile(pa.BufferReader(buffer.getvalue())) as file:
        return [file.schema.column(number).path for number in range(len(file.schema))]


def open_file(keys: FileKeys, data: bytes, *, columns: list[str] | None = None) -> pa.Table:
    """Decrypt a file.

    Args:
        keys: The file's keys.
        data: The whole file.
        columns: The columns to read; None for all of them.

    Raises:
        RefusedError: A column's key is not known here.
        IntegrityError: Key metadata are another file's, or were changed.
        pa.ArrowException, OSError: The file does not decrypt; the caller translates it.
    """
    factory = _factory(keys)  # as long as the file is read: its client is asked for each column
    properties = factory.file_decryption_properties(_connection())
    with pq.ParquetFile(pa.BufferReader(data), decryption_properties=properties) as reader:
        return reader.read(columns=columns)
