"""The audit: everything that no start and no single use reads, gone through in pieces, with bounded memory.

1. Every leaf: positions without a gap, text against the tree's node, the columns it is found by, times that never go
   back; each subject's link with the number that the leaf says leads to this very leaf. All leaf hashes together give
   the root of the checkpoint.
2. Every row that is authenticated opens.
3. Every subject's state is what its leaves say, one after the other; runs, members, versions and approvals are those of
   the log.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from strongroom.base.encoding import Json, parse_json_object
from strongroom.base.errors import FormatError
from strongroom.keys.store.chains import EMPTY, Chains, ChainState, numbers_of, subjects_of
from strongroom.keys.store.databases import Database
from strongroom.keys.store.ledger import NEVER, Head, LogView, index_columns, tile_loader
from strongroom.keys.store.rows import Connection, RowOpener, Rows, edited
from strongroom.log.merkle import EdgeNodes, MerkleTree, leaf_hash
from strongroom.log.tiles import TiledNodes

_PIECE: Final = 500
"""Leaves or rows that are read within one snapshot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Audited:
    """How much an audit went through."""

    leaves: int
    rows: int
    subjects: int


class Audit:
    """One audit of a store.

    Args:
        database: Where everything is.
        head: Verifies the checkpoint.
        opener: Opens rows.
        stop: The audit ends early when it is set.
        pause_s: How long it rests after each piece, in seconds, so that requests come first.
    """

    def __init__(
        self, database: Database, *, head: Head, opener: RowOpener, stop: threading.Event, pause_s: float = 0.0
    ) -> None:
        self._database = database
        self._head = head
        self._opener = opener
        self._stop = stop
        self._pause_s = pause_s

    def run(self) -> Audited | None:
        """Go through everything; None when it was stopped.

        Raises:
            IntegrityError: Something was edited.
            ConfigurationError: The database cannot be read.
            UnavailableError: Its server does not answer.
        """
        seen = [0, 0, 0]
        for part, work in enumerate((self._leaves, self._rows, self._subjects)):  # 1, 2, 3
            for seen[part] in work():
                if self._rest():
                    return None
        return Audited(leaves=seen[0], rows=seen[1], subjects=seen[2])

    def _rest(self) -> bool:
        return self._stop.wait(self._pause_s) if self._pause_s else self._stop.is_set()

    def _leaves(self) -> Iterator[int]:
        with self._database.translated(), self._database.snapshot() as connection:
            checkpoint = self._head.read(connection)[1]
        tree, time = MerkleTree(nodes=EdgeNodes()), NEVER
        while tree.size < checkpoint.size:
            end = min(tree.size + _PIECE, checkpoint.size)
            with self._database.translated(), self._database.snapshot() as connection:
                time = self._leaf_piece(connection, tree, end=end, time=time)
            yield tree.size
        if tree.root() != checkpoint.root:
            raise edited("the log's leaves are not those of its checkpoint")

    def _leaf_piece(self, connection: Connection, tree: MerkleTree, *, end: int, time: str) -> str:
        chains, nodes = Chains(Rows(connection, opener=self._opener)), TiledNodes(tile_loader(connection))
        found = connection.execute(
            "SELECT position, data, event, run, number FROM leaves WHERE position >= ? AND position < ?"
            " ORDER BY position",
            (tree.size, end),
        ).fetchall()
        if [row[0] for row in found] != list(range(tree.size, end)):
            raise edited("the log has a gap")
        for position, data, *columns in found:
            text = str(data).encode("utf-8")
            if leaf_hash(text) != nodes.read(0, position):
                raise edited("an entry of the log is not the one that was logged")
            leaf = parse_json_object(text)
            if tuple(columns) != index_columns(leaf) or str(leaf["time"]) < time:
                raise edited("an entry of the log stands in another place than it says")
            time = str(leaf["time"])
            numbers = numbers_of(leaf)
            if not set(subjects_of(str(leaf["event"]), leaf)) <= set(numbers):
                raise edited("an entry of the log does not say which number it has")
            for subject, number in numbers.items():
                if chains.link(subject, number) != position:
                    raise edited(f"entry {number} of the log about {subject} is another one")
                if number == 0:
                    chains.state(subject)  # is there, and counts no fewer
            tree.append(leaf_hash(text))
        return time

    def _rows(self) -> Iterator[int]:
        seen = 0
        for table in self._database.tables():
            for piece in self._pieces(table, columns=("public", "sealed")):
                seen += len(piece)
                yield seen

    def _pieces(self, table: str, *, columns: tuple[str, ...]) -> Iterator[Sequence[Mapping[str, Any]]]:
        """Read a table of authenticated rows in the order of its primary key, each row opened."""
        with self._database.translated(), self._database.snapshot() as connection:
            described = connection.execute(f"SELECT * FROM {table} LIMIT 0").description  # noqa: S608 - our own names
        names = [column[0] for column in described]
        if not set(columns) <= set(names):
            return
        key = self._database.primary_key(table)
        place, order = "", ", ".join(key)
        values: tuple[Any, ...] = ()
        while True:
            with self._database.translated(), self._database.snapshot() as connection:
                cursor = connection.execute(
                    f"SELECT * FROM {table} {place} ORDER BY {order} LIMIT {_PIECE}",  # noqa: S608 - our own names
                    values,
                )
                found = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
                rows = Rows(connection, opener=self._opener)
                for row in found:
                    rows.open(table, row)
            yield found
            if len(found) < _PIECE:
                return
            place = f"WHERE ({order}) > ({', '.join('?' * len(key))})"
            values = tuple(found[-1][column] for column in key)

    def _subjects(self) -> Iterator[int]:
        seen = 0
        for piece in self._pieces("chain_states", columns=("subject",)):
            for row in piece:
                with self._database.translated(), self._database.snapshot() as connection:
                    self._subject(connection, str(row["subject"]))
            seen += len(piece)
            yield seen

    def _subject(self, connection: Connection, subject: str) -> None:
        rows = Rows(connection, opener=self._opener)
        note, checkpoint = self._head.read(connection)
        view = LogView(connection, note=note, checkpoint=checkpoint)
        chains, state = Chains(rows), EMPTY
        for number, position in enumerate(chains.positions(subject)):
            leaf = view.demand_logged(position)
            if numbers_of(leaf).get(subject) != number:
                raise edited(f"entry {number} of the log about {subject} is another one")
            state = _after(state, leaf, position=position)
        if state != chains.state(subject):
            raise edited(f"what is counted of {subject} is not what the log says")
        self._demand_records(connection, subject, state)

    def _demand_records(self, connection: Connection, subject: str, state: ChainState) -> None:
        """Compare the records that a subject's leaves stand for."""
        kind, _, name = subject.partition("/")
        counts = {
            "run": [
                ("SELECT count(*) FROM members WHERE run = ?", state.members),
                ("SELECT count(*) FROM runs WHERE run = ?", 1),
            ],
            "dataset": [
                ("SELECT count(*) FROM versions WHERE dataset = ?", state.head or 0),
                ("SELECT count(*) FROM datasets WHERE name = ?", 1),
            ],
            "approval": [("SELECT count(*) FROM approvals WHERE id = ?", 1)],
        }
        for statement, expected in counts.get(kind, []):
            (found,) = connection.execute(statement, (name,)).fetchone()
            if found != expected:
                raise edited(f"the records of {subject} are not those that the log says")


def _after(state: ChainState, leaf: Mapping[str, Json], *, position: int) -> ChainState:
    try:
        return state.after(str(leaf["event"]), leaf, position=position)
    except (KeyError, FormatError) as error:
        raise edited("an entry of the log does not say what it should") from error
