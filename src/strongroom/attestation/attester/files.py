"""The few operations on files through which kernels and library operating systems quote.

They are behind an interface because these are no files: making a folder fills it, and a write changes what another
file says. Tests put a tree there that behaves so.
"""

import errno
import os
from pathlib import Path
from typing import Protocol

from typing_extensions import override

from strongroom.base.errors import LimitError


class DeviceFiles(Protocol):
    """Operations on pseudo-files. Each may raise `OSError`, which the caller explains."""

    def read(self, path: Path, *, limit_bytes: int) -> bytes:
        """Return all that a file says.

        Raises:
            LimitError: It says more than the limit.
            OSError: The system refuses.
        """

    def write(self, path: Path, data: bytes) -> None:
        """Write to a file with exactly one call.

        Raises:
            OSError: The system refuses, or takes only a part.
        """

    def make_folder(self, path: Path) -> None:
        """Make a folder, which must not exist.

        Raises:
            OSError: The system refuses.
        """

    def remove_folder(self, path: Path) -> None:
        """Remove a folder together with the files that the system put there.

        Raises:
            OSError: The system refuses.
        """


class SystemFiles(DeviceFiles):
    """The system's own files."""

    @override
    def read(self, path: Path, *, limit_bytes: int) -> bytes:
        """Return all that a file says (see `DeviceFiles`)."""
        parts: list[bytes] = []
        size_bytes = 0
        with path.open("rb", buffering=0) as file:
            while part := file.read(limit_bytes + 1 - size_bytes):  # a pseudo-file may give any part of what is asked
                parts.append(part)
                size_bytes += len(part)
                if size_bytes > limit_bytes:
                    raise LimitError(f"{path.name} of the quoting device is larger than allowed")
        return b"".join(parts)

    @override
    def write(self, path: Path, data: bytes) -> None:
        """Write to a file with exactly one call (see `DeviceFiles`)."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            if os.write(descriptor, data) != len(data):
                raise OSError(errno.EIO, "only a part was written", str(path))
        finally:
            os.close(descriptor)

    @override
    def make_folder(self, path: Path) -> None:
        """Make a folder (see `DeviceFiles`)."""
        path.mkdir(mode=0o700)

    @override
    def remove_folder(self, path: Path) -> None:
        """Remove a folder (see `DeviceFiles`)."""
        path.rmdir()
