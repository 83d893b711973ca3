"""Packed applications and what an owner approved of them, in words."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from strongroom.application.description import DESCRIPTION_NAME, ApplicationDescription, difference, parse_description
from strongroom.base.errors import IntegrityError, Mismatch, RefusedError
from strongroom.cli.prefixes import find_by_prefix
from strongroom.cli.state import State, read_file
from strongroom.datasets.storage import write_file


def find_application(text: str, *, state: State) -> ApplicationDescription:
    """Return the description of a packed application.

    Args:
        text: A digest or its beginning, or a package's folder.
        state: The installation.

    Raises:
        NotFoundError: No such application is packed here.
        IntegrityError: The package does not hold the application that its folder's name says.
        FormatError: The description is not one.
    """
    folder = Path(text).expanduser()
    if (folder / DESCRIPTION_NAME).is_file():
        return _read_description(folder)
    packages = {each.name: each for each in state.packages.iterdir()} if state.packages.is_dir() else {}
    folder = find_by_prefix(text, {name: each for name, each in packages.items() if name[0] != "."}, "application")
    description = _read_description(folder)
    if description.digest != folder.name:
        # The folder is the operator's: what an owner sees and signs must be what was asked for.
        raise IntegrityError(
            "the package does not hold the application of this digest",
            action="pack it again from its source",
            mismatches=(Mismatch(name="application digest", expected=folder.name, actual=description.digest),),
        )
    return description


def describe(description: ApplicationDescription) -> Iterator[tuple[str, str]]:
    """Yield an application in words: what, and its value."""
    yield "application", description.name
    yield "digest", description.digest
    for file in description.files:
        yield file.use, f"{file.name} ({file.size_bytes:,} bytes, SHA-256 {file.sha256[:16]}…)"
    yield "arguments", " ".join(description.arguments) or "none"
    for name, value in description.settings.items():
        yield "setting", f"{name} = {value}"
    for name, value in description.environment.items():
        yield "environment", f"{name} = {value}"
    for name, binding in description.datasets.items():
        version = f"version {binding.version}" if binding.version else "newest version"
        what = f"reads the {version} of" if binding.access == "read" else "writes"
        yield "dataset", f"{what} {name} (key service {binding.key_service[:16]}…)"


def remember_approved(description: ApplicationDescription, *, dataset: str, approval: str, state: State) -> None:
    """Keep a description that was approved for a dataset, to show later what changed, and the approval's id."""
    write_file(state.approvals / f"{dataset}.{description.digest}.json", description.to_json())
    if approval.isalnum():  # the service's word, and now a file's name: what the shell completes
        write_file(state.approvals / f"{approval}.id", b"")


def demand_binding(description: ApplicationDescription, *, dataset: str, access: Literal["read", "write"]) -> None:
    """Refuse to approve what an application does not do.

    Raises:
        RefusedError: It is not bound to the dataset for this access.
    """
    binding = description.datasets.get(dataset)
    if binding is None:
        raise RefusedError(
            f"the application does not use dataset {dataset}",
            action=f"it uses {', '.join(description.datasets)}; pack it again if that is wrong",
        )
    if binding.access != access:
        raise RefusedError(
            f"the application does not {access} dataset {dataset}",
            action=f"approve it with --{binding.access}, or pack it with the access that is meant",
            mismatches=(Mismatch(name="access", expected=access, actual=binding.access),),
        )


def changes_since_approved(description: ApplicationDescription, *, dataset: str, state: State) -> list[str] | None:
    """Return what changed since an application of this name was last approved for a dataset.

    Returns:
        One line for each change; None if none of this name was approved, or exactly this one was.
    """
    files = sorted(state.approvals.glob(f"{dataset}.*.json"), key=lambda file: file.stat().st_mtime, reverse=True)
    for file in files:
        approved = parse_description(read_file(file, what="the approved description"))
        if approved.name == description.name:
            return difference(approved, description) or None
    return None


def changes_since_packed(description: ApplicationDescription, *, state: State) -> list[str] | None:
    """Return what changed since another application of this name was last packed here.

    Returns:
        One line for each change; None if none of this name was packed before.
    """
    folders = [folder for folder in state.packages.glob("[0-9a-f]*") if folder.name != description.digest]
    for folder in sorted(folders, key=lambda folder: folder.stat().st_mtime, reverse=True):
        earlier = _read_description(folder)
        if earlier.name == description.name:
            return difference(earlier, description)
    return None


def _read_description(folder: Path) -> ApplicationDescription:
    return parse_description(read_file(folder / DESCRIPTION_NAME, what="the application's description"))
