"""The files of a source tree that are generated from the code: JSON Schemas, references, the chart's values."""

import json
import pkgutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Final

import click

from strongroom import wire
from strongroom.application.description import ApplicationDescription
from strongroom.base.errors import ConfigurationError
from strongroom.cli.generated_chart import chart_files
from strongroom.policy.approval import Approval
from strongroom.policy.back_ends import back_ends_page
from strongroom.policy.key_back_ends import key_back_ends_section
from strongroom.wire.model import Message

SCHEMAS: Final = Path("docs/reference/schemas")
BACK_ENDS: Final = Path("docs/reference/back-ends.md")
COMMANDS: Final = Path("docs/reference/cli.md")
_WIDTH: Final = 100
_DOCUMENTS: Final[tuple[type[Message], ...]] = (ApplicationDescription, Approval)


def generated_files(root_command: click.Command) -> dict[Path, str]:
    """Return every generated file: its path in the source tree, and its text."""
    schemas = {SCHEMAS / f"{message.__name__}.json": _schema(message) for message in _messages()}
    return {
        **schemas,
        COMMANDS: _command_reference(root_command),
        BACK_ENDS: back_ends_page() + key_back_ends_section(),
        **chart_files(source_tree()),
    }


def source_tree() -> Path:
    """Return the source tree that this package runs from.

    Raises:
        ConfigurationError: It is installed without one.
    """
    root = Path(__file__).resolve().parents[3]
    if not (root / "pyproject.toml").is_file():
        raise ConfigurationError("this is no source tree", action="install Strongroom from its source: make setup")
    return root


def write_files(files: dict[Path, str], *, root: Path) -> tuple[Path, ...]:
    """Bring the source tree up to date.

    Returns:
        What was written or removed.
    """
    stale = stale_files(files, root=root)
    for path in stale:
        if path in files:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(files[path], encoding="utf-8")
        else:
            (root / path).unlink()
    return stale


def stale_files(files: dict[Path, str], *, root: Path) -> tuple[Path, ...]:
    """Return which files of the source tree are missing, differ, or are generated no more."""
    outdated = [path for path, text in files.items() if _text(root / path) != text]
    left_over = [path for path in (each.relative_to(root) for each in (root / SCHEMAS).glob("*")) if path not in files]
    return tuple(sorted([*outdated, *left_over]))


def _messages() -> Iterator[type[Message]]:
    yield from _DOCUMENTS
    for info in pkgutil.iter_modules(wire.__path__):
        module = import_module(f"{wire.__name__}.{info.name}")
        for value in vars(module).values():
            is_message = isinstance(value, type) and issubclass(value, Message) and value is not Message
            if is_message and value.__module__ == module.__name__:
                yield value


def _schema(message: type[Message]) -> str:
    return json.dumps(message.model_json_schema(), indent=2, ensure_ascii=False) + "\n"


def _command_reference(root_command: click.Command) -> str:
    parts = [
        "# Commands",
        "This page is generated from the commands' own help (`strongroom dev generate`).",
        *_sections(root_command, parent=None, name="strongroom"),
    ]
    return "\n\n".join(parts) + "\n"


def _sections(command: click.Command, *, parent: click.Context | None, name: str) -> Iterator[str]:
    settings = {**command.context_settings, "terminal_width": _WIDTH, "max_content_width": _WIDTH}
    context = click.Context(command, info_name=name, parent=parent, **settings)
    yield f"## {context.command_path}"
    yield f"```text\n{command.get_help(context).rstrip()}\n```"
    if isinstance(command, click.Group):
        for child_name in command.list_commands(context):
            child = command.get_command(context, child_name)
            assert child is not None
            yield from _sections(child, parent=context, name=child_name)


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None
