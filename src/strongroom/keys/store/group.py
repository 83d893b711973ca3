"""Group commit: transactions that wait for each other share one commit, one sync of the disk, one signed checkpoint.

Blocks run one at a time, each in a savepoint of the one open transaction. Who ends a block and sees others wait leaves
the commit to them; whoever sees nobody commits for all. Every caller returns only when its group is on the disk. A
block that fails is undone alone. A commit that fails fails its whole group, and nothing of it stays, neither in the
database nor in memory.
"""

import contextlib
import threading
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Final

from strongroom.base.errors import StrongroomError, UnavailableError
from strongroom.keys.store.databases import Database
from strongroom.keys.store.ledger import LogEnd

_LARGEST_GROUP: Final = 64
"""Blocks in one commit: who came first does not wait for ever."""


@dataclass(slots=True)
class _Group:
    done: threading.Event = field(default_factory=threading.Event)
    blocks: int = 0
    error: StrongroomError | None = None


class GroupCommit:
    """Runs blocks one at a time, and commits them together.

    Args:
        database: Where they write.
        end: The log's end, which is signed with each commit.
        largest: Blocks in one commit at most; 1 commits each by itself.
    """

    def __init__(self, database: Database, end: LogEnd, *, largest: int = _LARGEST_GROUP) -> None:
        self._database = database
        self._writer = database.writer
        self._end = end
        self._largest = largest
        self._lock = threading.Lock()
        self._counting = threading.Lock()
        self._waiting = 0
        self._group: _Group | None = None
        self._inside: int | None = None

    @contextlib.contextmanager
    def block(self) -> Generator[None, None, None]:
        """Run a block within the open transaction; return when it is on the disk.

        Raises:
            ConfigurationError: The database cannot be written.
            UnavailableError: Its server does not answer.
            IntegrityError: It is damaged, or was edited.
        """
        if self._inside == threading.get_ident():
            raise StrongroomError("a transaction was begun within another one")
        self._take_turn()
        try:
            self._inside = threading.get_ident()
            group = self._open_group()
            try:
                with self._database.translated(), self._saved(group):
                    yield
                group.blocks += 1
            finally:
                self._leave(group)
        finally:
            self._inside = None
            self._lock.release()
        group.done.wait()
        if group.error is not None:
            raise type(group.error)(group.error.message, action=group.error.action)

    def _take_turn(self) -> None:
        with self._counting:
            self._waiting += 1
        try:
            self._lock.acquire()
        finally:
            with self._counting:
                self._waiting -= 1

    def _open_group(self) -> _Group:
        if self._group is None:
            try:
                with self._database.translated():
                    self._writer.begin()
                    self._end.refresh()
            except BaseException:
                self._writer.roll_back()
                self._end.forget()
                raise
            self._group = _Group()
        return self._group

    @contextlib.contextmanager
    def _saved(self, group: _Group) -> Generator[None, None, None]:
        mark = self._end.mark()
        try:
            self._writer.save()
            yield
            self._writer.release()
        except BaseException:
            self._undo_block(group)
            self._end.go_back(mark)
            raise

    def _undo_block(self, group: _Group) -> None:
        """Undo one block; all of them where the database gave the whole transaction up (a full disk, a lost server)."""
        try:
            with self._database.translated():
                if self._writer.is_open:
                    self._writer.go_back()
                    return
            raise UnavailableError(
                "the key service's database gave the transaction up", action="See the service's log, then try again."
            )
        except StrongroomError as error:
            group.error = error

    def _leave(self, group: _Group) -> None:
        """End the turn: leave the commit to who waits, or commit for all."""
        if group.error is None and group.blocks < self._largest and self._waiting and self._largest > 1:
            return
        self._group = None
        try:
            if group.error is None and group.blocks:
                with self._database.translated():
                    self._end.store()
                    self._writer.commit()
        except StrongroomError as error:
            group.error = error
        except BaseException:
            group.error = UnavailableError("the commit was interrupted", action="Try again.")
            raise
        finally:
            if group.error is not None or not group.blocks:
                self._writer.roll_back()
            if group.error is not None:
                self._end.forget()
            group.done.set()
