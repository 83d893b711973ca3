"""What the shell completes from the state folder: names of datasets, partners, applications and runs.

No service is asked. Completion must never fail or speak: whatever cannot be read is left out.
"""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import click
from click.shell_completion import CompletionItem

from strongroom.base.errors import StrongroomError
from strongroom.cli.state import State, find_state
from strongroom.wire.trust import Trust

_SHOWN: Final = 200
"""At most so many are offered: nobody chooses among more."""


def complete_datasets(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """Complete a dataset's name: those that lie in the installation's storage, and those that were approved here."""
    return _items(incomplete, (name for state in _state_of(ctx) for name in _datasets(state)))


def complete_partners(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """Complete what the trust file calls another owner."""
    return _items(incomplete, (name for state in _state_of(ctx) for name in _partners(state)))


def complete_applications(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the digest of a packed application."""
    return _items(incomplete, (name for state in _state_of(ctx) for name in _folders(state.packages)))


def complete_runs(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the id of a run that was submitted here."""
    return _items(incomplete, (name for state in _state_of(ctx) for name in _folders(state.runs)))


def complete_approvals(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the id of an approval that was signed here."""
    return _items(incomplete, (name for state in _state_of(ctx) for name in _approvals(state)))


def _state_of(ctx: click.Context) -> Iterator[State]:
    """Yield the installation that the words on the command line mean, if there is one."""
    with contextlib.suppress(StrongroomError):
        given = ctx.params.get("state")
        yield given if isinstance(given, State) else find_state(given if isinstance(given, Path) else None)


def _items(incomplete: str, names: Iterable[str]) -> list[CompletionItem]:
    found: list[str] = []
    with contextlib.suppress(OSError, StrongroomError):
        found = sorted({name for name in names if name.startswith(incomplete)})
    return [CompletionItem(name) for name in found[:_SHOWN]]


def _folders(folder: Path) -> Iterator[str]:
    if folder.is_dir():
        yield from (each.name for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))


def _datasets(state: State) -> Iterator[str]:
    yield from _folders(state.operator / "storage")
    if state.approvals.is_dir():
        yield from (file.name.partition(".")[0] for file in state.approvals.glob("*.json"))


def _partners(state: State) -> Iterator[str]:
    if state.trust.is_file():
        yield from (partner.name for partner in Trust.from_json(state.trust.read_bytes()).partners)


def _approvals(state: State) -> Iterator[str]:
    if state.approvals.is_dir():
        yield from (file.name.removesuffix(".id") for file in state.approvals.glob("*.id"))
