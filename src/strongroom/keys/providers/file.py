"""A master key in an owner-only file: `file:///absolute/path`. For owner-operated key services."""

import os
import stat
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from strongroom.base.errors import ConfigurationError
from strongroom.base.secret import SecretBytes
from strongroom.crypto import aead
from strongroom.crypto.random import random_secret

_KEY_BYTES: Final = 32


class FileMasterKey:
    """A master key that this process read from a file."""

    __slots__ = ("_key",)

    def __init__(self, key: SecretBytes) -> None:
        self._key = key

    def wrap(self, key: SecretBytes, *, context: bytes) -> bytes:
        """Encrypt a key; `context` says what it is for."""
        return aead.encrypt(self._key, key.reveal(), context=context)

    def unwrap(self, wrapped: bytes, *, context: bytes) -> SecretBytes:
        """Decrypt what `wrap` made in the same context.

        Raises:
            IntegrityError: Wrapped by another master key, for another context, or changed.
        """
        return aead.decrypt(self._key, wrapped, context=context)


def open_master_key(uri: str, *, create: bool) -> FileMasterKey:
    """Read the master key's file.

    Args:
        uri: `file:///absolute/path`.
        create: Make the file with a new key if it is not there.

    Raises:
        ConfigurationError: Not such an address; no such file; a file that others than its owner may use, that is
            not this process's own, or that holds no key.
    """
    path = _path_of(uri)
    if create and not path.exists():
        _create(path)
    return FileMasterKey(_read(path))


def _path_of(uri: str) -> Path:
    parts = urlsplit(uri)
    path = unquote(parts.path)
    if parts.scheme != "file" or parts.netloc or not path.startswith("/") or parts.query or parts.fragment:
        raise ConfigurationError("the master key's address must be file:///absolute/path")
    return Path(path)


def _create(path: Path) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(random_secret(_KEY_BYTES).reveal())
            file.flush()
            os.fsync(file.fileno())
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise ConfigurationError(f"the master key's file {path} cannot be made: {error.strerror}") from error


def _read(path: Path) -> SecretBytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigurationError(
            f"the master key's file {path} cannot be read: {error.strerror}",
            action="Restore it from its backup: without it no key can be opened.",
        ) from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or stat.S_IMODE(status.st_mode) & 0o077 or status.st_uid != os.geteuid():
            raise ConfigurationError(
                f"the master key's file {path} is not its owner's alone", action=f"Make it so: chmod 600 {path}"
            )
        key = file.read(_KEY_BYTES + 1)
    if len(key) != _KEY_BYTES:
        raise ConfigurationError(f"the file {path} does not hold a master key of {_KEY_BYTES} bytes")
    return SecretBytes(key)
