"""Storage: a folder of ciphertext at a `file:///` location. What is read from it is not trusted.

Writing is atomic: a name either holds the whole, synced content or does not exist.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from strongroom.base.errors import (
    ConfigurationError,
    ConflictError,
    IntegrityError,
    NotFoundError,
    StrongroomError,
    UnavailableError,
)
from strongroom.base.limits import LIMITS
from strongroom.base.workflow import Step
from strongroom.crypto.random import random_id
from strongroom.datasets.identity import manifest_name

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_FORBIDDEN: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_MISSING: Final = frozenset({errno.ENOENT, errno.ENOTDIR})


class Storage:
    """The files below one location.

    Args:
        location: `file:///ABSOLUTE/FOLDER`, percent-encoded as URIs are; the folder may not exist yet.

    Raises:
        ConfigurationError: Of another scheme, or not an absolute folder.
    """

    __slots__ = ("_root",)

    def __init__(self, location: str) -> None:
        self._root: Final = _folder_of(location)

    def read_manifest(self, digest: str) -> bytes:
        """Return the bytes that stand in the place of a manifest; whether they are it, `verify_header` says.

        Raises:
            IntegrityError: There are none, or too many.
            ConfigurationError: They may not be read.
            UnavailableError: Storage does not work.
        """
        try:
            return self.read(manifest_name(digest), max_bytes=LIMITS.manifest_bytes)
        except NotFoundError as error:
            raise IntegrityError(
                f"the manifest {self.path(manifest_name(digest))} is missing from storage",
                action="restore the file from the owner's copy, or ask the operator where the dataset's storage lies",
                step=Step.DECRYPT,
            ) from error

    def uri(self, name: str) -> str:
        """Return the location of a name, percent-encoded."""
        return self.path(name).as_uri()

    def path(self, name: str) -> Path:
        """Return the file of a name; the name has no dot segments (`parse_path`)."""
        return self._root / name

    def read(self, name: str, *, max_bytes: int) -> bytes:
        """Return a whole file.

        Args:
            name: Below the location.
            max_bytes: Refuse more than this.

        Raises:
            NotFoundError: There is no such file.
            IntegrityError: It is longer than `max_bytes`.
            ConfigurationError: It may not be read.
            UnavailableError: Storage does not work.
        """
        path = self.path(name)
        with storage_errors(path), path.open("rb") as file:
            data = file.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise IntegrityError(
                f"{path} is longer than {max_bytes} bytes", action="restore the file from the owner's copy"
            )
        return data

    def write_manifest(self, data: bytes, digest: str) -> None:
        """Write what `build_manifest` made to the place that its digest gives it.

        Raises:
            ConfigurationError: It may not be written.
            UnavailableError: Storage is full or does not work.
        """
        write_file(self.path(manifest_name(digest)), data)

    def create(self, name: str, data: bytes) -> None:
        """Write a file under a name that nobody has used yet, as a whole or not at all.

        Raises:
            ConflictError: The name is taken.
            ConfigurationError: It may not be written.
            UnavailableError: Storage is full or does not work.
        """
        path = self.path(name)
        partial = path.with_name(f".{random_id()}.partial")
        try:
            with storage_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                partial.write_bytes(data)
                _sync(partial)
            try:
                os.link(partial, path)
            except FileExistsError as error:
                raise ConflictError(f"{path} exists already", action="start again, from what is there now") from error
            except OSError as error:
                raise _translated(error, path) from error
            with storage_errors(path):
                _sync(path.parent)
        finally:
            with storage_errors(path):
                partial.unlink(missing_ok=True)

    def names(self, below: str = "") -> list[str]:
        """Return the names of all files in a folder and its subfolders, in order; links are not followed."""
        start = self.path(below)
        with storage_errors(start):
            found = [Path(folder, file) for folder, _, files in os.walk(start) for file in files]
        return sorted(path.relative_to(self._root).as_posix() for path in found)

    def remove_folder(self, name: str) -> None:
        """Remove a folder of this storage with everything in it, as far as it exists.

        Raises:
            ConfigurationError: It may not be removed.
            UnavailableError: Storage does not work.
        """
        start = self.path(name)
        with storage_errors(start):
            for folder, folders, files in os.walk(start, topdown=False):
                for file in files:
                    Path(folder, file).unlink(missing_ok=True)
                for link in (Path(folder, child) for child in folders):
                    link.unlink() if link.is_symlink() else link.rmdir()
            if start.is_dir():
                start.rmdir()


def write_file(path: Path, data: bytes) -> None:
    """Write a file as a whole, or not at all; its folder is made where it does not exist.

    Raises:
        ConfigurationError: It may not be written.
        UnavailableError: Storage is full or does not work.
    """
    with writing_file(path) as partial, storage_errors(path):
        partial.write_bytes(data)


@contextmanager
def writing_file(path: Path) -> Iterator[Path]:
    """Give a path to write to; it becomes the wanted file when the block ends without an error.

    What the block itself writes there belongs into `storage_errors`.

    Raises:
        ConfigurationError: It may not be written.
        UnavailableError: Storage is full or does not work.
    """
    partial = path.with_name(f".{random_id()}.partial")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        with storage_errors(path):
            _sync(partial)
            partial.replace(path)
            _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Translate the operating system's errors about a file of storage.

    Raises:
        NotFoundError: There is no such file.
        ConfigurationError: It may not be used.
        UnavailableError: Storage is full or does not work.
    """
    try:
        yield
    except OSError as error:
        raise _translated(error, path) from error


def _folder_of(location: str) -> Path:
    try:
        parts = urlsplit(location)
    except ValueError:
        parts = urlsplit("")
    path = unquote(parts.path)
    extras = parts.netloc or parts.query or parts.fragment
    if parts.scheme != "file" or extras or not path.startswith("/") or "\0" in path or ".." in path.split("/"):
        raise ConfigurationError(
            f"{location!r} is not a storage location that can be used here",
            action="give the location as file:///ABSOLUTE/FOLDER",
        )
    return Path(path)


def _translated(error: OSError, path: Path) -> StrongroomError:
    if error.errno in _MISSING:
        return NotFoundError(f"{path} does not exist", action="check where the dataset's storage lies")
    if error.errno in _FULL:
        return UnavailableError(
            f"storage is full: {path} could not be written", action="free space there and start again"
        )
    if error.errno in _FORBIDDEN:
        return ConfigurationError(f"{path} may not be read or written", action="correct the folder's permissions")
    reason = os.strerror(error.errno) if error.errno else "input/output error"
    return UnavailableError(f"storage does not work at {path}: {reason}", action="check the storage and start again")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
