"""MEK → KEK per dataset → write key per dataset and write → key per file. Pure; also used inside the TEE.

A column with a key of its own has the same below it: a KEK, and for each write a column key under it.

A wrapped write key is `version (1 byte, 0x01) | KEK version (16) | sealed value of crypto.aead`; its context
names dataset, write, KEK version, and the column of a column key, so that it opens nowhere else. The first byte stands
for the whole form: version 1 is AES-256-GCM under a key derived from the KEK by HKDF-SHA-256.
"""

from collections.abc import Mapping
from typing import Final

from strongroom.base.encoding import Json, canonical_json, from_hex
from strongroom.base.errors import FormatError
from strongroom.base.secret import SecretBytes
from strongroom.crypto import aead
from strongroom.crypto.derive import hkdf_sha256

_WRAPPED_VERSION: Final = b"\x01"
_KEY_BYTES: Final = 32
_ID_BYTES: Final = 16
_DIGEST_BYTES: Final = 32
_FILE_INFO: Final = b"strongroom/1 file key"
_MANIFEST_INFO: Final = b"strongroom/1 manifest"
_WRAPPING_INFO: Final = b"strongroom/1 write-key wrapping"
_PARQUET_INFO: Final = b"strongroom/1 parquet-key wrapping"


def derive_file_key(write_key: SecretBytes, *, file_id: str) -> SecretBytes:
    """Derive the key of one file.

    Args:
        write_key: 32 bytes.
        file_id: The file's id, 32 hexadecimal digits.

    Returns:
        The file's key, 32 bytes.

    Raises:
        FormatError: Not such a key or id.
    """
    return hkdf_sha256(_full_key(write_key), salt=from_hex(file_id, size_bytes=_ID_BYTES), info=_FILE_INFO)


def manifest_key(write_key: SecretBytes) -> SecretBytes:
    """Derive the key under which a write's manifest is encrypted, 32 bytes.

    Raises:
        FormatError: The write key has not 32 bytes.
    """
    return hkdf_sha256(_full_key(write_key), salt=b"", info=_MANIFEST_INFO)


def wrap_write_key(
    kek: SecretBytes,
    write_key: SecretBytes,
    *,
    dataset: str,
    write_id: str,
    kek_version: str,
    column: str | None = None,
) -> bytes:
    """Wrap a write key under its dataset's KEK, or a column key under the column's, for the manifest.

    Args:
        kek: The dataset's, or the column's, key encryption key, 32 bytes.
        write_key: The write key or the column key, 32 bytes.
        dataset: The dataset's name.
        write_id: The write's id, 32 hexadecimal digits.
        kek_version: The KEK's version, 32 hexadecimal digits; it stands in the result.
        column: The column of a column key; None for a write key.

    Returns:
        The wrapped key, 78 bytes.

    Raises:
        FormatError: A key or an id of another size.
    """
    context = _context(dataset, write_id, kek_version, column)
    sealed = aead.encrypt(_wrapping_key(kek), _full_key(write_key).reveal(), context=context)
    return _WRAPPED_VERSION + from_hex(kek_version, size_bytes=_ID_BYTES) + sealed


def kek_version_of(wrapped: bytes) -> str:
    """Return the version of the KEK that a wrapped write key names, 32 hexadecimal digits.

    Raises:
        FormatError: Not a wrapped write key of version 1.
    """
    if wrapped[:1] != _WRAPPED_VERSION or len(wrapped) <= 1 + _ID_BYTES:
        raise FormatError("not a wrapped write key of version 1")
    return wrapped[1 : 1 + _ID_BYTES].hex()


def unwrap_write_key(
    kek: SecretBytes, wrapped: bytes, *, dataset: str, write_id: str, column: str | None = None
) -> SecretBytes:
    """Open what `wrap_write_key` made.

    Args:
        kek: The KEK of the version that `kek_version_of` says.
        wrapped: The wrapped key.
        dataset: The dataset it must be for.
        write_id: The write it must be for.
        column: The column it must be for; None for a write key.

    Returns:
        The write key, 32 bytes.

    Raises:
        FormatError: Not a wrapped write key.
        IntegrityError: Under another KEK, of another dataset, write or column, or changed.
    """
    context = _context(dataset, write_id, kek_version_of(wrapped), column)
    return _full_key(aead.decrypt(_wrapping_key(kek), wrapped[1 + _ID_BYTES :], context=context))


def parquet_wrapping_key(key: SecretBytes, *, file_id: str) -> SecretBytes:
    """Derive the key under which the Parquet keys of one file stand in it, where columns have keys of their own.

    Args:
        key: The write key (for the footer, and columns without keys of their own), or a column key; 32 bytes.
        file_id: The file's id, 32 hexadecimal digits.

    Returns:
        The wrapping key, 32 bytes.

    Raises:
        FormatError: Not such a key or id.
    """
    return hkdf_sha256(_full_key(key), salt=from_hex(file_id, size_bytes=_ID_BYTES), info=_PARQUET_INFO)


def parquet_key_context(*, dataset: str, write_id: str, file_id: str, column: str | None) -> bytes:
    """Return what a wrapped Parquet key is bound to; `column` is None for the footer's key."""
    place: dict[str, Json] = {"dataset": dataset, "write_id": write_id, "file_id": file_id, "column": column}
    return canonical_json({"version": 1, "purpose": "parquet-key", **place})


def run_secret(shares: Mapping[str, SecretBytes], *, run: str, application: str, driver_key: str) -> SecretBytes:
    """Derive the secret that a run's Spark processes authenticate with.

    Args:
        shares: Each key service's share, 32 bytes, by the service's identity; all services of the run's bindings.
        run: Digest of the run ticket.
        application: Digest of the application.
        driver_key: Thumbprint of the driver's signing key.

    Returns:
        The secret, 32 bytes; no single service of several knows it.

    Raises:
        FormatError: No share, or one of another size, or not such digests.
    """
    if not shares:
        raise FormatError("a run's secret needs the share of at least one key service")
    ordered = b"".join(_full_key(shares[identity]).reveal() for identity in sorted(shares))
    info = from_hex(application, size_bytes=_DIGEST_BYTES) + from_hex(driver_key, size_bytes=_DIGEST_BYTES)
    return hkdf_sha256(SecretBytes(ordered), salt=from_hex(run, size_bytes=_DIGEST_BYTES), info=info)


def _wrapping_key(kek: SecretBytes) -> SecretBytes:
    """Derive the key that wraps, so that no other use of the KEK (Key Vault's wrapKey) shares a cipher with it."""
    return hkdf_sha256(_full_key(kek), salt=b"", info=_WRAPPING_INFO)


def _context(dataset: str, write_id: str, kek_version: str, column: str | None) -> bytes:
    place: dict[str, Json] = {"dataset": dataset, "write_id": write_id, "kek_version": kek_version}
    purpose: dict[str, Json] = {"purpose": "write-key"}
    if column is not None:
        purpose = {"purpose": "column-key", "column": column}
    return canonical_json({"version": 1, **purpose, **place})


def _full_key(key: SecretBytes) -> SecretBytes:
    if len(key) != _KEY_BYTES:
        raise FormatError("keys of the hierarchy have 32 bytes")
    return key
