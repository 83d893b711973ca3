"""A master key in an owner-only file: `file:///absolute/path`. For owner-operated key services."""

import os
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from strongroom.base.errors import ConfigurationError
from strongroom.base.secret import SecretBytes
from strongroom.crypto.random import random_secret
from strongroom.keys.providers.envelope import WrapAlgorithm
from strongroom.keys.providers.local import LocalMasterKey
from strongroom.keys.providers.secret_file import read_secret_file

_FORM: Final = "the master key's address must be file:///absolute/path"
_KEY_BYTES: Final = 32
_RESTORE: Final = "Restore it from its backup: without it no key can be opened."


def open_master_key(uri: str, *, create: bool) -> LocalMasterKey:
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
    return LocalMasterKey(_read(path), algorithm=WrapAlgorithm.FILE_A256GCM)


def _path_of(uri: str) -> Path:
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise ConfigurationError(_FORM) from error
    path = unquote(parts.path)
    plain = not parts.netloc and not parts.query and not parts.fragment and "\0" not in path
    if parts.scheme != "file" or not plain or not path.startswith("/"):
        raise ConfigurationError(_FORM)
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
    key = read_secret_file(path, what="the master key's file", action=_RESTORE, max_bytes=_KEY_BYTES)
    if len(key) != _KEY_BYTES:
        raise ConfigurationError(f"the file {path} does not hold a master key of {_KEY_BYTES} bytes", action=_RESTORE)
    return key
