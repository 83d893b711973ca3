"""The description of an application: everything an owner approves, in one canonical JSON text.

Not in it, so that one approval serves a laptop and a cluster: sizes and number of executors, where storage lies,
addresses, the run.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Final, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from strongroom.base.errors import FormatError
from strongroom.crypto.derive import sha256_hex
from strongroom.wire.model import DatasetName, Hex32, Message

MAX_FILES: Final = 1000
MAX_ARGUMENTS: Final = 1000
DESCRIPTION_NAME: Final = "description.json"

FileUse = Literal["entry-point", "py-file", "file", "archive"]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._+ -]*\Z", max_length=200)]
"""A file's name in the package: no folder, not hidden, the same on every file system."""
Text = Annotated[str, StringConstraints(pattern=r"^[^\x00]*\Z", max_length=32 << 10)]


class PackagedFile(Message):
    """One file of the package.

    Attributes:
        use: What it is to Spark: the script, or what `--py-files`, `--files` and `--archives` name.
    """

    name: FileName
    size_bytes: int = Field(ge=0)
    sha256: Hex32
    use: FileUse


class DatasetBinding(Message):
    """What the name of a dataset stands for.

    Attributes:
        key_service: Identity of its owner's key service.
        access: Whether the application reads it or writes its next version.
        version: The pinned version that is read or built upon; None: the newest, as its owner says it.
    """

    key_service: Hex32
    access: Literal["read", "write"]
    version: Annotated[int, Field(ge=1)] | None


class ApplicationDescription(Message):
    """An application.

    Attributes:
        name: How people call it.
        entry_point: Name of the PySpark script, one of `files`.
        files: Every file, in the order that Spark receives them.
        arguments: The script's arguments.
        environment: Environment variables of the script.
        settings: Spark settings that the application chooses (`check_settings` says which it may).
        datasets: Every dataset the application uses, by the name in `strongroom://NAME`.
        log_level: Spark's log level for the application.
    """

    version: Literal[1] = 1
    name: Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]+\Z", max_length=200)]
    entry_point: FileName
    files: tuple[PackagedFile, ...] = Field(min_length=1, max_length=MAX_FILES)
    arguments: tuple[Text, ...] = Field(max_length=MAX_ARGUMENTS)
    environment: dict[str, Text]
    settings: dict[str, Text]
    datasets: dict[DatasetName, DatasetBinding] = Field(min_length=1, max_length=64)
    log_level: Literal["ERROR", "WARN", "INFO"]

    @model_validator(mode="after")
    def _files_are_what_they_say(self) -> Self:
        names = [file.name for file in self.files]
        if len({name.casefold() for name in names}) != len(names) or DESCRIPTION_NAME in names:
            msg = f"each file has a name of its own, which is not {DESCRIPTION_NAME}"
            raise ValueError(msg)
        if [file.name for file in self.files if file.use == "entry-point"] != [self.entry_point]:
            msg = "exactly one file is the entry point, and entry_point names it"
            raise ValueError(msg)
        return self

    @property
    def digest(self) -> str:
        """The application digest: SHA-256 of the canonical description."""
        return sha256_hex(self.to_json())


def parse_description(data: bytes) -> ApplicationDescription:
    """Read a description.

    Args:
        data: Its canonical JSON (RFC 8785), every field written out.

    Raises:
        FormatError: Not a description, or not in canonical form: one application has one digest.
    """
    description = ApplicationDescription.from_json(data)
    if description.to_json() != data:
        raise FormatError("the application's description is not in canonical form (RFC 8785, every field written out)")
    return description


def difference(old: ApplicationDescription, new: ApplicationDescription) -> list[str]:
    """Say in words what changed between two descriptions.

    Args:
        old: What was approved, or packed, before.
        new: What it is now.

    Returns:
        One line for each change; empty only where the digests are equal.
    """
    named = {"name": (old.name, new.name), "entry point": (old.entry_point, new.entry_point)}
    levels = {"log level": (old.log_level, new.log_level)}
    return [
        *(f"{what}: {was!r} → {now!r}" for what, (was, now) in {**named, **levels}.items() if was != now),
        *_file_changes(old, new),
        *_changes("argument", _numbered(old.arguments), _numbered(new.arguments)),
        *_changes("environment variable", old.environment, new.environment),
        *_changes("setting", old.settings, new.settings),
        *_changes("dataset", _bindings(old), _bindings(new)),
    ]


def _changes(what: str, old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[str]:
    for name in [*old, *(name for name in new if name not in old)]:
        if name not in new:
            yield f"{what} {name} was removed: {old[name]!r}"
        elif name not in old:
            yield f"{what} {name} was added: {new[name]!r}"
        elif old[name] != new[name]:
            yield f"{what} {name}: {old[name]!r} → {new[name]!r}"


def _file_changes(old: ApplicationDescription, new: ApplicationDescription) -> Iterator[str]:
    before, after = ({file.name: file for file in each.files} for each in (old, new))
    for name, file in before.items():
        now = after.get(name)
        if now is None:
            yield f"file {name} was removed"
            continue
        if now.use != file.use:
            yield f"file {name}: {file.use} → {now.use}"
        if now.sha256 != file.sha256:
            yield f"file {name} changed: {file.size_bytes} → {now.size_bytes} bytes, SHA-256 {now.sha256[:16]}…"
        elif now.size_bytes != file.size_bytes:
            yield f"file {name}: its size is said to be {file.size_bytes} → {now.size_bytes} bytes"
    yield from (f"file {name} was added" for name in after if name not in before)
    if before.keys() == after.keys() and list(before) != list(after):
        yield f"files: their order is now {', '.join(after)}"


def _numbered(arguments: tuple[str, ...]) -> dict[str, str]:
    return {str(number): argument for number, argument in enumerate(arguments, start=1)}


def _bindings(description: ApplicationDescription) -> dict[str, str]:
    return {
        name: f"{binding.access} version {binding.version or 'newest'} by key service {binding.key_service}"
        for name, binding in description.datasets.items()
    }
