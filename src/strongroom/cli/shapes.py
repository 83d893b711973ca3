"""A shape's options, as commands take them."""

from pathlib import Path
from typing import Final

import click

from strongroom.base.errors import FormatError
from strongroom.cli.state import read_file

_FILES: Final = frozenset({"policy"})


def read_shape_options(texts: tuple[str, ...], *, option: str = "--shape-option") -> dict[str, str]:
    """Return a shape's options by name; of those that are files, the text.

    Args:
        texts: As given: `NAME=VALUE`.
        option: How the command calls them.

    Raises:
        click.BadParameter: One is not of that form, or given twice.
        ConfigurationError, FormatError: A file cannot be read, or is not text.
    """
    options: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or name in options:
            raise click.BadParameter(f"{text!r} is not NAME=VALUE, or names an option twice", param_hint=option)
        options[name] = _text(Path(value)) if name in _FILES else value
    return options


def _text(path: Path) -> str:
    try:
        return read_file(path, what="the policy").decode()
    except UnicodeDecodeError as error:
        raise FormatError(f"the policy {path.name} is not text", action="give a file in UTF-8") from error
