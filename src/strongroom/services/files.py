"""A service's state folder, and small files in it: read as a whole, replaced as a whole."""

import os
import stat
from pathlib import Path

from strongroom.base.errors import ConfigurationError, UnavailableError


def prepare_folder(folder: Path) -> None:
    """Make a state folder that only its owner can enter, or check that it is one.

    Raises:
        ConfigurationError: It cannot be made, or others may enter it.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = stat.S_IMODE(folder.stat().st_mode)
    except OSError as error:
        raise ConfigurationError(f"the state folder {folder} cannot be used: {error.strerror}") from error
    if mode & 0o077:
        raise ConfigurationError(
            f"the state folder {folder} is open to others", action=f"Make it its owner's alone: chmod 700 {folder}"
        )


def read_file(path: Path) -> bytes | None:
    """Return a file's bytes, or None if there is none.

    Raises:
        ConfigurationError: It cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError(f"{path.name} cannot be read: {error.strerror}") from error


def replace_file(path: Path, content: bytes) -> None:
    """Replace a file so that a crash leaves the old or the new one, never a part; mode 600.

    Raises:
        UnavailableError: The disk does not take it.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise UnavailableError(
            f"{path.name} cannot be written: {error.strerror}", action="look at the service's disk"
        ) from error
