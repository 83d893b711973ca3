"""The attestation service's database: what is there after a change, and after the storage failed."""

import sqlite3
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from tests.support.attestation_service import certificate
from tests.support.platform import NOW
from tests.support.postgres import PostgresServer

from strongroom.base.errors import ConfigurationError, ConflictError, IntegrityError, UnavailableError
from strongroom.crypto.keys import SigningKey
from strongroom.services.attestation_store import AttestationStore, SigningKeyRecord, open_attestation_store

CERTIFICATES = [certificate(SigningKey.generate("ES256")) for _ in range(3)]


@pytest.fixture(params=["file", pytest.param("server", marks=pytest.mark.needs_postgres)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """Where a store may be: in a file, or at a server."""
    if request.param == "file":
        return tmp_path / "attestation.db"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_database()


@pytest.fixture
def any_store(place: Path | str) -> Iterator[AttestationStore]:
    opened = open_attestation_store(place)
    yield opened
    opened.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "attestation.db"


@pytest.fixture
def store(path: Path) -> Iterator[AttestationStore]:
    opened = open_attestation_store(path)
    yield opened
    opened.close()


def reopened(store: AttestationStore, place: Path | str) -> AttestationStore:
    store.close()
    return open_attestation_store(place)


def record(number: int, *, last_expiry: int = 0) -> SigningKeyRecord:
    chain = (CERTIFICATES[number], CERTIFICATES[2])
    return SigningKeyRecord(kid=f"key-{number}", chain_der=chain, made_at=number, last_expiry=last_expiry)


def test_keeps_everything_over_a_restart(any_store: AttestationStore, place: Path | str) -> None:
    store = any_store
    store.put_policy("SgxEnclave", "a")
    store.put_policy("SgxEnclave", "b")
    store.put_policy("TdxVm", "c")
    store.remove_policy("TdxVm")
    for der in CERTIFICATES[:2]:
        store.add_policy_certificate(der, limit=2)
    store.put_signing_key(record(0), forget_before=0)
    store.newest_signed_time.advance(NOW)
    again = reopened(store, place)
    try:
        assert again.policies() == {"SgxEnclave": "b"}
        assert again.policy_certificates() == tuple(CERTIFICATES[:2])
        assert again.signing_keys() == (record(0),)
        assert again.newest_signed_time.get() == NOW
    finally:
        again.close()


def test_the_file_is_its_owners_alone(store: AttestationStore, path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600


def test_certificates_have_a_limit_and_the_last_one_stays(any_store: AttestationStore) -> None:
    store = any_store
    store.remove_policy_certificate(CERTIFICATES[0])  # nothing is there, nothing is removed
    store.add_policy_certificate(CERTIFICATES[0], limit=1)
    store.add_policy_certificate(CERTIFICATES[0], limit=1)
    with pytest.raises(ConflictError):
        store.add_policy_certificate(CERTIFICATES[1], limit=1)
    with pytest.raises(ConflictError, match="last"):
        store.remove_policy_certificate(CERTIFICATES[0])
    assert store.policy_certificates() == (CERTIFICATES[0],)


def test_signing_keys_are_forgotten_when_their_last_token_expired(any_store: AttestationStore) -> None:
    store = any_store
    store.put_signing_key(record(0, last_expiry=100), forget_before=0)
    store.extend_signing_key("key-0", last_expiry=50)
    assert store.signing_keys()[0].last_expiry == 100
    store.extend_signing_key("key-0", last_expiry=200)
    store.put_signing_key(record(1, last_expiry=200), forget_before=200)
    assert [each.kid for each in store.signing_keys()] == ["key-1", "key-0"]
    store.put_signing_key(record(1), forget_before=201)
    assert [each.kid for each in store.signing_keys()] == ["key-1"]


def test_the_newest_signed_time_never_goes_back(any_store: AttestationStore, place: Path | str) -> None:
    store = any_store
    cell = store.newest_signed_time
    assert cell.get() is None
    assert cell.advance(NOW) == NOW
    assert cell.advance(NOW - timedelta(days=1)) == NOW
    assert cell.get() == NOW
    later = NOW + timedelta(microseconds=1)
    threads = [threading.Thread(target=cell.advance, args=[moment]) for moment in (later, NOW, later, NOW)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cell.get() == later
    again = reopened(store, place)
    assert again.newest_signed_time.get() == later
    again.close()


@pytest.mark.needs_postgres
def test_replicas_see_what_the_others_changed(postgres: PostgresServer) -> None:
    url = postgres.new_database()
    one, other = open_attestation_store(url), open_attestation_store(url)
    try:
        assert one.is_shared
        one.put_policy("SgxEnclave", "a")
        assert other.policies() == {"SgxEnclave": "a"}
        other.remove_policy("SgxEnclave")
        assert one.policies() == {}
        one.newest_signed_time.advance(NOW)
        assert other.newest_signed_time.get() == NOW
    finally:
        one.close()
        other.close()


@pytest.mark.needs_postgres
def test_a_server_whose_connections_end_is_used_again(postgres: PostgresServer) -> None:
    url = postgres.new_database()
    store = open_attestation_store(url)
    try:
        store.put_policy("SgxEnclave", "a")
        postgres.end_connections(url)
        store.put_policy("SgxEnclave", "b")
        assert store.policies() == {"SgxEnclave": "b"}
    finally:
        store.close()


def test_a_server_that_does_not_answer_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="the attestation service's database does not answer"):
        open_attestation_store(f"postgresql://x@/x?host={tmp_path}")


def delete_and_fail(store: AttestationStore) -> None:
    with store.transaction() as connection:
        connection.execute("DELETE FROM policies")
        connection.execute("DELETE FROM missing")


def test_a_block_that_fails_changes_nothing(store: AttestationStore) -> None:
    store.put_policy("SgxEnclave", "a")
    with pytest.raises(UnavailableError, match="no such table"):
        delete_and_fail(store)
    assert store.policies() == {"SgxEnclave": "a"}


def test_storage_that_is_gone_is_unavailable(store: AttestationStore, path: Path) -> None:
    store.put_policy("SgxEnclave", "a")
    path.rename(path.with_name("moved"))
    for call in (store.check, store.policies, lambda: store.put_policy("SgxEnclave", "b")):
        with pytest.raises(UnavailableError, match="storage is gone"):
            call()
    path.with_name("moved").rename(path)
    assert store.policies() == {"SgxEnclave": "a"}
    store.close()
    with pytest.raises(UnavailableError):
        store.check()


def test_a_full_disk_loses_nothing(store: AttestationStore) -> None:
    store.put_policy("SgxEnclave", "a")
    with store.transaction() as connection:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
    store._place.connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(UnavailableError, match="full"):
        store.put_policy("SgxEnclave", "b" * 100_000)
    assert store.policies() == {"SgxEnclave": "a"}


def test_one_process_uses_it(store: AttestationStore, path: Path) -> None:
    with pytest.raises(ConfigurationError, match="locked"):
        open_attestation_store(path)


def test_refuses_another_programs_database_and_a_damaged_one(tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE x (y)")
    connection.close()
    with pytest.raises(ConfigurationError, match="version"):
        open_attestation_store(other)
    damaged = tmp_path / "damaged.db"
    damaged.write_bytes(b"not a database, but long enough to be one" * 100)
    with pytest.raises(IntegrityError):
        open_attestation_store(damaged)
    with pytest.raises(ConfigurationError):
        open_attestation_store(tmp_path / "nowhere" / "attestation.db")
