"""What the containers of an image will be measured as, from the image's archive, before anything runs.

An owner computes it from the image that an operator will run, and registers it as a reference value: no platform and no
cluster is asked.

Source: OCI image format specification: image layout, image manifest, layer filesystem changeset.
"""

import hashlib
import io
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final

from typing_extensions import override

from strongroom.base.encoding import Json, parse_json_object
from strongroom.base.errors import FormatError, IntegrityError, LimitError, NotFoundError
from strongroom.simulation.containers import (
    FOLDER,
    MARK,
    MARK_BYTES,
    OTHER,
    ImageMark,
    files_digest,
    link,
    parse_mark,
    regular_file,
)
from strongroom.simulation.measure import tee_measurement

_DIGEST: Final = "sha256:"
_MOST_DOCUMENT_BYTES: Final = 4 << 20
_READ_BYTES: Final = 1 << 20
_REMOVED: Final = ".wh."
_EMPTIED: Final = ".wh..wh..opq"
_ACTION: Final = "Give an archive as deploy/images/build.py makes it: an OCI image layout with one image."


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredImage:
    """An image, and what its containers will be measured as.

    Attributes:
        digest: The digest of its manifest: `sha256:` and 64 hexadecimal digits, as a cluster names it.
        files: The digest of its files, as `files_digest` makes it.
        mark: What it says of itself.
    """

    digest: str
    files: str
    mark: ImageMark

    def reference_values(self) -> dict[str, dict[str, str]]:
        """Return what each entry is measured as, by the names that an owner's policies have for it."""
        return {
            entry: {
                "mrenclave": tee_measurement(self.files, entry, tee="sgx"),
                "mrtd": tee_measurement(self.files, entry, tee="tdx"),
                "launch_digest": tee_measurement(self.files, entry, tee="snp"),
            }
            for entry in self.mark.entries
        }

    def to_json(self) -> dict[str, Json]:
        """Return the document that is published beside an image."""
        return {"version": 1, "image": self.digest, "files": self.files, "entries": self.reference_values()}


def measure_archive(archive: Path) -> MeasuredImage:
    """Measure an image without running it.

    1. The index names one manifest, the manifest one configuration and the layers.
    2. Every document and every layer is what its digest says.
    3. The layers are applied in order: what one adds, replaces and removes.
    4. The files that result, and the mark among them, are those of each container.

    Args:
        archive: A tar file with an OCI image layout.

    Raises:
        FormatError: It is no such archive, or the image has no mark.
        IntegrityError: A part of it is not what its digest says.
        LimitError: A document in it is larger than allowed.
        NotFoundError: A part of it is missing.
    """
    try:
        with tarfile.open(archive) as file:
            return _measure(_Layout(file))
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise FormatError(
            "the file is no image archive, or its layers are packed in another way", action=_ACTION
        ) from error


def _measure(layout: "_Layout") -> MeasuredImage:
    match layout.index():  # 1
        case {"manifests": [{"digest": str(digest)}]}:
            manifest = layout.document(digest)
        case _:
            raise FormatError("the archive does not hold exactly one image", action=_ACTION)
    match manifest:
        case {"config": {"digest": str(config)}, "layers": [*layers]}:
            layout.document(config)  # 2
        case _:
            raise FormatError("the image's manifest is malformed", action=_ACTION)
    files = _Files()
    for each in layers:
        match each:
            case {"digest": str(layer)}:
                with layout.blob(layer) as blob, tarfile.open(fileobj=blob, mode="r|*") as stream:
                    files.apply(_Changes.of(stream, files))  # 3
            case _:
                raise FormatError("the image's manifest is malformed", action=_ACTION)
    mark = files.mark
    if mark is None or files.known.get(MARK) != regular_file(hashlib.sha256(mark).hexdigest()):
        raise FormatError(f"the image has no /{MARK}", action="Use an image of deploy/images, or one made from it.")
    return MeasuredImage(digest=digest, files=files_digest(files.known), mark=parse_mark(mark))  # 4


class _Layout:
    """An OCI image layout in a tar file."""

    def __init__(self, file: tarfile.TarFile) -> None:
        self._file = file

    def index(self) -> dict[str, Any]:
        return parse_json_object(_whole(self._open("index.json")))

    def document(self, digest: str) -> dict[str, Any]:
        with self.blob(digest) as blob:
            return parse_json_object(_whole(blob))

    def blob(self, digest: str) -> "_Blob":
        if not digest.startswith(_DIGEST):
            raise FormatError("the archive names a part by another digest than SHA-256", action=_ACTION)
        sha256 = digest.removeprefix(_DIGEST)
        return _Blob(self._open(f"blobs/sha256/{sha256}"), sha256=sha256)

    def _open(self, name: str) -> IO[bytes]:
        try:
            stream = self._file.extractfile(name)
        except KeyError:
            stream = None
        if stream is None:
            raise NotFoundError(f"{name[:80]} is not in the archive", action=_ACTION)
        return stream


class _Blob(io.BufferedReader):
    """A part of an archive, read once from its beginning; at the end of the block it was what its digest says."""

    def __init__(self, stream: IO[bytes], *, sha256: str) -> None:
        self._hashing = _Hashing(stream)
        self._expected = sha256
        super().__init__(self._hashing, _READ_BYTES)

    @override
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            while self.read(_READ_BYTES):
                pass
            if self._hashing.sum.hexdigest() != self._expected:
                raise IntegrityError(
                    "a part of the archive is not what its digest says", action="Fetch or make the image again."
                )
        super().__exit__(kind, error, traceback)


class _Hashing(io.RawIOBase):
    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.sum = hashlib.sha256()

    @override
    def readable(self) -> bool:
        return True

    @override
    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        self.sum.update(data)
        return len(data)


@dataclass(slots=True)
class _Files:
    """The files of an image, as far as its layers have been applied.

    Attributes:
        known: What each path is (see `files_digest`).
        mark: The content of the image's mark.
    """

    known: dict[str, str] = field(default_factory=dict)
    mark: bytes | None = None

    def apply(self, changes: "_Changes") -> None:
        """Apply a layer: first what it removes of the layers below, then what it brings."""
        for folder in changes.emptied:
            self._remove_below(folder)
        for path in changes.removed:
            self.known.pop(path, None)
            self._remove_below(path)
        for path, what in changes.brought.items():
            for parent in _parents(path):
                if self.known.setdefault(parent, FOLDER) != FOLDER:
                    raise FormatError(f"a layer of the image writes through {parent[:80]}, which is no folder")
            if what != FOLDER and self.known.get(path) == FOLDER:
                self._remove_below(path)
            self.known[path] = what
        self.mark = changes.mark or self.mark

    def _remove_below(self, folder: str) -> None:
        beginning = f"{folder}/" if folder else ""
        for path in [each for each in self.known if each.startswith(beginning)]:
            del self.known[path]


@dataclass(slots=True)
class _Changes:
    """What one layer changes.

    Attributes:
        brought: What its paths are.
        removed: What is gone of the layers below.
        emptied: Folders of whose content in the layers below nothing is left.
        mark: The content of the image's mark, where this layer brings it.
    """

    brought: dict[str, str] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)
    emptied: list[str] = field(default_factory=list)
    mark: bytes | None = None

    @classmethod
    def of(cls, layer: tarfile.TarFile, below: _Files) -> "_Changes":
        """Read a layer, in the order in which it is packed."""
        changes = cls()
        for member in layer:
            path = _path(member.name)
            folder, _, name = path.rpartition("/")
            if not path:
                continue
            if name == _EMPTIED:
                changes.emptied.append(folder)
            elif name.startswith(_REMOVED):
                changes.removed.append(f"{folder}/{name.removeprefix(_REMOVED)}".lstrip("/"))
            elif member.islnk():
                target = _path(member.linkname)
                if (what := changes.brought.get(target, below.known.get(target))) is None:
                    raise FormatError(f"{path[:80]} is a hard link to nothing", action=_ACTION)
                changes.brought[path] = what
            else:
                changes.brought[path] = changes._read(layer, member, path)
        return changes

    def _read(self, layer: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> str:
        if member.isdir():
            return FOLDER
        if member.issym():
            return link(member.linkname)
        stream = layer.extractfile(member) if member.isreg() else None
        if stream is None:
            return OTHER
        digest = hashlib.sha256()
        kept = b""
        while data := stream.read(_READ_BYTES):
            digest.update(data)
            if path == MARK and len(kept) <= MARK_BYTES:
                kept += data
        if path == MARK:
            self.mark = kept
        return regular_file(digest.hexdigest())


def _parents(path: str) -> Iterator[str]:
    parent = path.rpartition("/")[0]
    while parent:
        yield parent
        parent = parent.rpartition("/")[0]


def _path(name: str) -> str:
    """Return a member's path below the root: no leading slash, no `.`."""
    parts = [part for part in name.split("/") if part not in {"", "."}]
    if ".." in parts:
        raise FormatError("a layer of the image has a path with `..`", action=_ACTION)
    return "/".join(parts)


def _whole(stream: IO[bytes] | io.BufferedReader) -> bytes:
    content = stream.read(_MOST_DOCUMENT_BYTES + 1)
    if len(content) > _MOST_DOCUMENT_BYTES:
        raise LimitError("a document of the archive is larger than allowed")
    return content
