"""What the key service keeps, within one transaction: keys, datasets, approvals, runs, and the log's leaves."""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from strongroom.base.clock import to_rfc3339
from strongroom.base.encoding import Json, canonical_json
from strongroom.base.errors import ConflictError, NotFoundError, RefusedError
from strongroom.base.secret import SecretBytes
from strongroom.keys.records import (
    ApprovalRecord,
    DatasetRecord,
    KeyRecord,
    MemberRecord,
    OpenedRun,
    OpenedRunSecrets,
    VersionRecord,
)
from strongroom.keys.store.rows import Rows, edited
from strongroom.log.merkle import MerkleTree, leaf_hash


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
    """The reads and writes of one transaction.

    Attributes:
        rows: Authenticated rows, for the tables that have no methods here.
    """

    def __init__(self, connection: sqlite3.Connection, *, row_key: SecretBytes, tree: MerkleTree) -> None:
        self._connection = connection
        self.rows = Rows(connection, row_key=row_key)
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
        self.rows.insert("keys", _key_key(record), record, material)

    def update_key(self, record: KeyRecord, material: SecretBytes) -> None:
        """Replace what is kept of a version."""
        self.rows.update("keys", _key_key(record), record, material)

    def key(self, name: str, version: str | None = None) -> StoredKey:
        """Return a version of a key; the newest without a version.

        Raises:
            NotFoundError: There is no such key.
        """
        where: dict[str, Json] = {"name": name} if version is None else {"name": name, "version": version}
        found = next(self.rows.select("keys", where, KeyRecord, ("number DESC",), limit=1), None)
        if found is None:
            raise NotFoundError(f"a key {name}{'/' + version if version else ''} was not found in this key vault")
        return StoredKey(record=found[0], material=found[1])

    def key_versions(self, name: str) -> tuple[StoredKey, ...]:
        """Return the versions of a key, oldest first."""
        found = self.rows.select("keys", {"name": name}, KeyRecord, ("number",))
        return tuple(StoredKey(record=record, material=material) for record, material in found)

    def newest_keys(self) -> tuple[StoredKey, ...]:
        """Return the newest version of every key, by name."""
        names = self._connection.execute("SELECT DISTINCT name FROM keys ORDER BY name").fetchall()
        return tuple(self.key(name) for (name,) in names)

    # --- datasets -----------------------------------------------------------------------------------------------

    def add_dataset(self, record: DatasetRecord) -> None:
        """Store a new dataset.

        Raises:
            ConflictError: It exists.
        """
        self.rows.insert("datasets", {"name": record.name}, record)

    def dataset(self, name: str) -> DatasetRecord:
        """Return a dataset.

        Raises:
            NotFoundError: There is none of that name.
        """
        found = self.rows.find("datasets", {"name": name}, DatasetRecord)
        if found is None:
            raise NotFoundError(f"there is no dataset {name}")
        return found[0]

    def datasets(self) -> tuple[DatasetRecord, ...]:
        """Return every dataset, by name."""
        return tuple(record for record, _ in self.rows.select("datasets", {}, DatasetRecord, ("name",)))

    def versions(self, dataset: str) -> tuple[VersionRecord, ...]:
        """Return a dataset's versions, oldest first."""
        found = self.rows.select("versions", {"dataset": dataset}, VersionRecord, ("number",))
        return tuple(record for record, _ in found)

    def version(self, dataset: str, number: int) -> VersionRecord:
        """Return one version of a dataset.

        Raises:
            NotFoundError: There is no such version.
        """
        found = self.rows.find("versions", {"dataset": dataset, "number": number}, VersionRecord)
        if found is None:
            raise NotFoundError(f"dataset {dataset} has no version {number}")
        return found[0]

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
        self.rows.insert("versions", {"dataset": record.dataset, "number": record.number}, record)

    # --- approvals ----------------------------------------------------------------------------------------------

    def add_approval(self, record: ApprovalRecord) -> None:
        """Store an approval.

        Raises:
            ConflictError: It is stored already.
        """
        self.rows.insert("approvals", _approval_key(record), record)

    def approval(self, approval_id: str) -> ApprovalRecord:
        """Return an approval.

        Raises:
            NotFoundError: There is none of that id.
        """
        found = self.rows.find("approvals", {"id": approval_id}, ApprovalRecord)
        if found is None:
            raise NotFoundError("there is no such approval")
        return found[0]

    def approvals(self) -> tuple[ApprovalRecord, ...]:
        """Return every approval, oldest first."""
        return tuple(record for record, _ in self.rows.select("approvals", {}, ApprovalRecord, ("rowid",)))

    def approvals_for(self, dataset: str, application: str) -> tuple[ApprovalRecord, ...]:
        """Return the approvals of an application for a dataset, oldest first."""
        where: dict[str, Json] = {"dataset": dataset, "application": application}
        return tuple(record for record, _ in self.rows.select("approvals", where, ApprovalRecord, ("rowid",)))

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
        self.rows.insert("runs", {"run": record.run}, record, SecretBytes(secrets.to_json()))

    def run(self, run: str) -> StoredRun:
        """Return a run.

        Raises:
            NotFoundError: There is none.
            IntegrityError: The log says there is one, but it is gone.
        """
        found = self.rows.find("runs", {"run": run}, OpenedRun)
        if found is None:
            if self._logged("SELECT 1 FROM leaves WHERE run = ? AND event = 'run-opened'", run):
                raise edited("a run that the log names is gone")
            raise NotFoundError("there is no such run")
        return StoredRun(record=found[0], secrets=OpenedRunSecrets.from_json(found[1].reveal()))

    def runs(self) -> tuple[OpenedRun, ...]:
        """Return every run, oldest first."""
        return tuple(record for record, _ in self.rows.select("runs", {}, OpenedRun, ("rowid",)))

    def add_member(self, record: MemberRecord) -> None:
        """Store a member of a run."""
        self.rows.insert("members", {"run": record.run, "number": record.number}, record)

    def members(self, run: str) -> tuple[MemberRecord, ...]:
        """Return a run's members, in the order they joined."""
        return tuple(record for record, _ in self.rows.select("members", {"run": run}, MemberRecord, ("number",)))


def _key_key(record: KeyRecord) -> dict[str, Json]:
    return {"name": record.name, "version": record.version, "number": record.number}


def _approval_key(record: ApprovalRecord) -> dict[str, Json]:
    return {"id": record.id, "dataset": record.dataset, "application": record.application}
