"""Images as archives: OCI image layouts in a tar file, without a daemon. The same files give the same bytes.

    digest = write_archive(
        Path("hello.oci.tar"),
        name="localhost/hello:1",
        layers=[[Entry(path="usr/bin/hello", mode=0o755, content=program)]],
        config=ImageConfig(entrypoint=("/usr/bin/hello",)),
    )

`ctr images import`, `skopeo`, `oras` and `docker load` take them. Layers are not compressed: what a compressor makes of
the same bytes depends on its version, and an image's digest must not.

Source: OCI image format specification: image layout, image manifest, image configuration, layer filesystem changeset.
"""

import hashlib
import io
import json
import os
import platform
import stat
import tarfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Final

from typing_extensions import override

from strongroom.base.errors import ConfigurationError, Mismatch, RefusedError

EPOCH: Final = 315_532_800
"""The time of everything in an image: the beginning of 1980, before which zip archives have no time."""
USER: Final = 1000
"""User and group that containers run as. Every file belongs to root, and no container writes to its image."""

ARCHITECTURES: Final[Mapping[str, str]] = {"x86_64": "amd64", "aarch64": "arm64"}
"""Debian's and OCI's names of the machines that there are images for."""

_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
_SHELLS: Final = frozenset(
    {"ash", "bash", "busybox", "csh", "dash", "fish", "ksh", "rbash", "sh", "tcsh", "toybox", "zsh"}
)
_PACKAGE_MANAGERS: Final = frozenset({"apk", "apt", "apt-get", "dnf", "dpkg", "pip", "pip3", "rpm", "yum"})
_PRIVILEGED: Final = stat.S_ISUID | stat.S_ISGID
_BLOCK_BYTES: Final = tarfile.BLOCKSIZE
_COPY_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What a layer has at one path; with neither content nor target it is a folder.

    Attributes:
        path: Below the root, without a leading slash.
        mode: The permissions.
        content: A file's bytes, or the file that has them.
        target: Where a symbolic link leads.
    """

    path: str
    mode: int = 0o755
    content: bytes | Path | None = None
    target: str | None = None

    def __post_init__(self) -> None:
        pure = PurePosixPath(self.path)
        if pure.is_absolute() or ".." in pure.parts or str(pure) != self.path or self.path == ".":
            raise ConfigurationError(f"{self.path!r} is no path below an image's root")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageConfig:
    """How containers of an image are started, unless a pod says otherwise.

    Attributes:
        entrypoint: The program and its first arguments.
        command: The arguments that a pod's own replace.
        user: User and group, as numbers.
        environment: Environment variables.
        working_folder: Where the program starts.
        labels: What the image says about itself.
    """

    entrypoint: tuple[str, ...]
    command: tuple[str, ...] = ()
    user: str = f"{USER}:{USER}"
    environment: Mapping[str, str] = field(default_factory=dict)
    working_folder: str = "/"
    labels: Mapping[str, str] = field(default_factory=dict)


def write_archive(
    path: Path, *, name: str, layers: Sequence[Sequence[Entry]], config: ImageConfig, with_shell: bool = False
) -> str:
    """Write an image.

    Every file belongs to root and is as old as every other one; the order of entries does not matter. Nothing is
    written where the image has what no image of ours may have: see `faults_of`.

    Args:
        path: The archive. It is there whole, or not at all.
        name: Repository and tag, by which a container runtime knows the image once it is imported.
        layers: The layers, the lowest one first. Folders above an entry need not be listed.
        config: How its containers are started.
        with_shell: Whether it may have a shell.

    Returns:
        The image's digest: `sha256:` and 64 hexadecimal digits.

    Raises:
        ConfigurationError: There are no images for this machine's architecture.
        RefusedError: The image has what no image of ours may have; all of it is listed.
    """
    faults = [fault for layer in layers for fault in faults_of(layer, with_shell=with_shell)]
    if faults:
        raise RefusedError(
            "the image has what no image of ours may have: " + "; ".join(map(str, faults[:5])),
            action="Leave it out, or give it other permissions.",
            mismatches=tuple(faults),
        )
    draft = path.with_name(path.name + ".new")
    with draft.open("wb") as file:
        digest = _write(_Archive(file), name=name, layers=layers, config=config)
    draft.replace(path)
    return digest


def entries_of(tree: Path, *, without: Collection[str] = ()) -> list[Entry]:
    """Return everything below a folder as entries of a layer, with the permissions that it has.

    Args:
        tree: The folder; its own root is no entry.
        without: Paths below it that are left out; of a folder, not what is in it.

    Raises:
        ConfigurationError: There is something that is neither file nor folder nor symbolic link.
    """
    return [_entry(tree, path) for path in sorted(_walk(tree, "")) if path not in without]


def faults_of(entries: Iterable[Entry], *, with_shell: bool) -> list[Mismatch]:
    """Return what no image of ours may have.

    That is a program that takes somebody else's rights, a file that everybody may write to (or a folder, unless only
    the owner of a file removes it there), a package manager, and, unless it is allowed, a shell.

    Args:
        entries: What a layer has.
        with_shell: Whether a shell is allowed.
    """
    faults = []
    for entry in entries:
        mode, name = entry.mode, PurePosixPath(entry.path).name
        is_folder = entry.content is None and entry.target is None
        is_shared = bool(mode & stat.S_IWOTH) and not (is_folder and mode & stat.S_ISVTX)
        if entry.target is None and mode & _PRIVILEGED:
            faults.append(Mismatch(name=entry.path, expected="no set-user-id or set-group-id", actual=f"{mode:04o}"))
        if entry.target is None and is_shared:
            faults.append(Mismatch(name=entry.path, expected="not writable for everybody", actual=f"{mode:04o}"))
        if not is_folder and PurePosixPath(entry.path).parent.name in {"bin", "sbin"}:
            if name in _PACKAGE_MANAGERS:
                faults.append(Mismatch(name=entry.path, expected="no package manager", actual=name))
            if name in _SHELLS and not with_shell:
                faults.append(Mismatch(name=entry.path, expected="no shell", actual=name))
    return faults


def _write(archive: "_Archive", *, name: str, layers: Sequence[Sequence[Entry]], config: ImageConfig) -> str:
    archive.add("oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
    descriptors = [archive.add_blob(_LAYER, _writer_of(layer)) for layer in layers]
    document = archive.add_blob(_CONFIG, _json(_configuration(config, [each["digest"] for each in descriptors])))
    manifest = archive.add_blob(
        _MANIFEST, _json({"schemaVersion": 2, "mediaType": _MANIFEST, "config": document, "layers": descriptors})
    )
    annotations = {
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name.rpartition(":")[2],
    }
    archive.add("index.json", _json({"schemaVersion": 2, "manifests": [{**manifest, "annotations": annotations}]}))
    archive.close()
    return str(manifest["digest"])


def _configuration(config: ImageConfig, digests: Sequence[str]) -> dict[str, Any]:
    created = datetime.fromtimestamp(EPOCH, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "architecture": architecture(),
        "os": "linux",
        "created": created,
        "config": {
            "Entrypoint": list(config.entrypoint),
            "Cmd": list(config.command),
            "Env": [f"{name}={value}" for name, value in sorted(config.environment.items())],
            "User": config.user,
            "WorkingDir": config.working_folder,
            "Labels": dict(config.labels),
        },
        "rootfs": {"type": "layers", "diff_ids": list(digests)},
        "history": [{"created": created, "created_by": "deploy/images/build.py"} for _ in digests],
    }


def architecture() -> str:
    """Return this machine's architecture by Debian's and OCI's name.

    Raises:
        ConfigurationError: There are no images for it.
    """
    machine = platform.machine()
    if machine not in ARCHITECTURES:
        raise ConfigurationError(f"there are no images for {machine}", action="Use Linux on x86-64 or ARM64.")
    return ARCHITECTURES[machine]


class _Archive:
    """The outer tar file. A blob's name is the digest of its bytes: its header is written once they are."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._known: set[str] = set()

    def add(self, name: str, content: bytes) -> None:
        self._file.write(_header(name, len(content)) + content + _padding(len(content)))

    def add_blob(self, kind: str, content: "bytes | Callable[[_Sink], None]") -> dict[str, Any]:
        """Add a blob, and return its descriptor; one that is there already is not added again."""
        start = self._file.tell()
        self._file.write(bytes(_BLOCK_BYTES))
        sink = _Sink(self._file)
        if isinstance(content, bytes):
            sink.write(content)
        else:
            content(sink)
        digest = sink.sum.hexdigest()
        if digest in self._known:
            self._file.seek(start)
            self._file.truncate()
        else:
            self._known.add(digest)
            self._file.write(_padding(sink.size))
            end = self._file.tell()
            self._file.seek(start)
            self._file.write(_header(f"blobs/sha256/{digest}", sink.size))
            self._file.seek(end)
        return {"mediaType": kind, "digest": f"sha256:{digest}", "size": sink.size}

    def close(self) -> None:
        self._file.write(bytes(2 * _BLOCK_BYTES))


class _Sink(io.RawIOBase):
    """Writes on, and knows digest and length of what it wrote."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.sum = hashlib.sha256()
        self.size = 0

    @override
    def writable(self) -> bool:
        return True

    @override
    def tell(self) -> int:
        return self.size

    @override
    def write(self, data: Any) -> int:
        self.sum.update(data)
        self.size += len(data)
        self._file.write(data)
        return len(data)


def _writer_of(entries: Sequence[Entry]) -> Callable[[_Sink], None]:
    def write(sink: _Sink) -> None:
        buffered = io.BufferedWriter(sink, _COPY_BYTES)
        with tarfile.open(fileobj=buffered, mode="w", format=tarfile.PAX_FORMAT) as layer:
            for entry in sorted(entries, key=lambda each: each.path):
                _add(layer, entry)
        buffered.flush()

    return write


def _add(layer: tarfile.TarFile, entry: Entry) -> None:
    member = tarfile.TarInfo(entry.path)
    member.mode, member.mtime = stat.S_IMODE(entry.mode), EPOCH
    match entry.content, entry.target:
        case None, str(target):
            member.type, member.linkname, member.mode = tarfile.SYMTYPE, target, 0o777
            layer.addfile(member)
        case bytes(content), None:
            member.size = len(content)
            layer.addfile(member, io.BytesIO(content))
        case Path() as source, None:
            with source.open("rb") as file:
                member.size = os.fstat(file.fileno()).st_size
                layer.addfile(member, file)
        case None, None:
            member.type = tarfile.DIRTYPE
            layer.addfile(member)
        case _:
            raise ConfigurationError(f"{entry.path} is a file and a symbolic link at once")


def _walk(tree: Path, below: str) -> Iterator[str]:
    with os.scandir(tree / below) as found:
        for each in found:
            path = f"{below}/{each.name}" if below else each.name
            yield path
            if each.is_dir(follow_symlinks=False):
                yield from _walk(tree, path)


def _entry(tree: Path, path: str) -> Entry:
    place = tree / path
    status = place.lstat()
    mode = stat.S_IMODE(status.st_mode)
    if stat.S_ISLNK(status.st_mode):
        return Entry(path=path, mode=mode, target=os.readlink(place))  # noqa: PTH115 - as text, as it stands
    if stat.S_ISDIR(status.st_mode):
        return Entry(path=path, mode=mode)
    if stat.S_ISREG(status.st_mode):
        return Entry(path=path, mode=mode, content=place)
    raise ConfigurationError(f"{path} is neither file nor folder nor symbolic link")


def _header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.mtime = size, EPOCH
    return member.tobuf(format=tarfile.USTAR_FORMAT)


def _padding(size: int) -> bytes:
    return bytes(-size % _BLOCK_BYTES)


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
