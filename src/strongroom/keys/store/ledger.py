"""The log in the database: its leaves, its tree's tiles, and its signed checkpoint."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from strongroom.base.encoding import Json, parse_json_object
from strongroom.base.errors import FormatError, NotFoundError, VerificationError
from strongroom.crypto.keys import SigningKey
from strongroom.keys.store.rows import Connection, edited
from strongroom.log.checkpoint import Checkpoint, parse_and_verify_checkpoint, sign_checkpoint
from strongroom.log.merkle import EMPTY_ROOT, MerkleTree, leaf_hash, verify_inclusion
from strongroom.log.tiles import TiledNodes, TileState
from strongroom.wire.key_service import LogProof

TABLES: Final = """
CREATE TABLE leaves (
  position INTEGER PRIMARY KEY, data TEXT NOT NULL, event TEXT NOT NULL, run TEXT, number INTEGER
) STRICT;
CREATE INDEX leaves_by_run ON leaves (run, number) WHERE run IS NOT NULL;
CREATE TABLE tiles (
  level INTEGER NOT NULL, number INTEGER NOT NULL, hashes BLOB NOT NULL, PRIMARY KEY (level, number)
) STRICT, WITHOUT ROWID;
"""
NEVER: Final = "0000-00-00T00:00:00Z"
"""Sorts before every time."""
_REMEMBERED: Final = 1024
_REMEMBERED_CHARACTERS: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSigner:
    """Who signs the log's checkpoints.

    Attributes:
        origin: The log's name.
        key: An Ed25519 key.
    """

    origin: str
    key: SigningKey

    def sign(self, checkpoint: Checkpoint) -> str:
        """Return a signed checkpoint."""
        return sign_checkpoint(checkpoint, key=self.key)

    def verify(self, note: str) -> Checkpoint:
        """Return a checkpoint that this signer signed.

        Raises:
            FormatError: Not a checkpoint.
            VerificationError: Not this log's.
        """
        return parse_and_verify_checkpoint(note, origin=self.origin, key=self.key.verifying_key)


class Head:
    """The newest checkpoint as it stands in the database, verified once.

    Args:
        signer: Whose checkpoints are believed.
    """

    def __init__(self, signer: LogSigner) -> None:
        self._known: tuple[str, Checkpoint] | None = None
        self._signer = signer

    def learn(self, note: str, checkpoint: Checkpoint) -> None:
        """Take up a checkpoint that was just signed."""
        self._known = note, checkpoint

    def read(self, connection: Connection) -> tuple[str, Checkpoint]:
        """Return the checkpoint, as text and read.

        Raises:
            IntegrityError: It is not this service's, or is gone.
        """
        row = connection.execute("SELECT value FROM meta WHERE name = 'checkpoint'").fetchone()
        if row is None:
            raise edited("the log's checkpoint is gone")
        note, known = bytes(row[0]).decode("utf-8", errors="replace"), self._known
        if known is None or known[0] != note:
            try:
                known = note, self._signer.verify(note)
            except (FormatError, VerificationError) as error:
                raise edited("the log's checkpoint is not this service's") from error
            self._known = known
        return known


class LogView:
    """The log at the checkpoint of one moment; what is read of it is verified against that checkpoint.

    Args:
        connection: A snapshot, or the writer's own transaction.
        note: The checkpoint, signed.
        checkpoint: The same, verified.
    """

    def __init__(self, connection: Connection, *, note: str, checkpoint: Checkpoint) -> None:
        self._connection = connection
        self._checkpoint = checkpoint
        self._nodes = TiledNodes(tile_loader(connection))
        self.note = note
        self.tree = MerkleTree(nodes=self._nodes, size=checkpoint.size)

    @property
    def size(self) -> int:
        """The number of leaves."""
        return self._checkpoint.size

    def prove(self, position: int) -> LogProof:
        """Return a leaf with its proof.

        Raises:
            NotFoundError: The log has no such leaf at this checkpoint.
            IntegrityError: The leaf or the tree is not what the checkpoint says.
        """
        data = self._data(position)
        path = self.tree.inclusion_proof(position, self.size)
        try:
            verify_inclusion(
                leaf_hash(data.encode("utf-8")),
                index=position,
                size=self.size,
                proof=path,
                root=self._checkpoint.root,
            )
        except VerificationError as error:
            raise edited("an entry of the log is not the one that was logged") from error
        return LogProof(leaf=data, index=position, checkpoint=self.note, path=tuple(node.hex() for node in path))

    def demand_logged(self, position: int | None) -> Mapping[str, Json]:
        """Return the leaf at a position, checked against the tree's node for it.

        Raises:
            IntegrityError: It is gone, or was edited.
        """
        return demand_logged(self._connection, self._nodes, position)

    def newest_time(self) -> str:
        """Return the time of the newest leaf."""
        return newest_time(self._connection, self.size)

    def _data(self, position: int) -> str:
        row = None
        if 0 <= position < self.size:
            row = self._connection.execute("SELECT data FROM leaves WHERE position = ?", (position,)).fetchone()
            if row is None:
                raise edited("an entry of the log is gone")
        if row is None:
            raise NotFoundError("the log has no such entry")
        return str(row[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class LogMark:
    """The end of the log at one moment, to go back to."""

    size: int
    tiles: TileState
    time: str


class LogEnd:
    """The end of the log, within the writer's transaction."""

    def __init__(self, connection: Connection, *, head: Head, signer: LogSigner) -> None:
        self._connection = connection
        self._head = head
        self._signer = signer
        self._nodes = TiledNodes(tile_loader(connection))
        self._tree = MerkleTree(nodes=self._nodes)
        self._note = ""
        self._stored_size = 0
        self.time = NEVER

    @property
    def size(self) -> int:
        """The number of leaves, with those of this transaction."""
        return self._tree.size

    def refresh(self) -> None:
        """Take up the log where it stands: another replica may have written since.

        Raises:
            IntegrityError: The checkpoint is not this service's.
        """
        note, checkpoint = self._head.read(self._connection)
        if note == self._note:
            return
        self._nodes = TiledNodes(tile_loader(self._connection))
        self._tree = MerkleTree(nodes=self._nodes, size=checkpoint.size)
        self._note, self._stored_size = note, checkpoint.size
        self.time = newest_time(self._connection, checkpoint.size)

    def forget(self) -> None:
        """Forget everything, after a transaction that failed."""
        self._note = ""

    def append(self, data: bytes, leaf: Mapping[str, Json]) -> int:
        """Append a leaf; return its position."""
        position = self._tree.append(leaf_hash(data))
        self._connection.execute(
            "INSERT INTO leaves (position, data, event, run, number) VALUES (?, ?, ?, ?, ?)",
            (position, data.decode("utf-8"), *index_columns(leaf)),
        )
        self.time = str(leaf["time"])
        return position

    def demand_logged(self, position: int | None) -> Mapping[str, Json]:
        """Return the leaf at a position, checked against the tree's node for it.

        Raises:
            IntegrityError: It is gone, or was edited.
        """
        return demand_logged(self._connection, self._nodes, position)

    def mark(self) -> LogMark:
        """Return where the log ends now."""
        return LogMark(size=self._tree.size, tiles=self._nodes.state(), time=self.time)

    def go_back(self, mark: LogMark) -> None:
        """Forget what was appended since."""
        self._nodes.go_back(mark.tiles)
        self._tree = MerkleTree(nodes=self._nodes, size=mark.size)
        self.time = mark.time

    def store(self) -> bool:
        """Write the tree's new tiles and the signed checkpoint over them, if leaves were appended.

        Returns:
            Whether there were any.
        """
        if self._tree.size == self._stored_size:
            return False
        checkpoint = Checkpoint(origin=self._signer.origin, size=self._tree.size, root=self._tree.root())
        note = self._signer.sign(checkpoint)
        for (level, number), hashes in self._nodes.take_changed().items():
            self._connection.execute(
                "INSERT INTO tiles (level, number, hashes) VALUES (?, ?, ?)"
                " ON CONFLICT (level, number) DO UPDATE SET hashes = excluded.hashes",
                (level, number, hashes),
            )
        write_checkpoint(self._connection, note)
        self._head.learn(note, checkpoint)
        self._note, self._stored_size = note, self._tree.size
        return True


def write_checkpoint(connection: Connection, note: str) -> None:
    """Store a checkpoint as the newest."""
    connection.execute(
        "INSERT INTO meta (name, value) VALUES ('checkpoint', ?)"
        " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (note.encode("utf-8"),),
    )


def begin_log(connection: Connection, signer: LogSigner) -> None:
    """Store the checkpoint of an empty log."""
    write_checkpoint(connection, signer.sign(Checkpoint(origin=signer.origin, size=0, root=EMPTY_ROOT)))


def tile_loader(connection: Connection) -> "_Loader":
    """Return what reads tiles from a connection."""
    return _Loader(connection)


class _Loader:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __call__(self, level: int, number: int) -> bytes:
        row = self._connection.execute(
            "SELECT hashes FROM tiles WHERE level = ? AND number = ?", (level, number)
        ).fetchone()
        return b"" if row is None else bytes(row[0])


def index_columns(leaf: Mapping[str, Json]) -> tuple[Json, Json, Json]:
    """Return what stands in a leaf's row beside its text, to find it by: event, run, number in its run."""
    run, number = leaf.get("run"), leaf.get("number")
    return leaf["event"], run if isinstance(run, str) else None, number if isinstance(number, int) else None


def demand_logged(connection: Connection, nodes: TiledNodes, position: int | None) -> Mapping[str, Json]:
    """Return the leaf at a position, checked against the tree's node for it.

    Raises:
        IntegrityError: It is gone, or was edited.
    """
    row = None
    if position is not None:
        row = connection.execute("SELECT data FROM leaves WHERE position = ?", (position,)).fetchone()
    if row is None or position is None:
        raise edited("an entry of the log is gone")
    data = str(row[0])
    if leaf_hash(data.encode("utf-8")) != nodes.read(0, position):
        raise edited("an entry of the log is not the one that was logged")
    return _parsed(data) if len(data) <= _REMEMBERED_CHARACTERS else parse_json_object(data)


@functools.lru_cache(maxsize=_REMEMBERED)
def _parsed(leaf: str) -> Mapping[str, Json]:
    """Read a leaf that was compared with the tree; its text alone decides what it says."""
    return parse_json_object(leaf)


def newest_time(connection: Connection, size: int) -> str:
    """Return the time of the newest leaf."""
    row = connection.execute("SELECT data FROM leaves WHERE position = ?", (size - 1,)).fetchone()
    if row is None:
        if size:
            raise edited("an entry of the log is gone")
        return NEVER
    return str(parse_json_object(str(row[0]))["time"])


def demand_sound_end(connection: Connection, view: LogView, *, checkpoint: Checkpoint, tail: int) -> None:
    """Compare a checkpoint with the tree's nodes, and the newest leaves with both; a start does this.

    1. There are exactly as many leaves as the checkpoint says; so 3 reads no more than it should.
    2. The nodes lead to the checkpoint's root.
    3. The newest leaves are those of their nodes, without a gap.

    Raises:
        IntegrityError: Something was edited.
    """
    (newest,) = connection.execute("SELECT max(position) FROM leaves").fetchone()  # 1
    if (-1 if newest is None else newest) != checkpoint.size - 1:
        raise edited("the log's leaves are not those of its checkpoint")
    if view.tree.root() != checkpoint.root:  # 2
        raise edited("the log's tree is not that of its checkpoint")
    nodes = TiledNodes(tile_loader(connection))  # 3
    start = max(0, checkpoint.size - tail)
    rows: Sequence[tuple[int, str]] = connection.execute(
        "SELECT position, data FROM leaves WHERE position >= ? ORDER BY position", (start,)
    ).fetchall()
    if [position for position, _ in rows] != list(range(start, checkpoint.size)):
        raise edited("the log has a gap")
    if any(leaf_hash(data.encode("utf-8")) != nodes.read(0, position) for position, data in rows):
        raise edited("an entry of the log is not the one that was logged")
