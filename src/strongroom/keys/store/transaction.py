"""What the key service keeps, within one transaction: keys, datasets, approvals, runs, and the log's leaves.

Whatever was counted, revoked, opened or closed is what the log says, found through its chains (`chains`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from strongroom.base.clock import to_rfc3339
from strongroom.base.encoding import Json, canonical_json
from strongroom.base.errors import ConflictError, NotFoundError, RefusedError, StrongroomError
from strongroom.base.secret import SecretBytes
from strongroom.crypto.random import random_secret
from strongroom.keys.providers import MasterKey
from strongroom.keys.records import (
    ApprovalRecord,
    DatasetRecord,
    KeyRecord,
    MemberRecord,
    OpenedRun,
    OpenedRunSecrets,
    VersionRecord,
)
from strongroom.keys.store.chains import (
    LOG_SUBJECT,
    Chains,
    ChainState,
    approval_subject,
    dataset_subject,
    kek_subject,
    miscounted,
    numbers_of,
    run_subject,
    subjects_of,
)
from strongroom.keys.store.ledger import NEVER, LogEnd, LogView
from strongroom.keys.store.master_key import drop_other_master_key
from strongroom.keys.store.rows import Connection, RowOpener, Rows, edited
from strongroom.log.checkpoint import Checkpoint
from strongroom.wire.key_service import LogProof

TABLES: Final = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
CREATE TABLE keys (
  name TEXT NOT NULL, version TEXT NOT NULL UNIQUE, number INTEGER NOT NULL, public TEXT NOT NULL, sealed BLOB NOT NULL,
  PRIMARY KEY (name, number)
) STRICT;
CREATE TABLE datasets (name TEXT PRIMARY KEY, public TEXT NOT NULL, sealed BLOB NOT NULL) STRICT;
CREATE TABLE versions (
  dataset TEXT NOT NULL REFERENCES datasets (name), number INTEGER NOT NULL, public TEXT NOT NULL, sealed BLOB NOT NULL,
  PRIMARY KEY (dataset, number)
) STRICT;
CREATE TABLE approvals (
  entry INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, dataset TEXT NOT NULL REFERENCES datasets (name),
  application TEXT NOT NULL, public TEXT NOT NULL, sealed BLOB NOT NULL
) STRICT;
CREATE INDEX approvals_by_application ON approvals (application, dataset);
CREATE TABLE runs (
  entry INTEGER PRIMARY KEY, run TEXT NOT NULL UNIQUE, public TEXT NOT NULL, sealed BLOB NOT NULL
) STRICT;
CREATE TABLE members (
  run TEXT NOT NULL REFERENCES runs (run), number INTEGER NOT NULL, public TEXT NOT NULL, sealed BLOB NOT NULL,
  PRIMARY KEY (run, number)
) STRICT;
CREATE TABLE nonces (nonce TEXT PRIMARY KEY, expires_at INTEGER NOT NULL) STRICT;
CREATE INDEX nonces_by_expiry ON nonces (expires_at);
"""
_OTHER_MEMBERS: Final = "a run has other members than the log says"


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


class Transaction:
    """The reads and writes of one transaction.

    Args:
        connection: The database.
        opener: Authenticates and encrypts rows.
        end: The log's end, where this transaction may write.
        view: The log, where this transaction only reads.

    Attributes:
        rows: Authenticated rows, for the tables that have no methods here.
    """

    def __init__(
        self, connection: Connection, *, opener: RowOpener, end: LogEnd | None = None, view: LogView | None = None
    ) -> None:
        self._connection = connection
        self.rows = Rows(connection, opener=opener)
        self._chains = Chains(self.rows)
        self._states: dict[str, ChainState] = {}
        self._end = end
        self._view = view

    # --- the log ------------------------------------------------------------------------------------------------

    @property
    def next_position(self) -> int:
        """The position of the leaf that is appended next."""
        return self._writing().size

    def append_leaf(self, event: str, *, now: datetime, what: Mapping[str, Json]) -> int:
        """Append a leaf that belongs to no run, or only mentions one.

        Its time is never before the newest leaf's, whatever the clock says.

        Returns:
            Its position.
        """
        return self._append({"version": 1, "event": event, "time": self._time(now), **what}, of_run=None)

    def append_run_leaf(self, event: str, *, run: str, now: datetime, what: Mapping[str, Json]) -> int:
        """Append the next numbered leaf of a run.

        Returns:
            Its position.
        """
        subject = run_subject(run)
        leaf = {"event": event, "number": self._state(subject).links, "run": run, "time": self._time(now), **what}
        return self._append({"version": 1, **leaf}, of_run=subject)

    def run_leaves(self, run: str) -> tuple[int, ...]:
        """Return the positions of a run's numbered leaves, in order."""
        return self._chains.positions(run_subject(run))

    def leaves(self, start: int, end: int) -> tuple[str, ...]:
        """Return the text of the leaves from position `start` up to before `end`."""
        rows = self._connection.execute(
            "SELECT data FROM leaves WHERE position >= ? AND position < ? ORDER BY position", (start, end)
        ).fetchall()
        return tuple(data for (data,) in rows)

    def prove(self, positions: Iterable[int]) -> tuple[LogProof, ...]:
        """Return leaves with their proofs under the checkpoint of this moment; in a reading transaction only.

        Raises:
            NotFoundError: The log has no such leaf.
            IntegrityError: A leaf or the tree was edited.
        """
        if self._view is None:
            raise StrongroomError("what is not committed yet has no proof")
        return tuple(self._view.prove(position) for position in positions)

    def extends(self, seen: Checkpoint) -> bool:
        """Return whether the log still holds everything it held at an earlier, verified checkpoint; when reading."""
        if self._view is None:
            raise StrongroomError("what is not committed yet has no proof")
        return seen.size <= self._view.size and self._view.tree.root(seen.size) == seen.root

    def outcome(self, run: str) -> str | None:
        """Return how a run ended, as the log says; None while it is open."""
        return self._state(run_subject(run)).outcome

    def log_state(self) -> ChainState:
        """Return what the log says of itself: whether it was restored, and what was given up as lost."""
        return self._state(LOG_SUBJECT)

    def is_restoring(self) -> bool:
        """Return whether a restore was begun and has not been logged."""
        return self._connection.execute("SELECT 1 FROM meta WHERE name = 'restoring'").fetchone() is not None

    def end_restore(self) -> None:
        """Forget that a restore was begun; its leaf is in the same transaction."""
        self._connection.execute("DELETE FROM meta WHERE name = 'restoring'")

    def end_master_key_rotation(self, master_key: MasterKey) -> bool:
        """Let only this master key open the store from now on, if another one is being replaced by it.

        Returns:
            Whether it was; its leaf is in the same transaction.
        """
        return drop_other_master_key(self._connection, master_key)

    def is_revoked(self, approval: str) -> bool:
        """Return whether the log says that an approval was revoked."""
        return self._state(approval_subject(approval)).revoked

    def runs_opened(self, approval: str) -> int:
        """Return how many runs were opened under an approval, as the log says."""
        return self._state(approval_subject(approval)).runs

    def is_retired(self, kek: str) -> bool:
        """Return whether the log says that a version of a KEK was retired."""
        return self._state(kek_subject(kek)).retired

    def shredded_at(self, dataset: str) -> int | None:
        """Return the position of the leaf that says that a dataset's keys were destroyed; None where there is none."""
        return self._state(dataset_subject(dataset)).shredded

    def executors_joined(self, approval: str) -> int:
        """Return how many executors joined runs under an approval, as the log says."""
        state = self._state(approval_subject(approval))
        return state.members - state.runs  # each run's driver is a member too

    def rosters_logged(self, dataset: str) -> int:
        """Return how many rosters a dataset had, as the log says."""
        return self._state(dataset_subject(dataset)).rosters

    def present(self, now: datetime) -> datetime:
        """Return the time, never one before the newest leaf's: what has expired stays so when a clock goes back."""
        newest = self._writing().time if self._view is None else self._view.newest_time()
        return now if newest == NEVER else max(now, datetime.fromisoformat(newest))

    def _time(self, now: datetime) -> str:
        return max(to_rfc3339(now), self._writing().time)

    def _append(self, leaf: dict[str, Json], *, of_run: str | None) -> int:
        end, event = self._writing(), str(leaf["event"])
        subjects = subjects_of(event, leaf)
        states = {subject: self._state(subject) for subject in subjects}
        if states:
            leaf["links"] = {subject: state.links for subject, state in states.items()}
        if of_run is not None:
            states[of_run] = self._state(of_run)
        position = end.append(canonical_json(leaf), leaf)
        for subject, state in states.items():
            self._states[subject] = self._chains.extend(subject, state, position=position, event=event, leaf=leaf)
        return position

    def _state(self, subject: str) -> ChainState:
        """Return what the log says of a subject, checked with the newest leaf about it."""
        state = self._states.get(subject)
        if state is None:
            state, newest = self._chains.end(subject)
            if newest is not None:
                leaf = (self._view or self._writing()).demand_logged(newest)
                if numbers_of(leaf).get(subject) != state.links - 1:
                    raise miscounted(subject)
            self._states[subject] = state
        return state

    def _writing(self) -> LogEnd:
        if self._end is None:
            raise StrongroomError("this transaction only reads")
        return self._end

    # --- nonces -------------------------------------------------------------------------------------------------

    def use_nonce(self, nonce: str, *, expires_at: int, now: datetime) -> None:
        """Record that a nonce was used.

        Raises:
            RefusedError: It was used before, or it had expired when the newest entry of the log was written.
        """
        newest = self._writing().time
        if newest != NEVER and expires_at <= datetime.fromisoformat(newest).timestamp():
            raise RefusedError("the nonce has expired", action="Ask for a new one and attest again.")
        self._connection.execute("DELETE FROM nonces WHERE expires_at < ?", (int(now.timestamp()),))
        used = self._connection.execute(
            "INSERT INTO nonces (nonce, expires_at) VALUES (?, ?) ON CONFLICT DO NOTHING", (nonce, expires_at)
        )
        if used.rowcount != 1:
            raise RefusedError("the nonce was used before", action="Ask for a new one and attest again.")

    def token_was_used(self, token_id: str) -> bool:
        """Return whether a service account's token let a TEE in before."""
        used = self._connection.execute("SELECT nonce FROM nonces WHERE nonce = ?", (_used_token(token_id),))
        return used.fetchone() is not None

    def use_token(self, token_id: str, *, expires_at: int) -> None:
        """Record, until it ends, that a service account's token let a TEE in: its name, never the token.

        Raises:
            RefusedError: It did before.
        """
        used = self._connection.execute(
            "INSERT INTO nonces (nonce, expires_at) VALUES (?, ?) ON CONFLICT DO NOTHING",
            (_used_token(token_id), expires_at),
        )
        if used.rowcount != 1:
            raise RefusedError("the service account's token was used before")

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
        found = self.rows.first("keys", where, KeyRecord, ("number DESC",))
        if found is None:
            raise NotFoundError(f"a key {name}{'/' + version if version else ''} was not found in this key vault")
        return StoredKey(record=found[0], material=found[1])

    def destroy_key(self, record: KeyRecord) -> None:
        """Overwrite a version of a key and delete it; what the file still holds of it, `Store.scrub` removes."""
        self.rows.update("keys", _key_key(record), record, random_secret())
        self.rows.delete("keys", _key_key(record))

    def key_versions(self, name: str) -> tuple[StoredKey, ...]:
        """Return the versions of a key, oldest first."""
        found = self.rows.select("keys", {"name": name}, KeyRecord, ("number",))
        return tuple(StoredKey(record=record, material=material) for record, material in found)

    def newest_keys(self, *, after: str = "", limit: int | None = None) -> tuple[StoredKey, ...]:
        """Return the newest version of every key, by name.

        Args:
            after: Only names after this one.
            limit: At most so many.
        """
        statement = "SELECT DISTINCT name FROM keys WHERE name > ? ORDER BY name"
        if limit is None:
            names = self._connection.execute(statement, (after,)).fetchall()
        else:
            names = self._connection.execute(statement + " LIMIT ?", (after, limit)).fetchall()
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
        head = self._state(dataset_subject(dataset)).head
        (stored,) = self._connection.execute(
            "SELECT max(number) FROM versions WHERE dataset = ?", (dataset,)
        ).fetchone()
        if stored != head:
            raise edited(f"dataset {dataset} has other versions than the log says")
        return head

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
        return tuple(record for record, _ in self.rows.select("approvals", {}, ApprovalRecord, ("entry",)))

    def approvals_for(self, dataset: str, application: str) -> tuple[ApprovalRecord, ...]:
        """Return the approvals of an application for a dataset, oldest first."""
        where: dict[str, Json] = {"dataset": dataset, "application": application}
        return tuple(record for record, _ in self.rows.select("approvals", where, ApprovalRecord, ("entry",)))

    # --- runs ---------------------------------------------------------------------------------------------------

    def demand_unopened(self, run: str) -> None:
        """Refuse a ticket whose run was opened before.

        Raises:
            ConflictError: It was.
        """
        logged = self._connection.execute("SELECT 1 FROM leaves WHERE run = ? AND number = 0", (run,)).fetchone()
        if self._state(run_subject(run)).links or logged:
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
            if self._state(run_subject(run)).links:
                raise edited("a run that the log names is gone")
            raise NotFoundError("there is no such run")
        return StoredRun(record=found[0], secrets=OpenedRunSecrets.from_json(found[1].reveal()))

    def update_run(self, record: OpenedRun, secrets: OpenedRunSecrets) -> None:
        """Replace what is kept of a run."""
        self.rows.update("runs", {"run": record.run}, record, SecretBytes(secrets.to_json()))

    def runs(self) -> tuple[OpenedRun, ...]:
        """Return every run, oldest first."""
        return tuple(record for record, _ in self.rows.select("runs", {}, OpenedRun, ("entry",)))

    def add_member(self, record: MemberRecord) -> None:
        """Store a member of a run."""
        self.rows.insert("members", {"run": record.run, "number": record.number}, record)

    def members(self, run: str) -> tuple[MemberRecord, ...]:
        """Return a run's members, in the order they joined.

        Raises:
            IntegrityError: They are others than the log says.
        """
        found = self.rows.select("members", {"run": run}, MemberRecord, ("number",))
        members = tuple(record for record, _ in found)
        if len(members) != self._state(run_subject(run)).members:
            raise edited(_OTHER_MEMBERS)
        return members

    def count_members(self, run: str) -> int:
        """Return how many members a run has, without reading them.

        Raises:
            IntegrityError: The log says another number.
        """
        (count,) = self._connection.execute("SELECT count(*) FROM members WHERE run = ?", (run,)).fetchone()
        if count != self._state(run_subject(run)).members:
            raise edited(_OTHER_MEMBERS)
        return int(count)

    def members_since(self, run: str, number: int) -> tuple[MemberRecord, ...]:
        """Return a run's members from this number on, without reading the others.

        Raises:
            IntegrityError: They are others than the log says.
        """
        found = self.rows.select("members", {"run": run}, MemberRecord, ("number",), after=("number", number - 1))
        members = tuple(record for record, _ in found)
        expected = range(number, self._state(run_subject(run)).members)
        if [member.number for member in members] != list(expected):
            raise edited(_OTHER_MEMBERS)
        return members

    def member(self, run: str, number: int) -> MemberRecord | None:
        """Return one member of a run, without reading the others; None where the run has fewer.

        Raises:
            IntegrityError: The log says another thing.
        """
        found = self.rows.find("members", {"run": run, "number": number}, MemberRecord)
        if (found is not None) != (0 <= number < self._state(run_subject(run)).members):
            raise edited(_OTHER_MEMBERS)
        return None if found is None else found[0]


def mark_restoring(connection: Connection) -> None:
    """Mark a database whose rows come from a backup: nothing is released until the restore is logged and accepted."""
    connection.execute("INSERT INTO meta (name, value) VALUES ('restoring', ?) ON CONFLICT DO NOTHING", (b"",))


def _key_key(record: KeyRecord) -> dict[str, Json]:
    return {"name": record.name, "version": record.version, "number": record.number}


def _approval_key(record: ApprovalRecord) -> dict[str, Json]:
    return {"id": record.id, "dataset": record.dataset, "application": record.application}


def _used_token(token_id: str) -> str:
    """Return how a token stands among used nonces: no nonce has a colon."""
    return f"workload-token:{token_id}"
