"""The manifest of one version of a dataset: what a storage folder must hold, and nothing else.

On storage it is one canonical JSON object (`SealedManifest`): a header that anyone may read, and an encrypted body
(`ManifestBody`), which the header is bound to. Its SHA-256 is what the key service countersigns.
"""

from collections.abc import Sized
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from strongroom.wire.model import B64Url, ColumnName, DatasetName, Hex16, Hex32, Message, RelativePath


def _is_empty(value: Sized) -> bool:
    return not value


def _refuse_second_spellings(path: str) -> str:
    if not all(path.split("/")):
        msg = "a path has no empty segment and no trailing slash"
        raise ValueError(msg)
    return path


FilePath = Annotated[RelativePath, AfterValidator(_refuse_second_spellings)]
"""A file's path in its dataset, in its only spelling."""


class FileEntry(Message):
    """One file of a version.

    Attributes:
        path: Where the file stands in the dataset.
        write_id: The write that made it: names the write key its key is derived from.
        file_id: 16 random bytes, chosen for this one attempt to write it.
        length_bytes: Length of the ciphertext on storage.
        rows: How many rows it holds, where the writer knew.
    """

    path: FilePath
    write_id: Hex16
    file_id: Hex16
    length_bytes: int = Field(ge=0)
    rows: int | None = Field(default=None, ge=0)


class ManifestBody(Message):
    """The encrypted part: every file of the version."""

    format: Literal["parquet"] = "parquet"
    files: tuple[FileEntry, ...]


class ManifestHeader(Message):
    """The readable part, authenticated by the body's encryption.

    Attributes:
        key_service: Identity of the key service that keeps the dataset's KEK.
        number: The version's number, from 1.
        previous: Digest of the version before; None for the first.
        write_keys: The write keys that the files need, wrapped under the KEK, by write id.
        sealed_by: The write whose key encrypts the body.
        column_keys: Where columns have keys of their own: the writes' column keys, wrapped under the columns' KEKs, by
            column and write id. Files of these writes have keys in their own key metadata.
    """

    version: Literal[1] = 1
    dataset: DatasetName
    key_service: Hex32
    number: int = Field(ge=1)
    previous: Hex32 | None
    write_keys: dict[Hex16, B64Url] = Field(min_length=1)
    sealed_by: Hex16
    column_keys: dict[ColumnName, dict[Hex16, B64Url]] = Field(default_factory=dict, exclude_if=_is_empty)

    def columns_of(self, write_id: str) -> frozenset[str]:
        """Return the columns that have keys of their own in a write's files."""
        return frozenset(column for column, keys in self.column_keys.items() if write_id in keys)


class SealedManifest(ManifestHeader):
    """The manifest as it stands on storage; `body` opens to a `ManifestBody`."""

    body: B64Url
