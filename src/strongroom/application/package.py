"""The package: an application's files and its description, packed by the analyst and measured by the agent."""

import hashlib
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from strongroom.application.description import (
    DESCRIPTION_NAME,
    MAX_FILES,
    ApplicationDescription,
    DatasetBinding,
    FileUse,
    PackagedFile,
    parse_description,
)
from strongroom.application.settings import check_environment, check_settings
from strongroom.base.errors import (
    ConfigurationError,
    ConflictError,
    IntegrityError,
    LimitError,
    Mismatch,
    RefusedError,
)
from strongroom.base.limits import LIMITS
from strongroom.base.workflow import Step
from strongroom.crypto.random import random_id

_CHUNK_BYTES: Final = 1 << 20
_DESCRIPTION_BYTES: Final = LIMITS.request_body_bytes
_REMOTE: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
_DATASET_URI: Final = re.compile(r"strongroom://([^/?#,;\s]*)")
_SUFFIXES: Final[Mapping[FileUse, tuple[str, ...]]] = {
    "entry-point": (".py",),
    "py-file": (".py", ".zip", ".egg"),
    "file": ("",),
    "archive": (".zip", ".jar", ".tar", ".tar.gz", ".tgz"),
}
_PACK_AGAIN: Final = "pack and submit the application again; a changed one needs a new approval"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplicationSources:
    """What an analyst wants to run, as given to `strongroom submit`.

    Attributes:
        script: Path of the PySpark script.
        name: How people call it; None for the script's own name.
        py_files, files, archives: Paths, as `spark-submit` takes them.
        datasets: What each `strongroom://NAME` in the arguments stands for.
    """

    script: str
    name: str | None = None
    py_files: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    archives: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    datasets: Mapping[str, DatasetBinding]
    log_level: Literal["ERROR", "WARN", "INFO"] = "WARN"


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredApplication:
    """An application whose every byte was copied into this TEE and matched its description.

    Attributes:
        description: The application's description.
        digest: The application digest.
        folder: The copy: what is executed, and nothing else.
    """

    description: ApplicationDescription
    digest: str
    folder: Path


def pack(sources: ApplicationSources, *, output: Path) -> ApplicationDescription:
    """Copy an application's files into a package: all of them, or nothing.

    Args:
        sources: What to pack.
        output: The package; a folder that does not exist yet.

    Returns:
        The description, which also stands in the package as `description.json`.

    Raises:
        RefusedError: A remote file, a setting or variable the application may not choose, or a dataset without binding.
        ConfigurationError: A file is missing, of another kind, or named like another.
        ConflictError: The folder exists.
        LimitError: Too many or too large files.
        FormatError: Another part cannot be described, such as an argument with a zero character.
    """
    check_settings(sources.settings)
    check_environment(sources.environment)
    check_datasets(sources.arguments, bound=sources.datasets)
    wanted = list(_wanted_files(sources))
    if output.exists():
        raise ConflictError(f"{output} exists already", action="name a folder that does not exist yet")
    partial = output.with_name(f".{random_id()}.partial")
    with _system_errors(output):
        partial.mkdir(parents=True, mode=0o700)
    try:
        packaged = _copy_all(wanted, partial)
        description = _describe(sources, packaged)
        with _system_errors(output):
            (partial / DESCRIPTION_NAME).write_bytes(description.to_json())
            partial.rename(output)
    finally:
        _remove(partial)
    return description


def check_datasets(arguments: Iterable[str], *, bound: Mapping[str, DatasetBinding]) -> None:
    """Demand that the datasets that arguments name and those that are bound are the same.

    Raises:
        RefusedError: A `strongroom://NAME` has no binding, or a binding is not used.
    """
    named = {match.group(1) for argument in arguments for match in _DATASET_URI.finditer(argument)}
    if unbound := sorted(named - bound.keys()):
        raise RefusedError(
            f"the arguments use {_uris(unbound)}, which is bound to nothing",
            action="; ".join(f"add --dataset {name or 'NAME'}=LOCATION" for name in unbound),
            step=Step.SUBMIT,
        )
    if unused := sorted(bound.keys() - named):
        raise RefusedError(
            f"the application is bound to {_uris(unused)}, but no argument uses it",
            action="remove the binding, or name the dataset in the script's arguments",
            step=Step.SUBMIT,
        )


def measure_package(source: Path, copy_to: Path) -> MeasuredApplication:
    """Copy a package once into this TEE's memory, and check that the copy is what its description says.

    1. Read the description; it must be canonical. Its SHA-256 is the application digest.
    2. Refuse settings and variables that no application may choose.
    3. Copy each described file, hashing what was written; the host's file is read once, links are not followed.
    4. Refuse a file that differs, is missing, or is not described.
    The caller MUST still compare the digest with what the TEE was launched for.

    Args:
        source: The package as the host gives it.
        copy_to: A folder that does not exist yet, on protected memory.

    Raises:
        FormatError: The description is not one, or not canonical.
        IntegrityError: The files are not those that the description lists; the mismatches name each.
        LimitError: Too large.
        RefusedError: A setting or variable that an application may not choose.
        ConfigurationError: The package is not there, or the copy cannot be written.
    """
    with _system_errors(source):
        folder = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with _system_errors(copy_to):
            copy_to.mkdir(mode=0o700)
        _copy_regular(folder, DESCRIPTION_NAME, copy_to, max_bytes=_DESCRIPTION_BYTES)
        with _system_errors(copy_to):
            description = parse_description((copy_to / DESCRIPTION_NAME).read_bytes())  # 1
        check_settings(description.settings)  # 2
        check_environment(description.environment)
        _check_size(description.files)
        mismatches = [
            *(mismatch for file in description.files if (mismatch := _copy_described(folder, file, copy_to))),  # 3
            *_undescribed(folder, source, description),  # 4
        ]
    finally:
        os.close(folder)
    if mismatches:
        raise IntegrityError(
            "the package is not what its description says: " + "; ".join(map(str, mismatches)),
            action=_PACK_AGAIN,
            mismatches=tuple(mismatches),
        )
    return MeasuredApplication(description=description, digest=description.digest, folder=copy_to)


def _wanted_files(sources: ApplicationSources) -> Iterator[tuple[Path, FileUse]]:
    uses: Mapping[FileUse, tuple[str, ...]] = {
        "entry-point": (sources.script,),
        "py-file": sources.py_files,
        "file": sources.files,
        "archive": sources.archives,
    }
    for use, texts in uses.items():
        for text in texts:
            yield _local_file(text, use), use


def _local_file(text: str, use: FileUse) -> Path:
    if _REMOTE.match(text):
        raise RefusedError(
            f"{text} is not a file on this machine: what runs must be measured before it runs",
            action="download it, look at it, and name the local file",
            step=Step.SUBMIT,
        )
    path = Path(text)
    if not path.is_file():
        raise ConfigurationError(f"{text} does not exist, or is not a file", action="check the path", step=Step.SUBMIT)
    if not path.name.lower().endswith(_SUFFIXES[use]):
        kinds = ", ".join(_SUFFIXES[use])
        raise ConfigurationError(f"{text} cannot be used as {use}", action=f"give one of {kinds}", step=Step.SUBMIT)
    return path


def _copy_all(wanted: list[tuple[Path, FileUse]], into: Path) -> list[PackagedFile]:
    packaged: list[PackagedFile] = []
    room = LIMITS.package_bytes
    if len(wanted) > MAX_FILES:
        raise LimitError(f"an application has at most {MAX_FILES} files", action="put files into archives")
    for path, use in wanted:
        target = into / path.name
        if target.name.casefold() in {DESCRIPTION_NAME, *(file.name.casefold() for file in packaged)}:
            raise ConfigurationError(f"two files are called {path.name}", action="rename one", step=Step.SUBMIT)
        with _system_errors(path):
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        digest, size_bytes = _copy(handle, target, max_bytes=room)
        room -= size_bytes
        fields = {"name": path.name, "size_bytes": size_bytes, "sha256": digest, "use": use}
        packaged.append(PackagedFile.from_object(fields))
    return packaged


def _describe(sources: ApplicationSources, files: list[PackagedFile]) -> ApplicationDescription:
    entry_point = files[0].name
    return ApplicationDescription.from_object(
        {
            "version": 1,
            "name": sources.name or entry_point,
            "entry_point": entry_point,
            "files": [file.model_dump(mode="json") for file in files],
            "arguments": list(sources.arguments),
            "environment": dict(sources.environment),
            "settings": dict(sources.settings),
            "datasets": {name: binding.model_dump(mode="json") for name, binding in sources.datasets.items()},
            "log_level": sources.log_level,
        }
    )


def _check_size(files: Iterable[PackagedFile]) -> None:
    if sum(file.size_bytes for file in files) > LIMITS.package_bytes:
        raise LimitError(f"the package has more than {LIMITS.package_bytes} bytes", action="make it smaller")


def _copy_described(folder: int, file: PackagedFile, copy_to: Path) -> Mismatch | None:
    try:
        digest, size_bytes = _copy_regular(folder, file.name, copy_to, max_bytes=file.size_bytes)
    except LimitError:
        return Mismatch(name=file.name, expected=f"{file.size_bytes} bytes", actual="more")
    except IntegrityError as error:
        return Mismatch(name=file.name, expected="a regular file", actual=error.message)
    if size_bytes != file.size_bytes:
        return Mismatch(name=file.name, expected=f"{file.size_bytes} bytes", actual=f"{size_bytes} bytes")
    if digest != file.sha256:
        return Mismatch(name=file.name, expected=f"SHA-256 {file.sha256}", actual=digest)
    return None


def _undescribed(folder: int, source: Path, description: ApplicationDescription) -> Iterator[Mismatch]:
    described = {DESCRIPTION_NAME, *(file.name for file in description.files)}
    with _system_errors(source):
        extra = sorted(set(os.listdir(folder)) - described)
    yield from (Mismatch(name=name, expected="no such file", actual="present") for name in extra)


def _copy_regular(folder: int, name: str, copy_to: Path, *, max_bytes: int) -> tuple[str, int]:
    """Copy one file of a folder, if it is a regular file and no link; a pipe or device is not even waited for."""
    try:
        handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        raise IntegrityError(f"{name} is missing from the package, or is a link", action=_PACK_AGAIN) from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise IntegrityError(f"{name} in the package is not a regular file", action=_PACK_AGAIN)
    return _copy(handle, copy_to / name, max_bytes=max_bytes)


def _copy(handle: int, target: Path, *, max_bytes: int) -> tuple[str, int]:
    """Copy an open file and close it; return SHA-256 and size of what was written."""
    digest, size_bytes = hashlib.sha256(), 0
    with _system_errors(target), open(handle, "rb", buffering=0) as source, target.open("xb") as copy:
        while chunk := source.read(_CHUNK_BYTES):
            size_bytes += len(chunk)
            if size_bytes > max_bytes:
                raise LimitError(f"{target.name} is larger than allowed", action="make the package smaller")
            digest.update(chunk)
            copy.write(chunk)
    return digest.hexdigest(), size_bytes


def _remove(folder: Path) -> None:
    if folder.exists():
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()


def _uris(names: Iterable[str]) -> str:
    return ", ".join(f"strongroom://{name}" for name in names)


@contextmanager
def _system_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be used: {error.strerror}", action="check the path, its permissions and the free space"
        ) from error
