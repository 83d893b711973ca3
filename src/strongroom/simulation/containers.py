"""What the simulated hardware measures of a container: every file that its code can come from.

On a machine of its own the platform measures a Python environment (`measure`). A container brings a whole system along,
so here it is all of that: each file below the folders of programs, libraries and their settings. Whatever else a
container sees (volumes, `/tmp`, the names and addresses that a cluster writes into `/etc`) is data, and the host's
word. Where a volume covers one of those folders, the volume's files are measured in the place of the image's.

An image of ours says that it is one, and what it starts, in `/etc/strongroom-image`, which is measured with the rest.
The same digest comes from the image's archive, before anything runs (`archives`): an owner's reference value.

The platform follows no symbolic link of a container: a link would lead to a file of the platform's own.

Source: proc(5), `/proc/PID/root`.
"""

import errno
import hashlib
import os
import stat
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import StringConstraints

from strongroom.base.errors import ConfigurationError, FormatError, LimitError
from strongroom.simulation.measure import FileKey, file_key
from strongroom.simulation.processes import no_right_to_look
from strongroom.wire.model import Message

MARK: Final = "etc/strongroom-image"
MARK_BYTES: Final = 4096
FOLDER: Final = "folder"
"""What a folder is: of no weight by itself, so that one that a cluster made to mount something on changes nothing."""
OTHER: Final = "other"
"""What a device, a socket or a pipe is."""

_CODE: Final = ("bin", "etc", "lib", "lib32", "lib64", "libx32", "opt", "sbin", "usr")
_WRITTEN_BY_THE_CLUSTER: Final = frozenset({"etc/hostname", "etc/hosts", "etc/mtab", "etc/resolv.conf"})
_MOUNTED_BY_SPARK: Final = "opt/spark/conf"
"""Where Spark's submission client mounts the driver's settings, another text for each run. No file of an image of ours
lies there, and the agent reads nothing of it: data, as any volume is."""
_FORMAT: Final = "files of a container, 1"
_MOST_FILES: Final = 200_000
_MOST_REMEMBERED: Final = 1_000_000
_MOST_LINKS: Final = 40
_READ_BYTES: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class ImageMark(Message):
    """What stands in an image's `/etc/strongroom-image`.

    Attributes:
        python: Absolute path of the interpreter that starts an entry.
        entries: The entry modules that the image is made for; no other one is launched in it.
    """

    version: Literal[1] = 1
    python: Annotated[str, StringConstraints(pattern=r"^(/[^/\x00-\x1f]+)+\Z")]
    entries: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """A container of ours, seen from outside.

    Attributes:
        root: Where its root is seen from here: `/proc/PID/root`, or `/` for the platform's own.
        mark: What its image says.
    """

    root: Path
    mark: ImageMark

    def interpreter(self) -> Path:
        """Return where the file of its interpreter is seen from here.

        Raises:
            ConfigurationError: There is none, or this process may not look.
        """
        try:
            return self.root / _followed(self.root, self.mark.python)
        except OSError as error:
            raise _cannot_look(error) from error


def container_at(root: Path) -> Container | None:
    """Return the container whose root this is; None where the files are of no image of ours.

    Args:
        root: Where the root is seen from here.

    Raises:
        ConfigurationError: This process may not look there.
        FormatError: Its mark is malformed.
    """
    try:
        descriptor = os.open(root / _followed(root, MARK), _READ_BYTES)
    except (FileNotFoundError, NotADirectoryError, ProcessLookupError):
        return None
    except OSError as error:
        raise _cannot_look(error) from error
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise FormatError("the image's mark is no file")
        return Container(root=root, mark=parse_mark(file.read(MARK_BYTES + 1)))


def parse_mark(text: bytes) -> ImageMark:
    """Read an image's mark.

    Raises:
        FormatError: It is too long, or no such document.
    """
    if len(text) > MARK_BYTES:
        raise FormatError("the image's mark is longer than allowed")
    return ImageMark.from_json(text)


class ContainerMeasurer:
    """Measures containers; a file is read again only when its inode, size or times are new.

    Containers of one image share its files, whatever node's folder they lie in, and so what is remembered of them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._digests: dict[tuple[str, FileKey], str] = {}

    def measure(self, container: Container) -> str:
        """Measure a container.

        Returns:
            The digest of `files_digest`, 64 hexadecimal digits.

        Raises:
            ConfigurationError: A file cannot be read.
            LimitError: There are more files than in any image.
        """
        with self._lock:
            if len(self._digests) > _MOST_REMEMBERED:
                self._digests.clear()
            try:
                return files_digest(dict(self._files(os.fspath(container.root))))
            except OSError as error:
                raise _cannot_look(error) from error

    def _files(self, root: str) -> Iterator[tuple[str, str]]:
        pending = [name for name in _CODE if os.path.lexists(f"{root}/{name}")]
        seen = 0
        while pending:
            path = pending.pop()
            seen += 1
            if seen > _MOST_FILES:
                raise LimitError("the container has more files than an image of Strongroom has")
            place = f"{root}/{path}"
            status = os.lstat(place)
            if path == _MOUNTED_BY_SPARK:
                continue
            if stat.S_ISDIR(status.st_mode):
                pending += (f"{path}/{name}" for name in os.listdir(place))  # noqa: PTH208 - names, tens of thousands
            elif stat.S_ISLNK(status.st_mode):
                yield path, link(os.readlink(place))  # noqa: PTH115 - as text, as it stands
            elif stat.S_ISREG(status.st_mode):
                yield path, self._file(place, path, file_key(status))
            else:
                yield path, OTHER

    def _file(self, place: str, path: str, key: FileKey) -> str:
        known = self._digests.get((path, key))
        if known is None:
            descriptor = os.open(place, _READ_BYTES)
            with os.fdopen(descriptor, "rb", buffering=0) as file:
                key = file_key(os.fstat(descriptor))
                known = self._digests[path, key] = hashlib.file_digest(file, "sha256").hexdigest()
        return regular_file(known)


def regular_file(sha256: str) -> str:
    """Return what a file with this digest is, as `files_digest` takes it."""
    return f"file {sha256}"


def link(target: str) -> str:
    """Return what a symbolic link is, as `files_digest` takes it."""
    return f"link {target}"


def files_digest(files: Mapping[str, str]) -> str:
    """Return the digest of a container's files.

    Args:
        files: What each path below the root is: from `regular_file`, `link`, `FOLDER` or `OTHER`. Folders, what lies
            outside the folders of code, and what a cluster writes are left out here.

    Returns:
        SHA-256 over paths in order and what they are, each ended by a zero byte; 64 hexadecimal digits.
    """
    parts = [_FORMAT]
    for path in sorted(files):
        top, _, _ = path.partition("/")
        is_data = path in _WRITTEN_BY_THE_CLUSTER or f"{path}/".startswith(f"{_MOUNTED_BY_SPARK}/")
        if files[path] != FOLDER and top in _CODE and not is_data:
            parts += (path, files[path])
    return hashlib.sha256("".join(f"{part}\0" for part in parts).encode("utf-8", "surrogateescape")).hexdigest()


def _followed(root: Path, path: str) -> str:
    """Return where a path leads under a root, relative to it: symbolic links lead to where they lead in there.

    Raises:
        OSError: A part of it does not exist, or links lead in a circle.
    """
    pending, found, links = _parts(path), list[str](), 0
    while pending:
        part = pending.pop(0)
        if part == "..":
            found = found[:-1]
            continue
        try:
            target = os.readlink(root.joinpath(*found, part))  # noqa: PTH115 - as text, as it stands
        except OSError as error:
            if error.errno != errno.EINVAL:  # what is no link
                raise
            found.append(part)
            continue
        links += 1
        if links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        found = [] if target.startswith("/") else found
        pending = [*_parts(target), *pending]
    return "/".join(found)


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in {"", "."}]


def _cannot_look(error: OSError) -> ConfigurationError:
    if isinstance(error, PermissionError):
        return no_right_to_look()
    return ConfigurationError(f"a file of the container cannot be measured ({error.strerror})")
