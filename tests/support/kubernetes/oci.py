"""Image archives as the OCI image layout has them, in one tar."""

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from strongroom.base.encoding import parse_json_object
from strongroom.base.errors import FormatError

_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
_NAME: Final = "io.containerd.image.name"
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
_MAX_INDEX_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageArchive:
    """One image in a file.

    Attributes:
        path: The file.
        repository: The image's name without tag and digest.
        digest: The digest of its manifest, as in "sha256:…".
        descriptor: What a registry calls it by: JSON with the manifest's media type, digest and size.
    """

    path: Path
    repository: str
    digest: str
    descriptor: str

    @property
    def reference(self) -> str:
        """The image by its digest."""
        return f"{self.repository}@{self.digest}"


def read_archive(path: Path) -> ImageArchive:
    """Return what image an archive holds.

    Raises:
        FormatError: It is no OCI archive, or has not exactly one image.
    """
    try:
        with tarfile.open(path) as archive:
            member = archive.getmember("index.json")
            content = archive.extractfile(member) if member.isreg() and member.size <= _MAX_INDEX_BYTES else None
            index = parse_json_object(content.read() if content else b"")
            (manifest,) = index["manifests"]
            name = manifest.get("annotations", {}).get(_NAME) or f"localhost/strongroom-{path.name.partition('.')[0]}"
            descriptor = {field: manifest[field] for field in ("mediaType", "digest", "size")}
            return ImageArchive(
                path=path,
                repository=_repository(name),
                digest=str(manifest["digest"]),
                descriptor=json.dumps(descriptor),
            )
    except (KeyError, TypeError, ValueError, AttributeError, tarfile.TarError) as error:
        raise FormatError(f"{path} is not an OCI archive of one image", action="make it anew") from error


def write_archive(
    path: Path,
    *,
    name: str,
    programs: Mapping[str, bytes],
    entrypoint: Sequence[str],
    command: Sequence[str],
    user: str,
) -> None:
    """Write an image of programs and nothing else; the same image has the same bytes.

    Args:
        path: The file.
        name: Repository and tag.
        programs: Content by path.
        entrypoint: The program, to which arguments are added.
        command: The arguments where a pod has none of its own.
        user: User and group, as numbers.
    """
    layer = _tar({program: (content, 0o755) for program, content in programs.items()})
    config = _json(
        {
            "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {"Entrypoint": list(entrypoint), "Cmd": list(command), "User": user, "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": _descriptor(_CONFIG, config),
            "layers": [_descriptor(_LAYER, layer)],
        }
    )
    named = {**_descriptor(_MANIFEST, manifest), "annotations": {_NAME: name}}
    blobs = {f"blobs/sha256/{_digest(blob)[7:]}": (blob, 0o644) for blob in (layer, config, manifest)}
    index = _json({"schemaVersion": 2, "manifests": [named]})
    layout = _json({"imageLayoutVersion": "1.0.0"})
    path.write_bytes(_tar({"oci-layout": (layout, 0o644), "index.json": (index, 0o644), **blobs}))


def _repository(name: str) -> str:
    """Return a name without its tag: a colon before the last slash is a port's."""
    head, slash, last = name.partition("@")[0].rpartition("/")
    return head + slash + last.partition(":")[0]


def _tar(files: Mapping[str, tuple[bytes, int]]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, (content, mode) in files.items():
            member = tarfile.TarInfo(name.lstrip("/"))
            member.size, member.mode = len(content), mode
            archive.addfile(member, io.BytesIO(content))
    return made.getvalue()


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _digest(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


def _descriptor(kind: str, blob: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "digest": _digest(blob), "size": len(blob)}
