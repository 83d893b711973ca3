"""Small state files of a service: read as a whole, replaced as a whole."""

import os
from pathlib import Path

from strongroom.base.errors import ConfigurationError, UnavailableError


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
