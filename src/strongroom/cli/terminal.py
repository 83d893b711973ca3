"""Printing: words, tables, JSON, progress. rich is loaded only where something is printed with it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from rich.console import Console

    from strongroom.base.encoding import Json

_PIPE_WIDTH: Final = 1000
_DIGEST_LENGTHS: Final = (32, 64)
_SHOWN_CHARACTERS: Final = 12
_NOTHING: Final = "-"


def examples(*commands: str) -> str:
    """Return an epilog for a command's help: examples, one a line, kept as they are."""
    return "\b\nExamples:\n" + "\n".join(f"  {command}" for command in commands)


def say(text: str = "") -> None:
    """Print one line to standard output."""
    click.echo(text)


def note(text: str) -> None:
    """Print one line to standard error: what is going on, not what was asked for."""
    click.echo(text, err=True)


def printable(text: str) -> str:
    """Return text that others wrote, so that it cannot steer the terminal: control characters are spelled out."""
    return "".join(each if each.isprintable() else f"\\u{ord(each):04x}" for each in text)


def short(value: str) -> str:
    """Return the beginning of a digest or an id, as tables show it; every command takes such a beginning."""
    what, colon, digest = value.rpartition(":")
    is_digest = len(digest) in _DIGEST_LENGTHS and all(character in "0123456789abcdef" for character in digest)
    return f"{what}{colon}{digest[:_SHOWN_CHARACTERS]}…" if is_digest else value


def print_json(value: Json) -> None:
    """Print JSON for other programs."""
    say(json.dumps(value, indent=2, ensure_ascii=False, default=list))


def print_records(records: Sequence[Mapping[str, Json]], *, columns: Mapping[str, str], as_json: bool) -> None:
    """Print a table, or the same records as JSON.

    Args:
        records: One mapping for each row.
        columns: Which members are columns, in order, and their headings. JSON holds all members.
        as_json: Print JSON.
    """
    if as_json:
        print_json([dict(record) for record in records])
        return
    print_table(
        list(columns.values()), [[_shown(record.get(name)) for name in columns] for record in records], caption=None
    )


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str | None) -> None:
    """Print a table of texts; numbers are expected to be formatted already."""
    from rich import box  # noqa: PLC0415 - heavy
    from rich.table import Table  # noqa: PLC0415 - heavy

    table = Table(box=box.SIMPLE_HEAD, title=caption, title_justify="left", title_style="bold")
    for index, heading in enumerate(headings):
        is_number = bool(rows) and all(_looks_like_a_number(row[index]) for row in rows)
        table.add_column(heading, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    _console().print(table)


@contextmanager
def busy(text: str) -> Iterator[Callable[[str], None]]:
    """Show that something takes a while; the function that is given changes the text.

    On a terminal this is a moving line; elsewhere the text is printed once, to standard error.
    """
    if not sys.stderr.isatty():
        note(f"{text} …")
        yield lambda _text: None
        return
    with _console(stderr=True).status(text) as status:
        yield status.update


@contextmanager
def following(text: str) -> Iterator[Callable[[str], None]]:
    """Give a function that prints lines while something goes on; on a terminal, a moving line below them says what."""
    if not sys.stdout.isatty():
        yield say
        return
    console = _console()
    with console.status(text):
        yield lambda line: console.print(line, soft_wrap=True)


class Counter:
    """Counts what is done.

    Attributes:
        total: So much until now.
    """

    def __init__(self, tell: Callable[[int], None]) -> None:
        self.total = 0
        self._tell = tell

    def add(self, more: int) -> None:
        """Count more."""
        self.total += more
        self._tell(self.total)


@contextmanager
def counting(text: str, *, unit: str) -> Iterator[Counter]:
    """Show that something takes a while, and how much of it is done."""
    with busy(text) as tell:
        yield Counter(lambda total: tell(f"{text}: {total:,} {unit}"))


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console  # noqa: PLC0415 - heavy

    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else _PIPE_WIDTH, highlight=False, markup=False)


def _shown(value: Json) -> str:
    match value:
        case None:
            return _NOTHING
        case bool():
            return "yes" if value else "no"
        case int() | float():
            return str(value)
        case str():
            return short(value)
        case Mapping():
            return ", ".join(f"{name}: {_shown(item)}" for name, item in value.items())
        case _:
            return ", ".join(_shown(item) for item in value)


def _looks_like_a_number(text: str) -> bool:
    return text == _NOTHING or text.replace(".", "").lstrip("-").isdigit()
