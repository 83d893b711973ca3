"""Datasets' keys within a transaction: KEKs, and the write keys and column keys below them.

A KEK never leaves the service. What the log says of one is the last word: a version that it says was retired, and every
version of a dataset that it says was shredded, opens nothing, whatever a row of the database holds.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from strongroom.base.encoding import Json, canonical_json, from_b64url, to_b64url
from strongroom.base.errors import (
    ConflictError,
    Mismatch,
    NotFoundError,
    RefusedError,
    VerificationError,
)
from strongroom.base.secret import SecretBytes
from strongroom.base.workflow import Step
from strongroom.crypto.derive import sha256_hex
from strongroom.crypto.random import random_id, random_secret
from strongroom.crypto.vault_keys import generate_key
from strongroom.keys.hierarchy import unwrap_write_key, wrap_write_key
from strongroom.keys.records import DATASET_KEY_PREFIX, DatasetRecord, KeyRecord, RunWrite
from strongroom.keys.store import StoredKey, Transaction
from strongroom.keys.store.write_keys import (
    WriteKeyRecord,
    add_write_key,
    find_write_key,
    replace_write_key,
    write_keys_under,
)
from strongroom.wire.key_service import NewColumnKey, NewWrite, WriteKeys, WrittenDataset

_KEK_ACTION: Final = "Enable the dataset's key at the key service, if that is meant: strongroom keys enable"
_KEK_BITS: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeWrite:
    """A new write.

    Attributes:
        write: What is kept of it openly.
        key: Its write key.
        columns: Its column keys.
    """

    write: RunWrite
    key: SecretBytes
    columns: dict[str, SecretBytes]


def kek_name(dataset: str, column: str | None = None) -> str:
    """Return the name of a dataset's KEK, or of a column's."""
    if column is None:
        return DATASET_KEY_PREFIX + dataset
    # A dataset's name does not begin with a hyphen; a column's may hold what a key's may not: so a digest after one.
    digest = sha256_hex(canonical_json({"dataset": dataset, "column": column}))
    return f"{DATASET_KEY_PREFIX}-{digest[:32]}"


def dataset_of_key(tx: Transaction, name: str) -> DatasetRecord | None:
    """Return the dataset whose KEK, or whose column's KEK, has this name; None where it is none's."""
    try:
        return tx.dataset(name.removeprefix(DATASET_KEY_PREFIX))
    except NotFoundError:
        found = ((each, column) for each in tx.datasets() for column in each.columns)
        return next((each for each, column in found if kek_name(each.name, column) == name), None)


def make_kek(tx: Transaction, dataset: str, *, column: str | None, now: datetime) -> KeyRecord:
    """Make the next version of a KEK, which never leaves this service."""
    name, seconds = kek_name(dataset, column), int(now.timestamp())
    versions = tx.key_versions(name)
    tags = {"strongroom-dataset": dataset, **({} if column is None else {"strongroom-column": column})}
    record = KeyRecord(
        name=name,
        version=random_id(),
        number=versions[-1].record.number + 1 if versions else 1,
        kty="oct-HSM",
        key_ops=(),  # used through datasets only; Key Vault's own operations are not for it
        enabled=True,
        exportable=False,
        created=seconds,
        updated=seconds,
        not_before=None,
        expires=None,
        tags=tags,
        release_policy=None,
        public_jwk={},
    )
    tx.add_key(record, generate_key("oct", size_bits=_KEK_BITS, curve=None))
    return record


def demand_not_shredded(tx: Transaction, dataset: str) -> None:
    """Refuse everything about a dataset whose keys were destroyed.

    Raises:
        RefusedError: The log says they were.
    """
    if tx.shredded_at(dataset) is not None:
        raise RefusedError(
            f"the keys of dataset {dataset} were destroyed: nothing opens it any more",
            action="See the proof with: strongroom dataset shredding",
            step=Step.RELEASE,
        )


def usable_kek(
    tx: Transaction, dataset: str, *, column: str | None = None, version: str | None = None, now: datetime
) -> StoredKey:
    """Return a dataset's KEK, or a column's; the newest version without one.

    Raises:
        NotFoundError: There is no such dataset or version.
        RefusedError: The key is disabled, expired, not valid yet, retired or destroyed.
    """
    demand_not_shredded(tx, dataset)
    kek = tx.key(kek_name(dataset, column), version)
    what = f"the key of {described(dataset, column)}"
    if tx.is_retired(kek.record.version):
        raise RefusedError(
            f"version {kek.record.number} of {what} was retired",
            action="Restore the newest copy of the key service's state: it holds what was wrapped anew.",
            step=Step.RELEASE,
        )
    if not kek.record.is_usable(at=now.timestamp()):
        raise RefusedError(f"{what} is disabled or outside its time of validity", action=_KEK_ACTION, step=Step.RELEASE)
    return kek


def described(dataset: str, column: str | None) -> str:
    """Name a dataset, or a column of it, in words."""
    return f"dataset {dataset}" if column is None else f"column {column} of dataset {dataset}"


def make_write(tx: Transaction, dataset: DatasetRecord, *, base: int | None, now: datetime) -> MadeWrite:
    """Make a write key for a dataset, and a column key for each column that has a key of its own.

    Raises:
        RefusedError: A KEK may not be used.
    """
    write_id = random_id()
    wrapped, key = _make_key(tx, dataset.name, write_id=write_id, column=None, now=now)
    made = {
        column: _make_key(tx, dataset.name, write_id=write_id, column=column, now=now) for column in dataset.columns
    }
    columns = {column: text for column, (text, _) in made.items()}
    return MadeWrite(
        write=RunWrite(write_id=write_id, wrapped=wrapped, base=base, columns=columns),
        key=key,
        columns={column: column_key for column, (_, column_key) in made.items()},
    )


def new_write(made: MadeWrite) -> NewWrite:
    """Return a new write with its keys in the clear, to be sealed."""
    columns = {
        column: NewColumnKey(key=to_b64url(key.reveal()), wrapped=made.write.columns[column])
        for column, key in made.columns.items()
    }
    write = made.write
    key = to_b64url(made.key.reveal())
    return NewWrite(write_id=write.write_id, key=key, wrapped=write.wrapped, base=write.base, columns=columns)


def _make_key(
    tx: Transaction, dataset: str, *, write_id: str, column: str | None, now: datetime
) -> tuple[str, SecretBytes]:
    kek, key = usable_kek(tx, dataset, column=column, now=now), random_secret()
    version = kek.record.version
    wrapped = wrap_write_key(kek.material, key, dataset=dataset, write_id=write_id, kek_version=version, column=column)
    text = to_b64url(wrapped)
    add_write_key(
        tx,
        WriteKeyRecord(
            dataset=dataset, write_id=write_id, column=column, kek=version, wrapped=text, issued=sha256_hex(wrapped)
        ),
    )
    return text, key


def unwrap_write_keys(
    tx: Transaction, dataset: str, asked: WrittenDataset, *, columns: Collection[str], now: datetime
) -> WriteKeys:
    """Return the keys of a version in the clear.

    Args:
        tx: The transaction.
        dataset: The dataset.
        asked: Its wrapped keys, as a manifest holds them; each write is known to be the version's.
        columns: The columns whose keys may leave; the others' are left out.
        now: The present time.

    Raises:
        FormatError: A wrapped key is malformed.
        VerificationError: A wrapped key is not this dataset's, this write's and this column's.
        RefusedError: A KEK may not be used.
    """
    opened = {
        column: _unwrapped(tx, dataset, asked.column_keys[column], column=column, now=now)
        for column in sorted(set(asked.column_keys) & set(columns))
    }
    keys = _unwrapped(tx, dataset, asked.write_keys, column=None, now=now)
    return WriteKeys(keys={dataset: keys}, columns={dataset: opened} if opened else {})


def _unwrapped(
    tx: Transaction, dataset: str, asked: Mapping[str, str], *, column: str | None, now: datetime
) -> dict[str, str]:
    newest = usable_kek(tx, dataset, column=column, now=now)
    keks = {newest.record.version: newest}
    opened: dict[str, str] = {}
    for write_id, text in asked.items():
        try:
            record = find_write_key(tx, dataset=dataset, write_id=write_id, column=column)
            if sha256_hex(from_b64url(text)) != record.issued:
                raise _belongs_elsewhere(dataset, column)
            if record.kek not in keks:
                keks[record.kek] = usable_kek(tx, dataset, column=column, version=record.kek, now=now)
        except NotFoundError as error:
            raise _belongs_elsewhere(dataset, column) from error
        wrapped, kek = from_b64url(record.wrapped), keks[record.kek].material
        key = unwrap_write_key(kek, wrapped, dataset=dataset, write_id=write_id, column=column)
        opened[write_id] = to_b64url(key.reveal())
    return opened


def keks_of(tx: Transaction, dataset: str, write_ids: Iterable[str]) -> list[Json]:
    """Return the ids of the KEK versions that write keys are wrapped under now, for the log.

    Raises:
        NotFoundError: The dataset has no such write.
    """
    found = {find_write_key(tx, dataset=dataset, write_id=each, column=None).kek for each in write_ids}
    return [*sorted(found)]


def _belongs_elsewhere(dataset: str, column: str | None) -> VerificationError:
    return VerificationError(
        f"a wrapped key of {described(dataset, column)} was changed, or belongs elsewhere",
        action="The manifest is damaged: restore it from a copy.",
        step=Step.RELEASE,
    )


def foreign_writes(asked: WrittenDataset, *, dataset: str, write_ids: Collection[str]) -> tuple[Mismatch, ...]:
    """Return a mismatch for every write that is asked about and is none of the version's."""
    named = {*asked.write_keys, *(write_id for keys in asked.column_keys.values() for write_id in keys)}
    return tuple(
        Mismatch(name=f"write of {dataset}", expected="one of the version's", actual=each)
        for each in sorted(named - set(write_ids))
    )


def rewrap(tx: Transaction, dataset: str, *, column: str | None, limit: int, now: datetime) -> tuple[int, bool]:
    """Wrap write keys that stand under older versions of a KEK under the newest one.

    Returns:
        How many were wrapped anew, at most `limit`; and whether there are more.

    Raises:
        RefusedError: The newest version, or one that is left, may not be used.
    """
    newest = usable_kek(tx, dataset, column=column, now=now)
    done = 0
    for stale in _stale(tx, dataset, column=column, newest=newest, limit=limit + 1):
        if done == limit:
            return done, True
        _rewrap_one(tx, stale, newest, now=now)
        done += 1
    return done, False


def _stale(tx: Transaction, dataset: str, *, column: str | None, newest: StoredKey, limit: int) -> list[WriteKeyRecord]:
    found: list[WriteKeyRecord] = []
    for version in tx.key_versions(kek_name(dataset, column)):
        if version.record.version != newest.record.version and not tx.is_retired(version.record.version):
            found += write_keys_under(tx, version.record.version, limit=limit - len(found))
        if len(found) >= limit:
            break
    return found


def _rewrap_one(tx: Transaction, stale: WriteKeyRecord, newest: StoredKey, *, now: datetime) -> None:
    dataset, column, write_id = stale.dataset, stale.column, stale.write_id
    old = usable_kek(tx, dataset, column=column, version=stale.kek, now=now)
    key = unwrap_write_key(old.material, from_b64url(stale.wrapped), dataset=dataset, write_id=write_id, column=column)
    version = newest.record.version
    wrapped = wrap_write_key(
        newest.material, key, dataset=dataset, write_id=write_id, kek_version=version, column=column
    )
    replace_write_key(tx, stale, stale.model_copy(update={"kek": version, "wrapped": to_b64url(wrapped)}))


def forget_write_keys(tx: Transaction, dataset: str) -> None:
    """Destroy the keys of a dataset that runs were opened with: they are kept for executors that join."""
    for record in tx.runs():
        if dataset not in record.writes:
            continue
        secrets = tx.run(record.run).secrets
        kept = {
            "write_keys": {name: key for name, key in secrets.write_keys.items() if name != dataset},
            "column_keys": {name: keys for name, keys in secrets.column_keys.items() if name != dataset},
        }
        tx.update_run(record, secrets.model_copy(update=kept))


def retire_kek(tx: Transaction, dataset: str, *, column: str | None, version: str, now: datetime) -> KeyRecord:
    """Destroy a version of a KEK under which nothing stands any more.

    Returns:
        The version.

    Raises:
        NotFoundError: There is no such version.
        ConflictError: It is the newest one, or write keys still stand under it.
        RefusedError: It was retired before, or the dataset shredded.
    """
    demand_not_shredded(tx, dataset)
    name = kek_name(dataset, column)
    record = tx.key(name, version).record
    what = f"version {record.number} of the key of {described(dataset, column)}"
    if tx.is_retired(version):
        raise RefusedError(f"{what} was retired before")
    if tx.key(name).record.version == version:
        raise ConflictError(f"{what} is the newest one", action=f"Rotate first: strongroom dataset rotate {dataset}")
    if next(write_keys_under(tx, version, limit=1), None) is not None:
        raise ConflictError(
            f"write keys still stand under {what}", action=f"Finish first: strongroom dataset rotate {dataset} --finish"
        )
    tx.destroy_key(record)
    what_is_logged: dict[str, Json] = {"dataset": dataset, "column": column, "kek": version, "number": record.number}
    tx.append_leaf("key-retired", now=now, what=what_is_logged)
    return record
