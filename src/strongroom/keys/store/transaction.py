"""The rows of the key service's store, and the log's leaves, within one transaction."""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, TypeVar

from strongroom.base.clock import to_rfc3339
from strongroom.base.encoding import Json, canonical_json, parse_json_object
from strongroom.base.errors import (
    ConflictError,
    FormatError,
    IntegrityError,
    NotFoundError,
    RefusedError,
)
from strongroom.base.secret import SecretBytes
from strongroom.crypto import aead
from strongroom.keys.records import (
    ApprovalRecord,
    DatasetRecord,
    KeyRecord,
    MemberRecord,
    OpenedRun,
    OpenedRunSecrets,
    VersionRecord,
)
from strongroom.log.merkle import MerkleTree, leaf_hash
from strongroom.wire.model import Message

SCHEMA_VERSION: Final = 1
_NO_SECRET: Final = SecretBytes(b"")

_M = TypeVar("_M", bound=Message)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredKey:
    """One version of a key with its private part: PKCS#8 DER, or the bytes of a symmetric key."""

    record: KeyRecord
    material: SecretBytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """A run with its secrets."""

    record: OpenedRun
    secrets: OpenedRunSecrets


@dataclass(slots=True, kw_only=True)
class _Log:
    tree: MerkleTree
    appended: bool = field(default=False)


class Transaction:
    """The reads and writes of one transaction."""

    def __init__(self, connection: sqlite3.Connection, *, row_key: SecretBytes, tree: MerkleTree) -> None:
        self._connection = connection
        self._row_key = row_key
        self._log = _Log(tree=tree)

    @property
    def appended(self) -> bool:
        """Whether leaves were appended."""
        return self._log.appended

    # --- the log ------------------------------------------------------------------------------------------------

    def append_leaf(self, event: str, *, now: datetime, what: Mapping[str, Json]) -> int:
        """Append a leaf that belongs to no run, or only mentions one.

        Returns:
            Its position.
        """
        data = canonical_json({"version": 1, "event": event, "time": to_rfc3339(now), **what})
        position = self._log.tree.append(leaf_hash(data))
        self._log.appended = True
        self._connection.execute("INSERT INTO leaves (position, data) VALUES (?, ?)", (position, data.decode("utf-8")))
        return position

    def append_run_leaf(self, event: str, *, run: str, now: datetime, what: Mapping[str, Json]) -> int:
        """Append the next numbered leaf of a run.

        Returns:
            Its position.
        """
        number = len(self.run_leaves(run))
        return self.append_leaf(event, now=now, what={"run": run, "number": number, **what})

    def run_leaves(self, run: str) -> tuple[int, ...]:
        """Return the positions of a run's numbered leaves, in order."""
        rows = self._connection.execute(
            "SELECT position FROM leaves WHERE run = ? AND number IS NOT NULL ORDER BY number", (run,)
        )
        return tuple(position for (position,) in rows)

    def leaves(self, start: int, end: int) -> tuple[str, ...]:
        """Return the text of the leaves from position `start` up to before `end`."""
        rows = self._connection.execute(
            "SELECT data FROM leaves WHERE position >= ? AND position < ? ORDER BY position", (start, end)
        )
        return tuple(data for (data,) in rows)

    def outcome(self, run: str) -> str | None:
        """Return how a run ended, as the log says; None while it is open."""
        row = self._connection.execute(
            "SELECT json_extract(data, '$.outcome') FROM leaves WHERE run = ? AND event = 'run-closed'", (run,)
        ).fetchone()
        return None if row is None else str(row[0])

    def is_revoked(self, approval: str) -> bool:
        """Return whether the log says that an approval was revoked."""
        return self._logged(
            "SELECT 1 FROM leaves WHERE event = 'revoked' AND json_extract(data, '$.approval') = ?", approval
        )

    def runs_opened(self, approval: str) -> int:
        """Return how many runs were opened under an approval: the count of the leaves that say so."""
        row = self._connection.execute(
            "SELECT count(*) FROM leaves, json_each(leaves.data, '$.approvals') AS used"
            " WHERE leaves.event = 'run-opened' AND used.value = ?",
            (approval,),
        ).fetchone()
        return int(row[0])

    def _logged(self, query: str, name: str) -> bool:
        return self._connection.execute(query + " LIMIT 1", (name,)).fetchone() is not None

    # --- nonces -------------------------------------------------------------------------------------------------

    def use_nonce(self, nonce: str, *, expires_at: int, now: datetime) -> None:
        """Record that a nonce was used.

        Raises:
            RefusedError: It was used before.
        """
        self._connection.execute("DELETE FROM nonces WHERE expires_at < ?", (int(now.timestamp()),))
        try:
            self._connection.execute("INSERT INTO nonces (nonce, expires_at) VALUES (?, ?)", (nonce, expires_at))
        except sqlite3.IntegrityError as error:
            raise RefusedError("the nonce was used before", action="Ask for a new one and attest again.") from error

    # --- keys ---------------------------------------------------------------------------------------------------

    def add_key(self, record: KeyRecord, material: SecretBytes) -> None:
        """Store a new version of a key.

        Raises:
            ConflictError: The version exists.
        """
        self._insert("keys", _key_key(record), record, material)

    def update_key(self, record: KeyRecord, material: SecretBytes) -> None:
        """Replace what is kept of a version."""
        public, sealed = self._seal("keys", _key_key(record), record, material)
        self._connection.execute(
            "UPDATE keys SET public = ?, sealed = ? WHERE name = ? AND number = ?",
            (public, sealed, record.name, record.number),
        )

    def key(self, name: str, version: str | None = None) -> StoredKey:
        """Return a version of a key; the newest without a version.

        Raises:
            NotFoundError: There is no such key.
        """
        found = [stored for stored in self.key_versions(name) if version in {None, stored.record.version}]
        if not found:
            raise NotFoundError(f"a key {name}{'/' + version if version else ''} was not found in this key vault")
        return found[-1]

    def key_versions(self, name: str) -> tuple[StoredKey, ...]:
        """Return the versions of a key, oldest first."""
        rows = self._connection.execute(
            "SELECT name, version, number, public, sealed FROM keys WHERE name = ? ORDER BY number", (name,)
        )
        return tuple(self._stored_key(row) for row in rows)

    def newest_keys(self) -> tuple[StoredKey, ...]:
        """Return the newest version of every key, by name."""
        rows = self._connection.execute(
            "SELECT name, version, max(number), public, sealed FROM keys GROUP BY name ORDER BY name"
        )
        return tuple(self._stored_key(row) for row in rows)

    def _stored_key(self, row: tuple[Any, ...]) -> StoredKey:
        key = {"name": row[0], "version": row[1], "number": row[2]}
        record, material = self._open("keys", key, row[3], row[4], KeyRecord)
        return StoredKey(record=record, material=material)

    # --- datasets -----------------------------------------------------------------------------------------------

    def add_dataset(self, record: DatasetRecord) -> None:
        """Store a new dataset.

        Raises:
            ConflictError: It exists.
        """
        self._insert("datasets", {"name": record.name}, record)

    def dataset(self, name: str) -> DatasetRecord:
        """Return a dataset.

        Raises:
            NotFoundError: There is none of that name.
        """
        return self._one("datasets", {"name": name}, DatasetRecord, missing=f"there is no dataset {name}")

    def datasets(self) -> tuple[DatasetRecord, ...]:
        """Return every dataset, by name."""
        rows = self._connection.execute("SELECT name, public, sealed FROM datasets ORDER BY name")
        return tuple(
            self._open("datasets", {"name": name}, public, sealed, DatasetRecord)[0] for name, public, sealed in rows
        )

    def versions(self, dataset: str) -> tuple[VersionRecord, ...]:
        """Return a dataset's versions, oldest first."""
        rows = self._connection.execute(
            "SELECT number, public, sealed FROM versions WHERE dataset = ? ORDER BY number", (dataset,)
        )
        return tuple(
            self._open("versions", {"dataset": dataset, "number": number}, public, sealed, VersionRecord)[0]
            for number, public, sealed in rows
        )

    def version(self, dataset: str, number: int) -> VersionRecord:
        """Return one version of a dataset.

        Raises:
            NotFoundError: There is no such version.
        """
        return self._one(
            "versions",
            {"dataset": dataset, "number": number},
            VersionRecord,
            missing=f"dataset {dataset} has no version {number}",
        )

    def head(self, dataset: str) -> int | None:
        """Return the number of a dataset's newest version; None before the first."""
        row = self._connection.execute("SELECT max(number) FROM versions WHERE dataset = ?", (dataset,)).fetchone()
        return None if row[0] is None else int(row[0])

    def add_version(self, record: VersionRecord, *, base: int | None) -> None:
        """Make a version a dataset's newest, if `base` still is (compare and swap).

        Raises:
            ConflictError: Another version came in between.
        """
        head = self.head(record.dataset)
        if head != base or record.number != (base or 0) + 1:
            raise ConflictError(
                f"dataset {record.dataset} is at version {head or 0}, not at {base or 0} any more",
                action="Run again on the newest version.",
            )
        self._insert("versions", {"dataset": record.dataset, "number": record.number}, record)

    # --- approvals ----------------------------------------------------------------------------------------------

    def add_approval(self, record: ApprovalRecord) -> None:
        """Store an approval.

        Raises:
            ConflictError: It is stored already.
        """
        self._insert("approvals", _approval_key(record), record)

    def approval(self, approval_id: str) -> ApprovalRecord:
        """Return an approval.

        Raises:
            NotFoundError: There is none of that id.
        """
        found = self._approvals("WHERE id = ?", (approval_id,))
        if not found:
            raise NotFoundError("there is no such approval")
        return found[0]

    def approvals(self) -> tuple[ApprovalRecord, ...]:
        """Return every approval, oldest first."""
        return self._approvals("", ())

    def approvals_for(self, dataset: str, application: str) -> tuple[ApprovalRecord, ...]:
        """Return the approvals of an application for a dataset, oldest first."""
        return self._approvals("WHERE dataset = ? AND application = ?", (dataset, application))

    def _approvals(self, where: str, values: tuple[str, ...]) -> tuple[ApprovalRecord, ...]:
        rows = self._connection.execute(
            f"SELECT id, dataset, application, public, sealed FROM approvals {where} ORDER BY rowid",  # noqa: S608 - fixed texts
            values,
        )
        return tuple(
            self._open("approvals", {"id": key, "dataset": of, "application": app}, public, sealed, ApprovalRecord)[0]
            for key, of, app, public, sealed in rows
        )

    # --- runs ---------------------------------------------------------------------------------------------------

    def demand_unopened(self, run: str) -> None:
        """Refuse a ticket whose run was opened before.

        Raises:
            ConflictError: It was.
        """
        if self._logged("SELECT 1 FROM leaves WHERE run = ? AND event = 'run-opened'", run):
            raise ConflictError(
                "the run ticket was used before", action="Submit again: every run needs a ticket of its own."
            )

    def add_run(self, record: OpenedRun, secrets: OpenedRunSecrets) -> None:
        """Store a new run.

        Raises:
            ConflictError: A run was opened with this ticket before.
        """
        self.demand_unopened(record.run)
        self._insert("runs", {"run": record.run}, record, SecretBytes(secrets.to_json()))

    def run(self, run: str) -> StoredRun:
        """Return a run.

        Raises:
            NotFoundError: There is none.
            IntegrityError: The log says there is one, but it is gone.
        """
        row = self._connection.execute("SELECT public, sealed FROM runs WHERE run = ?", (run,)).fetchone()
        if row is None:
            if self._logged("SELECT 1 FROM leaves WHERE run = ? AND event = 'run-opened'", run):
                raise edited("a run that the log names is gone")
            raise NotFoundError("there is no such run")
        record, secrets = self._open("runs", {"run": run}, row[0], row[1], OpenedRun)
        return StoredRun(record=record, secrets=OpenedRunSecrets.from_json(secrets.reveal()))

    def runs(self) -> tuple[OpenedRun, ...]:
        """Return every run, oldest first."""
        rows = self._connection.execute("SELECT run, public, sealed FROM runs ORDER BY rowid")
        return tuple(self._open("runs", {"run": run}, public, sealed, OpenedRun)[0] for run, public, sealed in rows)

    def add_member(self, record: MemberRecord) -> None:
        """Store a member of a run."""
        self._insert("members", {"run": record.run, "number": record.number}, record)

    def members(self, run: str) -> tuple[MemberRecord, ...]:
        """Return a run's members, in the order they joined."""
        rows = self._connection.execute(
            "SELECT number, public, sealed FROM members WHERE run = ? ORDER BY number", (run,)
        )
        return tuple(
            self._open("members", {"run": run, "number": number}, public, sealed, MemberRecord)[0]
            for number, public, sealed in rows
        )

    # --- rows ---------------------------------------------------------------------------------------------------

    def _insert(self, table: str, key: Mapping[str, Json], record: Message, secret: SecretBytes = _NO_SECRET) -> None:
        public, sealed = self._seal(table, key, record, secret)
        columns = ", ".join([*key, "public", "sealed"])
        marks = ", ".join("?" * (len(key) + 2))
        try:
            self._connection.execute(
                f"INSERT INTO {table} ({columns}) VALUES ({marks})",  # noqa: S608 - names of our own schema
                (*key.values(), public, sealed),
            )
        except sqlite3.IntegrityError as error:
            raise ConflictError(f"there is such an entry in {table} already") from error

    def _one(self, table: str, key: Mapping[str, Json], kind: type[_M], *, missing: str) -> _M:
        where = " AND ".join(f"{column} = ?" for column in key)
        row = self._connection.execute(
            f"SELECT public, sealed FROM {table} WHERE {where}",  # noqa: S608 - names of our own schema
            tuple(key.values()),
        ).fetchone()
        if row is None:
            raise NotFoundError(missing)
        return self._open(table, key, row[0], row[1], kind)[0]

    def _seal(self, table: str, key: Mapping[str, Json], record: Message, secret: SecretBytes) -> tuple[str, bytes]:
        public = record.to_json().decode("utf-8")
        return public, aead.encrypt(self._row_key, secret.reveal(), context=_context(table, key, public))

    def _open(
        self, table: str, key: Mapping[str, Json], public: str, sealed: bytes, kind: type[_M]
    ) -> tuple[_M, SecretBytes]:
        try:
            secret = aead.decrypt(self._row_key, sealed, context=_context(table, key, public))
            return kind.from_object(parse_json_object(public)), secret
        except (IntegrityError, FormatError) as error:
            raise edited(f"an entry in {table} is not what was stored") from error


def _context(table: str, key: Mapping[str, Json], public: str) -> bytes:
    return canonical_json({"version": SCHEMA_VERSION, "table": table, "key": key, "public": public})


def _key_key(record: KeyRecord) -> dict[str, Json]:
    return {"name": record.name, "version": record.version, "number": record.number}


def _approval_key(record: ApprovalRecord) -> dict[str, Json]:
    return {"id": record.id, "dataset": record.dataset, "application": record.application}


def edited(what: str) -> IntegrityError:
    """Return the error of a database that something else than the key service changed."""
    return IntegrityError(
        f"the key service's database was changed by something else: {what}",
        action="Restore the newest copy of the state folder; nothing is released until then.",
    )
