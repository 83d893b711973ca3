"""The keys of one file in which columns have keys of their own.

Such a file has random Parquet keys: one of the footer and of all columns without keys of their own, one of each of
the others. They stand in the file as Parquet's key metadata, wrapped under keys that are derived from the file's id and
from the write key (footer) or a column key. So a wrapped key opens only as that of its dataset, write, file and column;
an AAD prefix, which pyarrow cannot set beside column keys, would bind nothing more.

Source: Apache Parquet, Modular Encryption, sections 4.2 and 5.3; `KeyMaterial` of Parquet's key tools for its form.
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from strongroom.base.encoding import canonical_json, parse_json_object
from strongroom.base.errors import FormatError, IntegrityError, RefusedError
from strongroom.base.secret import SecretBytes
from strongroom.base.workflow import Step
from strongroom.crypto import aead
from strongroom.crypto.random import random_secret
from strongroom.keys.hierarchy import parquet_key_context, parquet_wrapping_key

FOOTER_KEY: Final = "footer"
KMS_INSTANCE: Final = "strongroom"
_COLUMN_KEY: Final = "column/"
_MATERIAL: Final = "PKMT1"


@dataclass(frozen=True, slots=True, kw_only=True)
class WrappingKey:
    """What wraps Parquet keys of one file and column: the key, and the context that they are bound to."""

    key: SecretBytes
    context: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class NewParquetKey:
    """A Parquet key for a new file, and the key metadata that brings it back."""

    key: SecretBytes
    metadata: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class FileKeys:
    """What opens one file.

    Attributes:
        write_key: The key of the write that made the file.
        column_keys: That write's column keys, as far as they are known here, by column.
    """

    dataset: str
    write_id: str
    file_id: str
    write_key: SecretBytes
    column_keys: Mapping[str, SecretBytes]

    def wrapping_key(self, column: str | None) -> WrappingKey:
        """Return what wraps the Parquet keys of a column; None stands for everything without a key of its own.

        Raises:
            RefusedError: The column's key is not known here.
        """
        key = self.write_key if column is None else self.column_keys.get(column)
        if key is None:
            raise RefusedError(
                f"column {column} of dataset {self.dataset} has a key of its own, which was not released",
                action=f"leave the column out, or have an approval that names it: --column {column}",
                step=Step.DECRYPT,
            )
        context = parquet_key_context(dataset=self.dataset, write_id=self.write_id, file_id=self.file_id, column=column)
        return WrappingKey(key=parquet_wrapping_key(key, file_id=self.file_id), context=context)

    def new_key(self, column: str | None) -> NewParquetKey:
        """Make a Parquet key for the footer (None) or a column, with its metadata.

        Raises:
            RefusedError: The column's key is not known here.
        """
        key = random_secret()
        return NewParquetKey(key=key, metadata=_material(self.wrap(key, column), column))

    def wrap(self, key: SecretBytes, column: str | None) -> str:
        """Wrap a Parquet key, as base64 text.

        Raises:
            RefusedError: The column's key is not known here.
        """
        wrapping = self.wrapping_key(column)
        return base64.b64encode(aead.encrypt(wrapping.key, key.reveal(), context=wrapping.context)).decode("ascii")

    def unwrap(self, wrapped: str, column: str | None) -> SecretBytes:
        """Open what `wrap` made.

        Raises:
            IntegrityError: It is another file's or column's, or was changed.
            RefusedError: The column's key is not known here.
        """
        wrapping = self.wrapping_key(column)
        try:
            sealed = base64.b64decode(wrapped.encode("ascii"), validate=True)
            return aead.decrypt(wrapping.key, sealed, context=wrapping.context)
        except (FormatError, ValueError, binascii.Error) as error:
            raise IntegrityError("a file's key metadata is not what was written there") from error


def key_id(column: str | None) -> str:
    """Return how key metadata names a wrapping key: no character of it means anything to Parquet's key tools."""
    return FOOTER_KEY if column is None else _COLUMN_KEY + column


def column_of(identifier: str) -> str | None:
    """Return the column that a name in key metadata stands for; None for the footer's.

    Raises:
        IntegrityError: Not such a name.
    """
    if identifier == FOOTER_KEY:
        return None
    if not identifier.startswith(_COLUMN_KEY):
        raise IntegrityError("a file's key metadata names no key of the dataset")
    return identifier.removeprefix(_COLUMN_KEY)


def read_material(metadata: bytes) -> tuple[str | None, str]:
    """Return the column and the wrapped key that key metadata hold.

    Raises:
        FormatError: Not such key metadata.
        IntegrityError: They name no key of a dataset.
    """
    match parse_json_object(metadata):
        case {
            "keyMaterialType": "PKMT1",
            "doubleWrapping": False,
            "masterKeyID": str(name),
            "wrappedDEK": str(wrapped),
        }:
            return column_of(name), wrapped
        case _:
            raise FormatError("not key metadata of a single-wrapped Parquet key")


def _material(wrapped: str, column: str | None) -> bytes:
    instance = {"kmsInstanceID": KMS_INSTANCE, "kmsInstanceURL": KMS_INSTANCE} if column is None else {}
    return canonical_json(
        {
            "keyMaterialType": _MATERIAL,
            "internalStorage": True,
            "isFooterKey": column is None,
            **instance,
            "masterKeyID": key_id(column),
            "doubleWrapping": False,
            "wrappedDEK": wrapped,
        }
    )
