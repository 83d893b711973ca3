"""Promise 1 for datasets' keys: wrapped keys open in their place only, and what is retired or destroyed stays so.

Every test takes the good path of `tests.support.key_service` and changes one thing.
"""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.support.key_service import KeyBench, Tee, run_of, written
from tests.support.platform import NOW

from strongroom.base.clock import to_rfc3339
from strongroom.base.encoding import from_b64url, parse_json_object, to_b64url
from strongroom.base.errors import (
    ConflictError,
    FormatError,
    IntegrityError,
    NotFoundError,
    RefusedError,
    StrongroomError,
    VerificationError,
)
from strongroom.crypto.keys import SigningKey
from strongroom.keys.hierarchy import kek_version_of
from strongroom.policy.roster import Roster
from strongroom.receipts.shredding import verify_shredding
from strongroom.services import key_care
from strongroom.services.access import is_own_key
from strongroom.services.key_service import log_key
from strongroom.services.people import People, configured_people
from strongroom.services.sign_in import TokenIssuers
from strongroom.wire import data_keys
from strongroom.wire import key_service as wire
from strongroom.wire.trust import Trust, TrustedService

ELSEWHERE = "was changed, or belongs elsewhere"
GONE = "were destroyed"
Row = tuple[Any, ...]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[KeyBench]:
    made = KeyBench(tmp_path)
    yield made
    made.store.close()


def table(bench: KeyBench, name: str) -> list[Row]:
    """The rows of a table, as they stand in the database."""
    bench.store.close()
    with closing(sqlite3.connect(bench.database)) as connection:
        rows: list[Row] = connection.execute(f"SELECT * FROM {name}").fetchall()
    bench.start()
    return rows


def put_back(bench: KeyBench, name: str, rows: list[Row]) -> None:
    """Put rows of an old copy into the database, in the place of what stands there."""
    bench.store.close()
    with closing(sqlite3.connect(bench.database)) as connection:
        for row in rows:
            marks = ", ".join("?" * len(row))
            connection.execute(f"INSERT OR REPLACE INTO {name} VALUES ({marks})", row)
        connection.commit()
    bench.start()


def keys_of(bench: KeyBench, dataset: str) -> data_keys.DatasetKeys:
    return data_keys.DatasetKeys.from_json(bench.care.keys(bench.person(name=dataset)).body)


def rotate(bench: KeyBench, dataset: str, column: str | None = None) -> data_keys.DatasetKey:
    call = bench.person(data_keys.KeyChoice(column=column), name=dataset)
    return data_keys.DatasetKey.from_json(bench.care.rotate(call).body)


def rewrap(bench: KeyBench, dataset: str, column: str | None = None) -> data_keys.Rewrapped:
    call = bench.person(data_keys.KeyChoice(column=column), name=dataset)
    return data_keys.Rewrapped.from_json(bench.care.rewrap(call).body)


def retire(bench: KeyBench, dataset: str, version: str, column: str | None = None) -> None:
    bench.care.retire(bench.person(data_keys.RetireRequest(column=column, version=version), name=dataset))


def shred(bench: KeyBench, dataset: str) -> data_keys.ShreddingProof:
    call = bench.person(data_keys.ShredRequest(confirm=dataset), name=dataset)
    return data_keys.ShreddingProof.from_json(bench.care.shred(call).body)


def swapped(*writes: wire.NewWrite) -> list[wire.WrittenDataset]:
    """Every way in which a manifest of two writes with two column keys can hold a key in another's place."""
    one, other = writes
    good = written(2, one, other)
    ssn, iban = good.column_keys["ssn"], good.column_keys["iban"]
    changes: list[dict[str, Any]] = [
        {"write_keys": {one.write_id: other.wrapped, other.write_id: other.wrapped}},
        {"write_keys": {one.write_id: iban[one.write_id]}},
        {"column_keys": {"iban": ssn}},
        {"column_keys": {"iban": {one.write_id: iban[other.write_id]}}},
        {"column_keys": {"iban": {one.write_id: one.wrapped}}},
    ]
    return [good.model_copy(update=change) for change in changes]


# --- wrapped keys in another place -----------------------------------------------------------------------------------


def test_refuses_a_wrapped_key_of_another_dataset(bench: KeyBench) -> None:
    bench.prepare()
    bench.create_dataset("other")
    other, _ = bench.import_version("other")
    moved = wire.WrittenDataset(number=1, write_keys={bench.trips.write_id: other.wrapped})
    with pytest.raises(VerificationError, match=ELSEWHERE):
        bench.owner_unwrap("trips", moved)
    driver, ticket = Tee(), bench.ticket()
    bench.open(driver, ticket)
    with pytest.raises(VerificationError, match=ELSEWHERE):
        bench.keys(driver, ticket, datasets={"trips": moved})
    with pytest.raises(RefusedError, match="may not have these keys"):
        bench.keys(driver, ticket, datasets={"other": written(1, other)})


def test_refuses_a_wrapped_key_of_another_write_or_column(bench: KeyBench) -> None:
    bench.prepare(column_keys=("ssn", "iban"))
    second, _ = bench.import_version("trips", base=1, keeps=(bench.trips.write_id,))
    opened = bench.owner_unwrap("trips", written(2, bench.trips, second))
    assert opened.columns["trips"]["iban"][second.write_id] == second.columns["iban"].key
    for moved in swapped(bench.trips, second):
        with pytest.raises(VerificationError, match=ELSEWHERE):
            bench.owner_unwrap("trips", moved)


def test_refuses_a_wrapped_key_under_another_version_of_the_kek(bench: KeyBench) -> None:
    bench.prepare()
    old = keys_of(bench, "trips").keys[0].version
    new = rotate(bench, "trips").version
    wrapped = from_b64url(bench.trips.wrapped)
    assert kek_version_of(wrapped) == old
    moved = to_b64url(wrapped[:1] + bytes.fromhex(new) + wrapped[17:])
    with pytest.raises(VerificationError, match=ELSEWHERE):
        bench.owner_unwrap("trips", wire.WrittenDataset(number=1, write_keys={bench.trips.write_id: moved}))


@pytest.mark.parametrize("place", ["write_id", "dataset", "of_column", "kek"])
def test_a_row_of_a_wrapped_key_that_was_moved_in_the_database_is_noticed(bench: KeyBench, place: str) -> None:
    bench.prepare(column_keys=("iban",))
    second, _ = bench.import_version("trips", base=1, keeps=(bench.trips.write_id,))
    bench.store.close()
    with closing(sqlite3.connect(bench.database)) as connection:
        moved = {"write_id": "0" * 32, "dataset": "report", "of_column": "ssn", "kek": "0" * 32}[place]
        if place == "write_id":
            connection.execute("DELETE FROM write_keys WHERE of_column = 'iban' AND write_id != ?", (second.write_id,))
            moved = bench.trips.write_id
        statement = f"UPDATE write_keys SET {place} = ? WHERE write_id = ? AND of_column = 'iban'"
        assert connection.execute(statement, (moved, second.write_id)).rowcount == 1
        connection.commit()
    bench.start()
    asked = bench.trips if place == "write_id" else second
    with pytest.raises((IntegrityError, VerificationError)):
        bench.owner_unwrap("trips", written(2, asked))


def test_refuses_writes_that_are_none_of_the_version_also_beside_a_column(bench: KeyBench) -> None:
    bench.prepare(column_keys=("iban",), columns=("iban",))
    driver, ticket = Tee(), bench.ticket()
    bench.open(driver, ticket)
    second, _ = bench.import_version("trips", base=1)
    asked = written(1, bench.trips).model_copy(update={"column_keys": written(1, second).column_keys})
    with pytest.raises(RefusedError, match="may not have these keys"):
        bench.released(driver, ticket, datasets={"trips": asked})
    with pytest.raises(RefusedError, match="no such writes"):
        bench.owner_unwrap("trips", asked)


# --- column keys -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("approved", [(), ("iban",), ("iban", "ssn"), ("fare",)])
def test_only_the_columns_that_the_approval_names_are_opened(bench: KeyBench, approved: tuple[str, ...]) -> None:
    bench.prepare(column_keys=("iban", "ssn"), columns=approved)
    driver, executor, ticket = Tee(), Tee(number=1), bench.ticket()
    bench.open(driver, ticket)
    bench.join(executor, driver, ticket)
    for tee in (driver, executor):
        released = bench.released(tee, ticket, datasets={"trips": written(1, bench.trips)})
        assert released.keys["trips"] == {bench.trips.write_id: bench.trips.key}
        expected = {
            column: {bench.trips.write_id: each.key}
            for column, each in bench.trips.columns.items()
            if column in approved
        }
        assert released.columns == ({"trips": expected} if expected else {})


def test_a_run_that_only_writes_a_dataset_opens_no_column_of_its_base(bench: KeyBench) -> None:
    bench.create_dataset("trips")
    bench.create_dataset("report", columns=("iban",))
    bench.trips, _ = bench.import_version("trips")
    earlier, _ = bench.import_version("report")
    bench.approve("trips", "read")
    bench.approve("report", "write", columns=("iban",))
    driver, ticket = Tee(), bench.ticket()
    secrets = bench.secrets(driver, bench.open(driver, ticket))
    assert set(secrets.writes["report"].columns) == {"iban"}
    released = bench.released(driver, ticket, datasets={"report": written(1, earlier)})
    assert released.columns == {}


def test_a_disabled_key_of_a_column_closes_that_column_alone(bench: KeyBench) -> None:
    bench.prepare(column_keys=("iban", "ssn"), columns=("iban", "ssn"))
    driver, ticket = Tee(), bench.ticket()
    bench.open(driver, ticket)
    change = data_keys.KeyStateRequest(column="iban", enabled=False)
    bench.care.set_state(bench.person(change, name="trips"))
    asked = written(1, bench.trips)
    with pytest.raises(RefusedError, match="the key of column iban of dataset trips is disabled"):
        bench.released(driver, ticket, datasets={"trips": asked})
    without = asked.model_copy(update={"column_keys": {"ssn": asked.column_keys["ssn"]}})
    assert set(bench.released(driver, ticket, datasets={"trips": without}).columns["trips"]) == {"ssn"}


def test_every_column_has_a_key_of_its_own_and_each_write_too(bench: KeyBench) -> None:
    bench.prepare(column_keys=("iban", "ssn"))
    second, _ = bench.import_version("trips", base=1)
    secrets = [write.key for write in (bench.trips, second)]
    secrets += [each.key for write in (bench.trips, second) for each in write.columns.values()]
    assert len(set(secrets)) == 6
    assert {len(from_b64url(text)) for text in secrets} == {32}
    keks = keys_of(bench, "trips").keys
    assert [(key.column, key.number) for key in keks] == [(None, 1), ("iban", 1), ("ssn", 1)]
    assert len({key.key for key in keks}) == 3


# --- rotation --------------------------------------------------------------------------------------------------------


def test_a_rotated_key_opens_what_was_written_before_and_new_writes_stand_under_it(bench: KeyBench) -> None:
    bench.prepare(max_runs=2)
    driver, ticket = Tee(), bench.ticket()
    bench.open(driver, ticket)
    old = keys_of(bench, "trips").keys[0].version
    new = rotate(bench, "trips")
    assert (new.number, new.current) == (2, True)
    assert bench.keys(driver, ticket)["trips"]
    rewrap(bench, "trips")
    retire(bench, "trips", old)
    assert bench.keys(driver, ticket)["trips"]
    second, _ = bench.import_version("trips", base=1, keeps=(bench.trips.write_id,))
    assert kek_version_of(from_b64url(second.wrapped)) == new.version
    opened = bench.owner_unwrap("trips", written(2, bench.trips, second)).keys["trips"]
    assert opened == {write.write_id: write.key for write in (bench.trips, second)}
    logged = [event for event in bench.events() if event.startswith("key-") or event == "keys-rewrapped"]
    assert logged == ["key-rotated", "keys-rewrapped", "key-retired"]


def test_a_rotation_that_is_interrupted_anywhere_loses_nothing_and_goes_on(
    bench: KeyBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_care, "_REWRAPPED_AT_ONCE", 1)
    bench.prepare(column_keys=("iban",))
    writes = [bench.trips]
    for base in (1, 2):
        kept = tuple(write.write_id for write in writes)
        writes.append(bench.import_version("trips", base=base, keeps=kept)[0])
    old = {key.column: key.version for key in keys_of(bench, "trips").keys}

    def demand_everything_opens() -> None:
        bench.restart()
        opened = bench.owner_unwrap("trips", written(3, *writes))
        assert opened.keys["trips"] == {write.write_id: write.key for write in writes}
        assert opened.columns["trips"]["iban"] == {write.write_id: write.columns["iban"].key for write in writes}

    for column in (None, "iban"):
        rotate(bench, "trips", column)
        demand_everything_opens()
        for left in (True, True, False):
            with pytest.raises(ConflictError, match="still stand under"):
                retire(bench, "trips", old[column], column)
            assert rewrap(bench, "trips", column) == data_keys.Rewrapped(rewrapped=1, remaining=left)
            demand_everything_opens()
        assert rewrap(bench, "trips", column) == data_keys.Rewrapped(rewrapped=0, remaining=False)
        retire(bench, "trips", old[column], column)
        demand_everything_opens()


def test_a_rotation_that_fails_in_the_middle_changes_nothing(bench: KeyBench) -> None:
    bench.prepare()
    rotate(bench, "trips")
    before = keys_of(bench, "trips")
    full = sqlite3.OperationalError("database or disk is full")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("strongroom.keys.store.transaction.Transaction.append_leaf", _raising(full))
        with pytest.raises(StrongroomError):
            rewrap(bench, "trips")
    assert keys_of(bench, "trips") == before
    assert rewrap(bench, "trips").rewrapped == 1


def _raising(error: Exception) -> Any:
    def fail(*_arguments: object, **_named: object) -> None:
        raise error

    return fail


def test_a_retired_key_opens_nothing_in_the_rows_of_an_old_database(bench: KeyBench) -> None:
    bench.prepare()
    old = keys_of(bench, "trips").keys[0].version
    keks, write_keys = table(bench, "keys"), table(bench, "write_keys")
    rotate(bench, "trips")
    rewrap(bench, "trips")
    retire(bench, "trips", old)
    put_back(bench, "keys", keks)
    put_back(bench, "write_keys", write_keys)
    with pytest.raises(RefusedError, match="version 1 of the key of dataset trips was retired"):
        bench.owner_unwrap("trips", written(1, bench.trips))
    with pytest.raises(RefusedError, match="was retired before"):
        retire(bench, "trips", old)
    assert rewrap(bench, "trips").rewrapped == 0


def test_the_newest_version_of_a_key_is_not_retired(bench: KeyBench) -> None:
    bench.prepare()
    with pytest.raises(ConflictError, match="is the newest one"):
        retire(bench, "trips", keys_of(bench, "trips").keys[0].version)
    with pytest.raises(NotFoundError):
        retire(bench, "trips", "0" * 32)


def test_a_key_is_not_rotated_through_another_dataset_or_column(bench: KeyBench) -> None:
    bench.prepare(column_keys=("iban",))
    rotate(bench, "trips", "iban")
    version = keys_of(bench, "trips").keys[1].version
    with pytest.raises(NotFoundError):
        retire(bench, "trips", version)
    with pytest.raises(NotFoundError):
        retire(bench, "report", version)
    with pytest.raises(NotFoundError, match="no key of its own"):
        rotate(bench, "trips", "ssn")


def two_owners(bench: KeyBench) -> SigningKey:
    """Let another owner in, who has nothing of his own yet."""
    other = SigningKey.generate("ES256")
    jwks = [key.verifying_key.to_jwk() for key in (bench.owner, other)]
    bench.restart_with(
        People(
            configured_people(jwks, []),
            audience=bench.identity.identity,
            issuers=TokenIssuers([], clock=bench.clock),
            clock=bench.clock,
        )
    )
    return other


@pytest.mark.parametrize("operation", ["rotate", "rewrap", "retire", "set_state", "shred", "keys", "shredding"])
def test_only_the_owner_of_a_dataset_sees_and_changes_its_keys(bench: KeyBench, operation: str) -> None:
    bench.prepare()
    other = two_owners(bench)
    bodies: dict[str, Any] = {
        "rotate": data_keys.KeyChoice(),
        "rewrap": data_keys.KeyChoice(),
        "retire": data_keys.RetireRequest(version=keys_of(bench, "trips").keys[0].version),
        "set_state": data_keys.KeyStateRequest(enabled=False),
        "shred": data_keys.ShredRequest(confirm="trips"),
    }
    before = keys_of(bench, "trips")
    bench.owner, owner = other, bench.owner
    with pytest.raises(NotFoundError, match="there is no dataset trips"):
        getattr(bench.care, operation)(bench.person(bodies.get(operation), name="trips"))
    bench.owner = owner
    assert keys_of(bench, "trips") == before


def test_keys_of_columns_belong_to_the_datasets_owner_in_the_vaults_contract_too(bench: KeyBench) -> None:
    bench.prepare(column_keys=("iban",))
    other = two_owners(bench).verifying_key.thumbprint
    names = [key.key for key in keys_of(bench, "trips").keys]
    assert len(set(names)) == 2
    with bench.store.reading() as tx:
        for name in names:
            assert is_own_key(tx, name, bench.owner.verifying_key.thumbprint)
            assert is_own_key(tx, name.upper(), bench.owner.verifying_key.thumbprint)
            assert not is_own_key(tx, name, other)


# --- shredding -------------------------------------------------------------------------------------------------------


def refuses_everything(bench: KeyBench, driver: Tee, ticket: str) -> None:
    """Check that nothing of the shredded dataset trips is read, released, written or changed."""
    asked = written(1, bench.trips)
    refused: list[Any] = [
        lambda: bench.owner_unwrap("trips", asked),
        lambda: bench.released(driver, ticket, datasets={"trips": asked}),
        lambda: bench.join(Tee(number=2), driver, ticket),
        lambda: bench.open(Tee(number=1), bench.ticket()),
        lambda: bench.import_version("trips", base=1),
        lambda: rotate(bench, "trips"),
        lambda: rewrap(bench, "trips"),
        lambda: retire(bench, "trips", "0" * 32),
        lambda: bench.care.set_state(bench.person(data_keys.KeyStateRequest(enabled=True), name="trips")),
        lambda: shred(bench, "trips"),
    ]
    for attempt in refused:
        with pytest.raises(RefusedError, match=GONE):
            attempt()


def test_a_shredded_dataset_is_gone_and_its_keys_bytes_with_it(bench: KeyBench) -> None:
    bench.prepare(column_keys=("iban",), max_runs=5)
    driver, ticket = Tee(), bench.ticket()
    bench.open(driver, ticket)
    keks, write_keys = table(bench, "keys"), table(bench, "write_keys")
    blobs = [cell for row in keks if "trips" in str(row) for cell in row if isinstance(cell, bytes)]
    assert len(blobs) == 2
    shred(bench, "trips")
    files = b"".join(path.read_bytes() for path in bench.database.parent.glob("keys.db*"))
    assert not any(blob in files for blob in blobs)
    refuses_everything(bench, driver, ticket)
    assert keys_of(bench, "trips") == data_keys.DatasetKeys(
        dataset="trips", owner=bench.owner.verifying_key.thumbprint, shredded=True, keys=()
    )
    put_back(bench, "keys", keks)
    put_back(bench, "write_keys", write_keys)
    refuses_everything(bench, driver, ticket)
    bench.create_dataset("kept")
    assert bench.import_version("kept")[1].number == 1


def test_a_whole_old_copy_is_refused_to_whoever_saw_the_newer_log(bench: KeyBench) -> None:
    bench.prepare(max_runs=5)
    bench.store.close()
    shutil.copytree(bench.database.parent, bench.folder / "old")
    bench.start()
    shred(bench, "trips")
    seen = bench.store.checkpoint()
    bench.store.close()
    shutil.rmtree(bench.database.parent)
    shutil.copytree(bench.folder / "old", bench.database.parent)
    bench.start()
    with pytest.raises(RefusedError, match="older than one its clients have seen"):
        bench.open(Tee(), bench.ticket(checkpoints={bench.identity.identity: seen}))


def test_shredding_destroys_the_keys_that_runs_write_with_as_well(bench: KeyBench) -> None:
    bench.create_dataset("trips")
    bench.trips, _ = bench.import_version("trips")
    bench.create_dataset("report", columns=("iban",))
    bench.approve("trips", "read")
    bench.approve("report", "write")
    driver, ticket = Tee(), bench.ticket()
    made = bench.secrets(driver, bench.open(driver, ticket)).writes["report"]
    with bench.store.transaction() as tx:
        before = tx.run(run_of(ticket))
        assert before.secrets.write_keys == {"report": made.key}
    shred(bench, "report")
    with bench.store.transaction() as tx:
        after = tx.run(run_of(ticket))
    assert (after.secrets.write_keys, after.secrets.column_keys) == ({}, {})
    assert (after.record, after.secrets.share) == (before.record, before.secrets.share)
    with pytest.raises(RefusedError, match=GONE):
        bench.join(Tee(number=1), driver, ticket)
    with pytest.raises(RefusedError, match=GONE):
        bench.close(driver, ticket, commits=(bench.commit(made.write_id),))


def test_shredding_is_confirmed_by_the_datasets_name(bench: KeyBench) -> None:
    bench.prepare()
    with pytest.raises(RefusedError, match="another dataset"):
        bench.care.shred(bench.person(data_keys.ShredRequest(confirm="report"), name="trips"))
    assert bench.owner_unwrap("trips", written(1, bench.trips)).keys


@dataclass(kw_only=True)
class Rostered:
    """A dataset whose roster demands two of three members, and what each can sign."""

    bench: KeyBench
    roster: Roster
    members: tuple[SigningKey, ...]

    def consent(self, key: SigningKey, *, typ: str = data_keys.SHREDDING_CONSENT_TYP, **changed: Any) -> str:
        fields: dict[str, Any] = {
            "key_service": self.bench.identity.identity,
            "dataset": "trips",
            "roster": self.roster.digest,
            "issued_at": to_rfc3339(self.bench.clock.now()),
            **changed,
        }
        return self.bench.signed(data_keys.ShreddingConsent(**fields), key=key, typ=typ)

    def shred(self, *consents: str) -> data_keys.ShreddingProof:
        call = self.bench.person(data_keys.ShredRequest(confirm="trips", consents=consents), name="trips")
        return data_keys.ShreddingProof.from_json(self.bench.care.shred(call).body)


@pytest.fixture
def rostered(bench: KeyBench) -> Rostered:
    bench.prepare()
    members = tuple(SigningKey.generate("ES256") for _ in range(3))
    roster = bench.roster(*members, threshold=2)
    assert bench.propose_roster(roster)["holds"]
    return Rostered(bench=bench, roster=roster, members=members)


def test_where_a_roster_demands_two_of_three_no_fewer_destroy_a_datasets_keys(rostered: Rostered) -> None:
    one, two, _ = rostered.members
    for consents in ((), (rostered.consent(one),), (rostered.consent(one), rostered.consent(one))):
        with pytest.raises(RefusedError, match="too few members"):
            rostered.shred(*consents)
    assert rostered.bench.owner_unwrap("trips", written(1, rostered.bench.trips)).keys
    proof = rostered.shred(rostered.consent(one), rostered.consent(two))
    verified = verify_shredding(proof.to_json(), trust=trust_of(rostered.bench))
    assert verified.dataset == "trips"
    consenting = parse_json_object(proof.proof.leaf)["consenting"]
    assert consenting == sorted(key.verifying_key.thumbprint for key in (one, two))


def test_a_consent_is_a_members_for_this_roster_and_dataset_and_fresh(rostered: Rostered) -> None:
    one, two, _ = rostered.members
    bench, good = rostered.bench, rostered.consent(one)
    stale = rostered.consent(two)
    bench.clock.advance(days=8)
    for bad in (
        rostered.consent(bench.owner),
        rostered.consent(SigningKey.generate("ES256")),
        rostered.consent(two, typ=wire.APPROVAL_TYP),
        rostered.consent(two, dataset="report"),
        rostered.consent(two, roster="00" * 32),
        rostered.consent(two, key_service="00" * 32),
        rostered.consent(two, issued_at="2030-01-01T00:00:00Z"),
        stale,
        "a.b.c",
    ):
        with pytest.raises((RefusedError, VerificationError, FormatError)):
            rostered.shred(rostered.consent(one), bad)
    with pytest.raises(RefusedError, match="too old"):
        rostered.shred(good, rostered.consent(two))
    assert rostered.shred(rostered.consent(one), rostered.consent(two))


def test_consents_of_a_roster_that_was_replaced_do_not_count(rostered: Rostered) -> None:
    one, two, three = rostered.members
    consents = [rostered.consent(key) for key in (one, two)]
    later = rostered.bench.roster(one, two, three, threshold=3, before=rostered.roster)
    rostered.bench.propose_roster(later, key=one)
    assert rostered.bench.sign_roster(later, key=two)["holds"]
    with pytest.raises(RefusedError, match="for something else"):
        rostered.shred(*consents)


def test_consents_for_a_dataset_without_a_roster_are_refused(bench: KeyBench) -> None:
    bench.prepare()
    key = SigningKey.generate("ES256")
    unneeded = Rostered(bench=bench, roster=bench.roster(key, threshold=1), members=(key,))
    with pytest.raises(RefusedError, match="has no roster"):
        unneeded.shred(unneeded.consent(key))


def trust_of(bench: KeyBench, **changed: Any) -> Trust:
    fields: dict[str, Any] = {
        "service": "key-service",
        "url": "https://vault.test",
        "identity": bench.identity.identity,
        "certificate_pem": bench.identity.certificate_pem,
        "mode": "owner-operated",
        "measurement": None,
        "configuration": "00" * 32,
        "log_key": log_key(bench.identity),
        **changed,
    }
    owners = (bench.owner.verifying_key.thumbprint,)
    return Trust(
        hardware="simulated", roots=(), services=(TrustedService(**fields),), owners=owners, agent_measurements=()
    )


def test_the_proof_of_shredding_names_every_key_and_is_verified_offline(bench: KeyBench) -> None:
    bench.prepare(column_keys=("iban",))
    rotate(bench, "trips")
    keys = keys_of(bench, "trips").keys
    proof = shred(bench, "trips")
    verified = verify_shredding(proof.to_json(), trust=trust_of(bench))
    assert (verified.dataset, verified.by) == ("trips", bench.owner.verifying_key.thumbprint)
    assert {key.version for key in verified.keys} == {key.version for key in keys}
    assert len(verified.keys) == 3
    again = data_keys.ShreddingProof.from_json(bench.care.shredding(bench.person(name="trips")).body)
    assert verify_shredding(again.to_json(), trust=trust_of(bench)).keys == verified.keys
    with pytest.raises(NotFoundError, match="were not destroyed"):
        bench.care.shredding(bench.person(name="report"))


def test_refuses_a_proof_of_shredding_with_anything_changed(bench: KeyBench) -> None:
    bench.prepare()
    bench.create_dataset("other")
    proof, other = shred(bench, "trips"), shred(bench, "other")
    statement = bench.desk.verify_own(proof.statement, typ=data_keys.SHREDDING_TYP)
    shredding = data_keys.Shredding.from_json(statement)

    def signed(**changed: Any) -> dict[str, Any]:
        """What the service itself would sign about another thing than its log says."""
        lie = shredding.model_copy(update=changed)
        return {"statement": bench.desk.sign(lie, typ=data_keys.SHREDDING_TYP)}

    leaf = proof.proof.leaf
    forged: list[dict[str, Any]] = [
        {"proof": other.proof},
        {"statement": other.statement},
        {"statement": proof.statement[:-4] + "AAAA"},
        {"statement": bench.desk.sign(shredding, typ=wire.VERSION_TYP)},
        {"proof": proof.proof.model_copy(update={"leaf": leaf.replace("trips", "spirt")})},
        {"proof": proof.proof.model_copy(update={"index": proof.proof.index - 1})},
        signed(dataset="other"),
        signed(by="00" * 32),
        signed(shredded_at="2020-01-01T00:00:00Z"),
        signed(keys=shredding.keys * 2),
        signed(leaf="00" * 32),
    ]
    for change in forged:
        with pytest.raises((VerificationError, FormatError)):
            verify_shredding(proof.model_copy(update=change).to_json(), trust=trust_of(bench))
    with pytest.raises(RefusedError, match="not in the trust file"):
        verify_shredding(proof.to_json(), trust=trust_of(bench, identity="11" * 32))
    with pytest.raises(VerificationError, match="log key"):
        verify_shredding(proof.to_json(), trust=trust_of(bench, log_key="another+key"))


def test_a_leaf_of_another_event_proves_no_shredding(bench: KeyBench) -> None:
    bench.prepare()
    rotate(bench, "trips")
    proof = shred(bench, "trips")
    with bench.store.transaction() as tx:
        leaves = tx.leaves(0, 100)
    position = next(n for n, leaf in enumerate(leaves) if parse_json_object(leaf)["event"] == "key-rotated")
    moved = proof.model_copy(update={"proof": bench.store.prove([position])[0]})
    with pytest.raises(VerificationError, match="event"):
        verify_shredding(moved.to_json(), trust=trust_of(bench))


# --- two writers -----------------------------------------------------------------------------------------------------


def two_runs(bench: KeyBench) -> tuple[tuple[Tee, str, wire.NewWrite], tuple[Tee, str, wire.NewWrite]]:
    """Two runs that write the dataset report; both build on nothing."""
    bench.prepare(max_runs=2)
    found = []
    for number in (0, 1):
        driver, ticket = Tee(number=number), bench.ticket()
        secrets = bench.secrets(driver, bench.open(driver, ticket))
        found.append((driver, ticket, secrets.writes["report"]))
    return found[0], found[1]


def test_the_second_of_two_writers_builds_on_the_first_ones_version(bench: KeyBench) -> None:
    (one, first, write), (other, second, late) = two_runs(bench)
    bench.close(one, first, commits=(bench.commit(write.write_id),))
    stale = bench.commit(late.write_id)
    with pytest.raises(ConflictError):
        bench.close(other, second, commits=(stale,))
    rebased = bench.rebase(other, second)
    assert bench.version(rebased.statement).number == 1
    asked = wire.WrittenDataset(number=1, write_keys={write.write_id: write.wrapped})
    assert bench.keys(other, second, datasets={"report": asked})["report"]
    commit = bench.commit(late.write_id, base=1, write_ids=(late.write_id, write.write_id))
    closing = bench.close(other, second, commits=(commit,))
    assert bench.version(closing.versions["report"]).number == 2
    events = [parse_json_object(proof.leaf)["event"] for proof in closing.member_proofs]
    assert events == ["run-opened", "write-rebased", "keys-released"]


def test_the_receipts_hash_and_the_version_are_logged_together_or_not_at_all(bench: KeyBench) -> None:
    (one, first, write), (other, second, late) = two_runs(bench)
    closing = bench.close(one, first, commits=(bench.commit(write.write_id),), receipt="ab" * 32)
    assert parse_json_object(closing.proof.leaf)["receipt"] == "ab" * 32
    assert bench.events()[-2:] == ["dataset-version", "run-closed"]
    before = bench.events()
    with pytest.raises(ConflictError):
        bench.close(other, second, commits=(bench.commit(late.write_id),))
    assert bench.events() == before


def test_a_write_is_moved_only_by_its_driver_and_only_when_it_must_be(bench: KeyBench) -> None:
    (one, first, write), (other, second, _) = two_runs(bench)
    with pytest.raises(RefusedError, match="builds on the version"):
        bench.rebase(other, second)
    bench.close(one, first, commits=(bench.commit(write.write_id),))
    executor = Tee(number=2)
    bench.join(executor, other, second)
    with pytest.raises(RefusedError, match="only a run's driver"):
        bench.rebase(executor, second)
    with pytest.raises(RefusedError, match="only a run's driver"):
        bench.rebase(other, second, run=run_of(first))
    with pytest.raises(RefusedError, match="only a run's driver"):
        bench.rebase(other, second, dataset="trips")
    with pytest.raises(RefusedError, match="not made just now"):
        bench.rebase(other, second, issued_at="2020-01-01T00:00:00Z")
    with pytest.raises(RefusedError, match="closed"):
        bench.rebase(one, first)
    with pytest.raises(VerificationError):
        bench.rebase(one, second)
    bench.rebase(other, second)
    with pytest.raises(RefusedError, match="builds on the version"):
        bench.rebase(other, second)


def test_a_write_is_not_moved_after_its_approval_was_revoked(bench: KeyBench) -> None:
    (one, first, write), (other, second, _) = two_runs(bench)
    bench.close(one, first, commits=(bench.commit(write.write_id),))
    for record in parse_json_object(bench.approvals.approvals(bench.person()).body)["approvals"]:
        bench.revoke(record["approval"])
    with pytest.raises(RefusedError, match="nothing more is released"):
        bench.rebase(other, second)


def test_an_application_that_pins_the_version_it_writes_on_is_not_moved(bench: KeyBench) -> None:
    bench.create_dataset("trips")
    bench.create_dataset("report")
    bench.trips, _ = bench.import_version("trips")
    bench.import_version("report")
    pinned = bench.description(datasets={"trips": bench.binding("read"), "report": bench.binding("write", version=1)})
    bench.approve("trips", "read", description=pinned)
    bench.approve("report", "write", description=pinned)
    driver, ticket = Tee(), bench.ticket(application=pinned.digest)
    bench.open(driver, ticket, application=pinned.digest)
    bench.import_version("report", base=1)
    with pytest.raises(RefusedError, match="builds on the version"):
        bench.rebase(driver, ticket)


def test_times_of_keys_are_the_services(bench: KeyBench) -> None:
    bench.prepare()
    (key,) = keys_of(bench, "trips").keys
    assert key.created_at == NOW.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert (key.enabled, key.current, key.in_use) == (True, True, True)
