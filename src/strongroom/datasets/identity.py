"""What binds a file to its place: its name, its place on storage, its AAD prefix and its write's key."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final, Self
from urllib.parse import unquote

from pydantic import TypeAdapter, ValidationError

from strongroom.base.encoding import from_b64url, from_hex
from strongroom.base.errors import FormatError, RefusedError
from strongroom.base.secret import SecretBytes
from strongroom.base.workflow import Step
from strongroom.datasets.file_keys import FileKeys
from strongroom.keys.hierarchy import derive_file_key
from strongroom.wire.key_service import NewWrite
from strongroom.wire.manifest import FilePath
from strongroom.wire.model import Message

_PATH: Final[TypeAdapter[str]] = TypeAdapter(FilePath, config=Message.model_config)
_WRITE_KEY_BYTES: Final = 32
_FILE_ID_DIGITS: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnKey:
    """One write's key for a column that has keys of its own.

    Attributes:
        key: 32 bytes.
        wrapped: The same key under the column's KEK, base64url, for the manifest.
    """

    key: SecretBytes
    wrapped: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetWrite:
    """One write to a dataset: a run's or an import's.

    Attributes:
        write_id: Names the write.
        key: The write key, 32 bytes.
        wrapped: The same key under the dataset's KEK, base64url, for the manifest.
        base: Number of the version the write builds on; None for the first.
        columns: Its column keys, where columns of the dataset have keys of their own.
    """

    write_id: str
    key: SecretBytes
    wrapped: str
    base: int | None
    columns: Mapping[str, ColumnKey] = field(default_factory=dict)

    @classmethod
    def from_message(cls, message: NewWrite) -> Self:
        """Take over what the key service made.

        Raises:
            FormatError: The key has not 32 bytes.
        """
        key = parse_write_key(message.key)
        columns = {
            column: ColumnKey(key=parse_write_key(each.key), wrapped=each.wrapped)
            for column, each in message.columns.items()
        }
        return cls(write_id=message.write_id, key=key, wrapped=message.wrapped, base=message.base, columns=columns)

    def file_key(self, file_id: str) -> SecretBytes:
        """Return the key of one of this write's files."""
        return derive_file_key(self.key, file_id=file_id)

    def file_keys(self, file_id: str, *, dataset: str) -> FileKeys:
        """Return the keys of one of this write's files in which columns have keys of their own."""
        column_keys = {column: each.key for column, each in self.columns.items()}
        return FileKeys(
            dataset=dataset, write_id=self.write_id, file_id=file_id, write_key=self.key, column_keys=column_keys
        )


def parse_write_key(text: str) -> SecretBytes:
    """Return a write key from base64url text.

    Raises:
        FormatError: Not base64url, or not 32 bytes.
    """
    key = SecretBytes(from_b64url(text))
    if len(key) != _WRITE_KEY_BYTES:
        raise FormatError("a write key has 32 bytes")
    return key


def parse_write_keys(texts: Mapping[str, str]) -> dict[str, SecretBytes]:
    """Return write keys by write id, as the key service sends them for one dataset.

    Raises:
        FormatError: One of them is not 32 bytes of base64url.
    """
    return {write_id: parse_write_key(text) for write_id, text in texts.items()}


def parse_path(text: str) -> str:
    """Return a file's path in a dataset, if it is one.

    Raises:
        FormatError: Absolute, with dot segments, empty segments, backslashes or control characters, or too long.
    """
    try:
        return _PATH.validate_python(text)
    except ValidationError as error:
        raise FormatError("not a path inside a dataset", action="use a relative path without . and ..") from error


def aad_prefix(*, dataset: str, write_id: str, file_id: str) -> bytes:
    """Return the AAD prefix of a file: what its every encrypted module is bound to.

    Source: Apache Parquet, Modular Encryption, section 4.4.
    """
    return f"strongroom/1|{dataset}|{write_id}|{file_id}".encode("ascii")


def with_file_id(path: str, *, file_id: str) -> str:
    """Return `path` with `-<file_id>` before the first dot of its base name.

    Raises:
        FormatError: The path is not one, or gets too long.
    """
    folder, slash, base_name = parse_path(path).rpartition("/")
    stem, dot, suffix = base_name.partition(".")
    return parse_path(f"{folder}{slash}{stem}-{file_id}{dot}{suffix}")


def file_id_of(path: str) -> str | None:
    """Return the file id that `with_file_id` put into a path; None where there is none."""
    stem = path.rpartition("/")[2].partition(".")[0]
    hyphen, file_id = stem[-_FILE_ID_DIGITS - 1 : -_FILE_ID_DIGITS], stem[-_FILE_ID_DIGITS:]
    try:
        from_hex(file_id, size_bytes=_FILE_ID_DIGITS // 2)
    except FormatError:
        return None
    return file_id if hyphen == "-" else None


def is_at_or_below(path: str, place: str) -> bool:
    """Tell whether a file stands at a place or in the folder of that name; the empty place is the dataset's root."""
    return not place or path == place or path.startswith(f"{place}/")


def demand_no_column_in_path(path: str, columns: Collection[str]) -> None:
    """Refuse a file below a folder that holds values of a column with a key of its own, as `partitionBy` makes them.

    Paths stand in the manifest, which opens without the column's key.

    Raises:
        RefusedError: The path does.
    """
    keyed = {column.casefold() for column in columns}
    for folder in path.split("/")[:-1]:
        name, is_partition, _ = folder.partition("=")
        if is_partition and unquote(name).casefold() in keyed:
            raise RefusedError(
                f"column {unquote(name)} has a key of its own: files cannot be partitioned by it",
                action="partition by another column",
                step=Step.WRITE,
            )


def storage_name(*, write_id: str, path: str) -> str:
    """Return where a file lies below the dataset's location: no write ever touches another's files."""
    return f"{write_id}/{path}"


def manifest_name(digest: str) -> str:
    """Return where a manifest lies below the dataset's location: named by content, so it is never overwritten."""
    return f"_strongroom/{digest}.manifest"
