"""Secrets in files that only this process's user may read: a master key, an HSM's PIN, a vault's token."""

import os
import stat
from pathlib import Path
from typing import Final

from strongroom.base.errors import ConfigurationError
from strongroom.base.secret import SecretBytes

_MAX_TEXT_BYTES: Final = 64 << 10


def read_secret_file(path: Path, *, what: str, action: str, max_bytes: int) -> SecretBytes:
    """Return the content of an owner-only file.

    Args:
        path: The file; not a link.
        what: What it is, for the error.
        action: What to do where it is missing.
        max_bytes: How much of it is read; a longer file gives one byte more.

    Raises:
        ConfigurationError: It cannot be read, is no ordinary file, or is not this process's user's alone.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigurationError(f"{what} {path} cannot be read: {error.strerror}", action=action) from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or stat.S_IMODE(status.st_mode) & 0o077 or status.st_uid != os.geteuid():
            raise ConfigurationError(f"{what} {path} is not its owner's alone", action=f"Make it so: chmod 600 {path}")
        return SecretBytes(file.read(max_bytes + 1))


def read_secret_text(path: Path, *, what: str, action: str) -> SecretBytes:
    """Return the one line of text in an owner-only file, without the white space around it.

    Raises:
        ConfigurationError: As `read_secret_file`; or the file is empty, too long, or holds more than printable ASCII.
    """
    text = read_secret_file(path, what=what, action=action, max_bytes=_MAX_TEXT_BYTES).reveal().strip()
    if not text or len(text) > _MAX_TEXT_BYTES or not all(0x21 <= byte <= 0x7E for byte in text):  # noqa: PLR2004
        raise ConfigurationError(f"{what} {path} does not hold one line of printable text", action=action)
    return SecretBytes(text)
