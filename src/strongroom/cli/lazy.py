"""A group of commands that loads a command's module only when the command is used."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import click
from typing_extensions import override


@dataclass(frozen=True, slots=True, kw_only=True)
class LazyCommand:
    """A command that is not loaded yet.

    Attributes:
        place: Where it is defined, `module:attribute`.
        summary: Its first line of help; the same as the command's own.
        hidden: Not listed: for our own processes.
    """

    place: str
    summary: str
    hidden: bool = False


class LazyGroup(click.Group):
    """A group whose commands are loaded when they are used; its list of commands needs none of them.

    Args:
        lazy: The commands by name, in the order in which help lists them.
        arguments: As for `click.Group`.
    """

    def __init__(self, *, lazy: Mapping[str, LazyCommand], **arguments: Any) -> None:  # noqa: ANN401 - click's own
        super().__init__(**arguments)
        self.lazy = lazy

    @override
    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name, command in self.lazy.items() if not command.hidden]

    @override
    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.lazy:
            return None
        module, _, attribute = self.lazy[cmd_name].place.partition(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    @override
    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, self.lazy[name].summary) for name in self.list_commands(ctx)])
