"""A package in parts, as it travels into pods: Kubernetes' objects hold at most a megabyte each.

What arrives is the host's word: whoever joins the parts still has to measure what comes out (`measure_package`).
"""

import io
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from pydantic import ConfigDict, TypeAdapter, ValidationError

from strongroom.application.description import MAX_FILES, FileName
from strongroom.base.errors import ConfigurationError, FormatError, LimitError
from strongroom.base.workflow import Step
from strongroom.wire.pod import PACKAGE_PART_BYTES, PACKAGE_PARTS

_FILE_NAME: Final = TypeAdapter[str](FileName, config=ConfigDict(regex_engine="python-re"))
_PACK_AGAIN: Final = "Pack and submit the application again."


def package_parts(package: Path) -> tuple[bytes, ...]:
    """Return a package as parts: the same bytes for the same files.

    Args:
        package: What `pack` made: its files, and the description.

    Returns:
        The parts of one uncompressed tar file, in order.

    Raises:
        LimitError: It is larger than pods can be given.
        ConfigurationError: A file cannot be read.
    """
    tar = io.BytesIO()
    try:
        with tarfile.open(fileobj=tar, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for path in sorted(package.iterdir()):
                content = path.read_bytes()
                entry = tarfile.TarInfo(path.name)
                entry.size, entry.mode = len(content), 0o400
                archive.addfile(entry, io.BytesIO(content))
    except OSError as error:
        raise ConfigurationError(f"the package cannot be read: {error.strerror}", action=_PACK_AGAIN) from error
    whole = tar.getvalue()
    if len(whole) > PACKAGE_PARTS * PACKAGE_PART_BYTES:
        raise LimitError(
            f"the application has {len(whole)} bytes; pods can be given {PACKAGE_PARTS * PACKAGE_PART_BYTES}",
            action="Put what is large, and the same for many applications, into the image or into a dataset.",
            step=Step.SUBMIT,
        )
    return tuple(whole[start : start + PACKAGE_PART_BYTES] for start in range(0, len(whole), PACKAGE_PART_BYTES))


def join_package(parts: Sequence[bytes], into: Path) -> None:
    """Unpack a package's parts: plain files beside each other, and nothing else.

    1. Bounded: so many parts, of so many bytes each; the tar file is not compressed, so what it holds is not larger.
    2. Every entry is a regular file whose name could stand in a description; no folder, link, device or sparse file.
    3. Every file is new: none is written twice, or over something that was there.

    Args:
        parts: In order.
        into: A folder that does not exist yet, on protected memory.

    Raises:
        LimitError: Too many or too large parts, or too many files.
        FormatError: Not a tar file, or one with something else than plain files.
        ConfigurationError: The folder cannot be written.
    """
    if not parts:
        raise FormatError("the package has no parts", action=_PACK_AGAIN)
    if len(parts) > PACKAGE_PARTS or max(map(len, parts)) > PACKAGE_PART_BYTES:  # 1
        raise LimitError("the package has too many or too large parts", action=_PACK_AGAIN)
    try:
        into.mkdir(mode=0o700)
    except OSError as error:
        raise _cannot_unpack(error) from error
    try:
        with tarfile.open(fileobj=io.BytesIO(b"".join(parts)), mode="r:") as archive:
            for entry, content in _plain_files(archive):
                with (into / entry.name).open("xb") as file:  # 3
                    file.write(content)
    except FileExistsError as error:
        raise FormatError("the package has two files of one name", action=_PACK_AGAIN) from error
    except OSError as error:
        raise _cannot_unpack(error) from error
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
        raise FormatError("the package's parts are not a tar file of plain files", action=_PACK_AGAIN) from error


def _cannot_unpack(error: OSError) -> ConfigurationError:
    return ConfigurationError(f"the package cannot be unpacked: {error.strerror}", action="Give the pods more memory.")


def _plain_files(archive: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    for number, entry in enumerate(_entries(archive)):
        if number > MAX_FILES:
            raise LimitError(f"the package has more than {MAX_FILES} files", action=_PACK_AGAIN)
        if not entry.isreg() or entry.issparse() or not _is_file_name(entry.name):  # 2
            raise FormatError("the package has something else than plain files beside each other", action=_PACK_AGAIN)
        stream = archive.extractfile(entry)
        content = b"" if stream is None else stream.read()
        if len(content) != entry.size:
            raise FormatError("the package ends before a file's end", action=_PACK_AGAIN)
        yield entry, content


def _entries(archive: tarfile.TarFile) -> Iterable[tarfile.TarInfo]:
    while (entry := archive.next()) is not None:
        yield entry


def _is_file_name(name: str) -> bool:
    try:
        return bool(_FILE_NAME.validate_python(name))
    except ValidationError:
        return False
