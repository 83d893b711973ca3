"""Key Vault's contract in this process: what the log says, what the clock does, and how answers and errors look."""

import json
import re
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from starlette.applications import Starlette
from tests.support.asgi import Answer, send
from tests.support.key_service import URL, KeyBench

from strongroom.base.encoding import from_b64url, parse_json_object, to_b64url
from strongroom.base.errors import (
    ConflictError,
    FormatError,
    IntegrityError,
    LimitError,
    NotFoundError,
    RefusedError,
    StrongroomError,
)
from strongroom.base.secret import SecretBytes
from strongroom.crypto.derive import sha256_hex
from strongroom.keys import backup
from strongroom.keys.records import KeyRecord
from strongroom.keys.store import StoredKey
from strongroom.keys.store.vault import VaultRows
from strongroom.services import key_vault_rotation
from strongroom.services.http import Call, application
from strongroom.services.key_vault import API_VERSIONS, KeyVault
from strongroom.services.key_vault_desk import Recovery
from strongroom.services.key_vault_errors import bearer_challenge

DAY = 86400
OCT = {"kty": "oct-HSM", "key_size": 256}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[KeyBench]:
    made = KeyBench(tmp_path)
    yield made
    made.store.close()


def ask(bench: KeyBench, operation: str, body: Any = None, *, query: dict[str, str] | None = None, **path: str) -> Any:
    asked = {"api-version": "7.6", **(query or {})}
    call = bench.person({} if body is None else body, query=asked, **path)
    return bench.vault.run(operation, call)


def create(bench: KeyBench, name: str = "a-key", **changed: Any) -> str:
    """Make a key, or a version of it; return the version."""
    return version_of(ask(bench, "create", {**OCT, **changed}, name=name))


def version_of(bundle: Any) -> str:
    return str(bundle["key"]["kid"]).rsplit("/", 1)[1]


def leaves(bench: KeyBench) -> list[dict[str, Any]]:
    with bench.store.transaction() as tx:
        return [parse_json_object(leaf) for leaf in tx.leaves(0, 10_000)]


def record(bench: KeyBench, name: str = "a-key", version: str | None = None) -> KeyRecord:
    with bench.store.transaction() as tx:
        return tx.key(name, version).record


def set_rotation(bench: KeyBench, name: str = "a-key", *, expiry: str | None = None, **trigger: str) -> Any:
    actions = [{"trigger": trigger, "action": {"type": "rotate"}}] if trigger else []
    body: dict[str, Any] = {"lifetimeActions": actions, "attributes": {"expiryTime": expiry} if expiry else {}}
    return ask(bench, "put_policy", body, name=name)


# --- the log ----------------------------------------------------------------------------------------------------------


def test_every_change_of_a_key_is_a_leaf_that_names_the_person_and_what_the_key_is_now(bench: KeyBench) -> None:
    first = create(bench)
    ask(bench, "put", {"key": {"kty": "oct", "k": to_b64url(bytes(32))}}, name="b-key")
    ask(bench, "update", {"tags": {"a": "b"}}, name="a-key")
    set_rotation(bench, expiry="P90D")
    second = version_of(ask(bench, "rotate", name="a-key"))
    blob = ask(bench, "backup", name="a-key")["value"]
    ask(bench, "delete", name="a-key")
    ask(bench, "recover", name="a-key")
    ask(bench, "delete", name="a-key")
    ask(bench, "purge", name="a-key")
    ask(bench, "restore", {"value": blob})
    said = leaves(bench)
    assert [leaf["event"] for leaf in said] == [
        "key-created",
        "key-imported",
        "key-updated",
        "key-rotation-policy-set",
        "key-rotated",
        "key-backed-up",
        "key-deleted",
        "key-recovered",
        "key-deleted",
        "key-purged",
        "key-restored",
    ]
    assert {leaf["owner"] for leaf in said} == {bench.owner.verifying_key.thumbprint}
    assert (said[0]["key_version"], said[4]["key_version"], said[4]["previous"]) == (first, second, first)
    assert said[5]["backup"] == said[10]["backup"] == sha256_hex(from_b64url(blob))
    assert said[9]["versions"] == 2
    assert said[10]["record"] == sha256_hex(record(bench).to_json())


def test_single_uses_of_keys_are_not_logged(bench: KeyBench) -> None:
    create(bench)
    before = leaves(bench)
    wrapped = ask(bench, "wrap", {"alg": "A256KW", "value": to_b64url(bytes(32))}, name="a-key")
    ask(bench, "unwrap", {"alg": "A256KW", "value": wrapped["value"]}, name="a-key")
    ask(bench, "random", {"count": 16})
    assert leaves(bench) == before


def test_a_change_that_fails_leaves_neither_a_key_nor_a_leaf(bench: KeyBench) -> None:
    with pytest.raises(FormatError):
        create(bench, attributes={"exportable": True})
    with pytest.raises(FormatError):
        create(bench, attributes={"nbf": 20, "exp": 10})
    assert leaves(bench) == []
    with pytest.raises(NotFoundError):
        record(bench)


# --- the clock --------------------------------------------------------------------------------------------------------


def test_a_key_is_rotated_when_it_is_due(bench: KeyBench) -> None:
    first = create(bench, key_size=192)
    set_rotation(bench, expiry="P90D", timeAfterCreate="P30D")
    bench.clock.advance(days=29)
    ask(bench, "keys")
    assert record(bench).version == first
    bench.clock.advance(days=1)
    ask(bench, "keys")
    newest = record(bench)
    assert (newest.version == first, newest.number, newest.kty) == (False, 2, "oct-HSM")
    assert newest.expires == newest.created + 90 * DAY
    last = leaves(bench)[-1]
    assert (last["event"], last["owner"], last["previous"]) == ("key-rotated", "schedule", first)
    with bench.store.transaction() as tx:
        assert len(tx.key("a-key").material) == 24
        assert tx.key("a-key").material != tx.key("a-key", first).material
    bench.clock.advance(days=30)
    ask(bench, "keys")
    assert record(bench).number == 3


def test_keys_are_rotated_though_nobody_calls(bench: KeyBench, monkeypatch: pytest.MonkeyPatch) -> None:
    create(bench)
    set_rotation(bench, timeAfterCreate="P30D")
    bench.clock.advance(days=31)
    monkeypatch.setattr("strongroom.services.key_vault_rotation._WAKE_EVERY_S", 0.01)
    with bench.vault.watching_the_clock():
        while record(bench).number == 1:
            time.sleep(0.01)
    assert record(bench).number == 2


def test_a_disabled_key_stays_disabled_when_it_is_rotated(bench: KeyBench) -> None:
    create(bench)
    set_rotation(bench, timeAfterCreate="P30D")
    ask(bench, "update", {"attributes": {"enabled": False}}, name="a-key")
    bench.clock.advance(days=31)
    ask(bench, "keys")
    assert (record(bench).number, record(bench).enabled) == (2, False)


def test_an_owner_is_told_once_in_the_log_that_a_key_will_expire(bench: KeyBench) -> None:
    expires = int((bench.clock.now() + timedelta(days=90)).timestamp())
    create(bench, attributes={"exp": expires})
    set_rotation(bench)
    for days in (59, 1, 1, 5):
        bench.clock.advance(days=days)
        ask(bench, "keys")
    told = [leaf for leaf in leaves(bench) if leaf["event"] == "key-near-expiry"]
    assert [leaf["expires"] for leaf in told] == [expires]


def test_a_deleted_key_is_destroyed_when_its_time_is_over_and_not_before(bench: KeyBench) -> None:
    create(bench)
    deleted = ask(bench, "delete", name="a-key")
    assert deleted["scheduledPurgeDate"] == deleted["deletedDate"] + 90 * DAY
    bench.clock.advance(days=89, hours=23)
    assert ask(bench, "deleted", name="a-key")
    bench.clock.advance(hours=1)
    with pytest.raises(NotFoundError):
        ask(bench, "deleted", name="a-key")
    assert leaves(bench)[-1]["event"] == "key-purged"
    create(bench)


def test_a_deleted_key_is_not_rotated_until_it_is_recovered(bench: KeyBench, caplog: pytest.LogCaptureFixture) -> None:
    create(bench)
    set_rotation(bench, timeAfterCreate="P30D")
    ask(bench, "delete", name="a-key")
    bench.clock.advance(days=40)
    ask(bench, "keys")
    assert "not rotated" not in caplog.text
    ask(bench, "recover", name="a-key")
    assert record(bench).number == 1
    bench.clock.advance(minutes=1)
    ask(bench, "keys")
    assert record(bench).number == 2


def test_what_fails_by_the_clock_fails_neither_a_call_nor_another_key_and_is_tried_again(
    bench: KeyBench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a-key", "b-key"):
        create(bench, name)
        set_rotation(bench, name, timeAfterCreate="P30D")
    bench.clock.advance(days=31)
    like = key_vault_rotation._like

    def fail_for_one(stored: StoredKey) -> SecretBytes:
        if stored.record.name == "a-key":
            raise IntegrityError("the stored key is damaged")
        return like(stored)

    with monkeypatch.context() as patch:
        patch.setattr(key_vault_rotation, "_like", fail_for_one)
        assert ask(bench, "keys")["value"]
    assert "damaged" in caplog.text
    assert (record(bench, "a-key").number, record(bench, "b-key").number) == (1, 2)
    bench.clock.advance(minutes=1)
    ask(bench, "keys")
    assert record(bench).number == 2


def test_nothing_happens_by_the_clock_while_the_service_may_not_serve(
    bench: KeyBench, caplog: pytest.LogCaptureFixture
) -> None:
    create(bench)
    create(bench, "gone")
    set_rotation(bench, timeAfterCreate="P30D")
    ask(bench, "delete", name="gone")
    bench.clock.advance(days=91)
    before = leaves(bench)
    bench.store.stop_releasing(IntegrityError("a row was edited"))
    assert ask(bench, "deleted", name="gone")
    assert leaves(bench) == before
    assert "a row was edited" in caplog.text


# --- deleting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("days", "protected", "level"),
    [
        (90, False, "Recoverable+Purgeable"),
        (90, True, "Recoverable"),
        (7, False, "CustomizedRecoverable+Purgeable"),
        (7, True, "CustomizedRecoverable"),
    ],
)
def test_says_what_becomes_of_deleted_keys(bench: KeyBench, days: int, level: str, *, protected: bool) -> None:
    bench.vault = KeyVault(bench.desk, recovery=Recovery(days=days, purge_protection=protected))
    create(bench)
    attributes = ask(bench, "get", name="a-key")["attributes"]
    assert (attributes["recoveryLevel"], attributes["recoverableDays"]) == (level, days)
    ask(bench, "delete", name="a-key")
    if protected:
        with pytest.raises(RefusedError, match="protected"):
            ask(bench, "purge", name="a-key")
    else:
        assert ask(bench, "purge", name="a-key") is None
    bench.clock.advance(days=days)
    with pytest.raises(NotFoundError):
        ask(bench, "recover", name="a-key")


@pytest.mark.parametrize("days", [6, 91, 0, -1])
def test_refuses_other_times_to_recover(days: int) -> None:
    with pytest.raises(FormatError):
        Recovery(days=days)


def test_a_deleted_key_is_of_no_use_and_its_name_is_taken(bench: KeyBench) -> None:
    create(bench)
    ask(bench, "delete", name="a-key")
    for operation, body in (
        ("get", None),
        ("versions", None),
        ("update", {"tags": {}}),
        ("wrap", {"alg": "A256KW", "value": "A" * 43}),
        ("rotate", None),
        ("get_policy", None),
        ("backup", None),
        ("delete", None),
    ):
        with pytest.raises(NotFoundError):
            ask(bench, operation, body, name="a-key")
    with pytest.raises(ConflictError):
        create(bench)
    with pytest.raises(ConflictError):
        ask(bench, "put", {"key": {"kty": "oct", "k": to_b64url(bytes(32))}}, name="a-key")
    assert ask(bench, "keys")["value"] == []


# --- backups ----------------------------------------------------------------------------------------------------------


def test_a_key_with_too_many_versions_or_too_much_in_them_is_not_backed_up(
    bench: KeyBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(bench)
    create(bench)
    with monkeypatch.context() as patch:
        patch.setattr("strongroom.services.key_vault_custody.MAX_VERSIONS", 1)
        with pytest.raises(FormatError, match="versions"):
            ask(bench, "backup", name="a-key")
    monkeypatch.setattr(backup, "MAX_BACKUP_BYTES", 100)
    with pytest.raises(LimitError):
        ask(bench, "backup", name="a-key")


def test_a_restored_key_has_its_rotation_policy_again(bench: KeyBench) -> None:
    create(bench)
    policy = set_rotation(bench, expiry="P90D", timeAfterCreate="P30D")
    blob = ask(bench, "backup", name="a-key")["value"]
    ask(bench, "delete", name="a-key")
    ask(bench, "purge", name="a-key")
    ask(bench, "restore", {"value": blob})
    assert ask(bench, "get_policy", name="a-key") == policy
    bench.clock.advance(days=31)
    ask(bench, "keys")
    assert record(bench).number == 2


# --- lists ------------------------------------------------------------------------------------------------------------


def test_lists_every_key_once_by_pages_while_others_come(bench: KeyBench) -> None:
    for number in range(5):
        create(bench, f"key-{number}")
        create(bench, f"key-{number}")
    seen: list[str] = []
    query: dict[str, str] = {"maxresults": "2"}
    while True:
        page = ask(bench, "keys", query=query)
        seen += [entry["kid"] for entry in page["value"]]
        if page["nextLink"] is None:
            break
        link = urlsplit(page["nextLink"])
        assert f"{link.scheme}://{link.netloc}{link.path}" == f"{URL}/keys"
        query = dict(part.split("=", 1) for part in link.query.split("&"))
        create(bench, "aaa-came-later")
    assert seen == [f"{URL}/keys/key-{number}" for number in range(5)]


@pytest.mark.parametrize("size", ["0", "26", "-1", "x", "1e1", ""])
def test_refuses_pages_of_other_sizes(bench: KeyBench, size: str) -> None:
    create(bench)
    for operation in ("keys", "deleted_keys", "versions"):
        with pytest.raises(FormatError):
            ask(bench, operation, query={"maxresults": size}, name="a-key")


@pytest.mark.parametrize("token", ["!", "\u00e4", to_b64url(b"\xff"), to_b64url(b"a/b"), to_b64url(b"-1"), "A"])
def test_refuses_marks_that_are_not_its_own(bench: KeyBench, token: str) -> None:
    create(bench)
    for operation in ("keys", "deleted_keys", "versions"):
        try:
            ask(bench, operation, query={"$skiptoken": token}, name="a-key")
        except FormatError:
            continue
        assert operation != "versions"
        assert re.fullmatch(rb"[0-9A-Za-z-]*", from_b64url(token))


def test_reads_lists_along_an_index(bench: KeyBench) -> None:
    create(bench)
    with bench.store.transaction() as tx:
        seen: list[str] = []
        connection = tx.rows._connection

        class Explaining:
            def execute(self, statement: str, values: Any = (), /) -> Any:
                plan = connection.execute(f"EXPLAIN QUERY PLAN {statement}", values).fetchall()
                seen.extend(str(row[-1]) for row in plan)
                return connection.execute(statement, values)

        tx.rows._connection = tx._connection = Explaining()
        rows = VaultRows(tx)
        tx.newest_keys(after="a", limit=3)
        rows.versions("a-key", after=0, limit=3)
        rows.deletions(after="a", limit=3)
        rows.rotations_due(now=1)
        rows.purgeable(now=1)
        rows.newest_number("a-key")
        tx.key("a-key", "0" * 32) if rows.is_deleted("a-key") else tx.key("a-key")
    assert seen
    assert [step for step in seen if "INDEX" not in step] == []


# --- answers ----------------------------------------------------------------------------------------------------------


def served(bench: KeyBench) -> Starlette:
    return application(bench.vault.routes(), shape_for=lambda _path: bench.vault.error)


def request(bench: KeyBench, method: str, target: str, body: Any = None, *, token: str | None = None) -> Answer:
    content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"authorization": f"Bearer {bench.token() if token is None else token}"}
    return send(served(bench), method, target, content, headers=headers)


def error_of(answer: Answer) -> tuple[int, str, str | None]:
    error = parse_json_object(answer.body)["error"]
    return answer.status, error["code"], error.get("innererror", {}).get("code")


@pytest.mark.parametrize("version", API_VERSIONS)
def test_speaks_every_version_of_the_contract(bench: KeyBench, version: str) -> None:
    answer = request(bench, "POST", f"/keys/a-key/create?api-version={version}", OCT)
    assert answer.status == 200
    assert parse_json_object(answer.body)["key"]["kid"].startswith(f"{URL}/keys/a-key/")


def test_answers_carry_their_own_id(bench: KeyBench) -> None:
    ids = set()
    for target in ("/keys?api-version=7.4", "/keys?api-version=1", "/keys/none?api-version=7.4", "/keys/a/b/c/d"):
        headers = request(bench, "GET", target).headers
        ids.add(uuid.UUID(headers["x-ms-request-id"]))
        assert headers["x-ms-keyvault-service-version"] == "strongroom/1"
        assert headers["cache-control"] == "no-store"
    assert len(ids) == 4


def test_errors_are_azures(bench: KeyBench) -> None:
    create(bench, "kept")
    create(bench, "off", attributes={"enabled": False})
    create(bench, "old", attributes={"exp": 10})
    create(bench, "new", attributes={"nbf": 1 << 34})
    create(bench, "narrow", key_ops=["wrapKey"])
    create(bench, "gone")
    ask(bench, "delete", name="gone")
    blob = ask(bench, "backup", name="kept")
    v, wrap = "?api-version=7.6", {"alg": "A256KW", "value": "A" * 43}
    for method, target, body, expected in (
        ("GET", f"/keys/nothing{v}", None, (404, "KeyNotFound", None)),
        ("GET", f"/keys/kept/{'0' * 32}{v}", None, (404, "KeyNotFound", None)),
        ("GET", f"/keys/kept/%00{v}", None, (404, "KeyNotFound", None)),
        ("GET", f"/deletedkeys/kept{v}", None, (404, "KeyNotFound", None)),
        ("GET", "/keys", None, (400, "BadParameter", "format")),
        ("GET", "/keys?api-version=7.2", None, (400, "BadParameter", "format")),
        ("GET", f"/keys/a_b{v}", None, (400, "BadParameter", "format")),
        ("POST", f"/keys/kept/create{v}", {"kty": "RSA", "key_size": 1024}, (400, "BadParameter", "format")),
        ("POST", f"/keys/kept/create{v}", b"{", (400, "BadParameter", "format")),
        ("POST", f"/keys/off//wrapkey{v}", wrap, (403, "Forbidden", "KeyDisabled")),
        ("POST", f"/keys/old//wrapkey{v}", wrap, (403, "Forbidden", "KeyExpired")),
        ("POST", f"/keys/new//wrapkey{v}", wrap, (403, "Forbidden", "KeyNotYetValid")),
        ("POST", f"/keys/narrow//unwrapkey{v}", wrap, (403, "Forbidden", "KeyOperationForbidden")),
        ("POST", f"/keys/gone/create{v}", OCT, (409, "Conflict", "ObjectIsDeletedButRecoverable")),
        ("POST", f"/keys/restore{v}", blob, (409, "Conflict", "KeyAlreadyExists")),
        ("POST", f"/keys/kept//release{v}", {"target": "a.b.c"}, (403, "Forbidden", "refused")),
        ("GET", f"/keys/kept//attestation{v}", None, (403, "Forbidden", "refused")),
        ("GET", "/keys/kept//attestation?api-version=7.5", None, (400, "BadParameter", "format")),
        ("POST", f"/keys/dataset-x/rotate{v}", None, (403, "Forbidden", "refused")),
    ):
        assert error_of(request(bench, method, target, body)) == expected, target


def test_asks_for_a_token_with_the_challenge_that_clients_check(bench: KeyBench) -> None:
    for token in ("", "a.b.c"):
        answer = request(bench, "GET", "/keys?api-version=7.4", token=token)
        assert answer.status == 401
        assert answer.headers["www-authenticate"] == (
            f'Bearer authorization="{URL}/{bench.identity.identity}", resource="https://test:8443"'
        )


@pytest.mark.parametrize(
    ("url", "resource"),
    [
        ("https://vault1.kms.ns.svc:8443", "https://kms.ns.svc:8443"),
        ("https://v.vault.example", "https://vault.example"),
        ("https://localhost:1", "https://localhost:1"),
        ("https://127.0.0.1:8443", "https://127.0.0.1:8443"),
    ],
)
def test_the_challenges_resource_is_what_the_vaults_host_lies_below(url: str, resource: str) -> None:
    assert f'resource="{resource}"' in bearer_challenge(url, tenant="t")


@pytest.mark.parametrize(
    "body",
    [
        {"kty": "RSA", "crv": "P-256"},
        {"kty": "EC", "key_size": 256},
        {"kty": "EC", "crv": "P-224"},
        {"kty": "oct", "crv": "P-256"},
        {"kty": "oct", "public_exponent": 65537},
        {"kty": "RSA", "public_exponent": 3},
        {"kty": "OKP"},
        {"kty": "oct", "key_ops": ["deriveKey"]},
        {"kty": "EC", "key_ops": ["encrypt"]},
        {"kty": "oct", "key_ops": ["wrapKey", "wrapKey"]},
        {"kty": "oct", "unknown": 1},
        {"kty": "oct", "attributes": {"unknown": 1}},
        {"kty": "oct", "tags": {str(number): "" for number in range(16)}},
        {"kty": "oct", "tags": {"a": "b" * 513}},
        {"kty": "oct", "release_policy": {"data": "AAAA"}},
    ],
)
def test_refuses_to_create_what_the_contract_does_not_know(bench: KeyBench, body: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        ask(bench, "create", body, name="a-key")


@pytest.mark.parametrize("member", ["iv", "aad", "tag"])
def test_refuses_parameters_that_an_operation_does_not_have(bench: KeyBench, member: str) -> None:
    create(bench)
    value = to_b64url(bytes(32))
    for operation, algorithm in (("wrap", "A256KW"), ("unwrap", "A256KW"), ("encrypt", "A256CBCPAD")):
        if (operation, member) == ("encrypt", "iv"):
            continue
        with pytest.raises(FormatError):
            ask(bench, operation, {"alg": algorithm, "value": value, member: "AAAA"}, name="a-key")
    body = {"alg": "A256CBCPAD", "value": value, "iv": to_b64url(bytes(16))}
    assert ask(bench, "encrypt", body, name="a-key")["iv"] == body["iv"]


def test_refuses_what_another_hsm_protected(bench: KeyBench) -> None:
    with pytest.raises(FormatError, match="key_hsm"):
        ask(bench, "put", {"Hsm": True, "key": {"kty": "RSA-HSM", "key_hsm": "AAAA"}}, name="a-key")


def test_no_call_answers_without_an_owners_token(bench: KeyBench) -> None:
    for operation in bench.vault._operations:
        call = Call(path={"name": "a-key"}, query={"api-version": "7.6"}, authorization="", body=b"{}")
        with pytest.raises(StrongroomError, match="token"):
            bench.vault.run(operation, call)
