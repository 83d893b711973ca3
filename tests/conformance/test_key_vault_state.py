"""What Key Vault's contract keeps, on every database that the state can be in."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.key_service import KeyBench
from tests.support.postgres import PostgresServer

from strongroom.base.encoding import to_b64url
from strongroom.base.errors import ConflictError, NotFoundError, RefusedError


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.needs_postgres)])
def bench(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[KeyBench]:
    server: PostgresServer | None = None if request.param == "sqlite" else request.getfixturevalue("postgres")
    made = KeyBench(tmp_path, place=server.new_database() if server else None)
    yield made
    made.store.close()


def ask(bench: KeyBench, operation: str, body: Any = None, *, query: dict[str, str] | None = None, **path: str) -> Any:
    asked = {"api-version": "7.6", **(query or {})}
    return bench.vault.run(operation, bench.person({} if body is None else body, query=asked, **path))


def create(bench: KeyBench, name: str, **changed: Any) -> Any:
    return ask(bench, "create", {"kty": "oct", "key_size": 256, **changed}, name=name)


def names(page: Any) -> list[str]:
    return [entry["kid"].rsplit("/", 1)[1] for entry in page["value"]]


def test_a_key_lives_through_everything_and_a_restart(bench: KeyBench) -> None:
    first, newest = create(bench, "a-key"), create(bench, "a-key", tags={"a": "b"})
    actions = [{"trigger": {"timeAfterCreate": "P30D"}, "action": {"type": "Rotate"}}]
    ask(bench, "put_policy", {"lifetimeActions": actions}, name="a-key")
    blob = ask(bench, "backup", name="a-key")["value"]
    ask(bench, "delete", name="a-key")
    bench.restart()
    assert names(ask(bench, "deleted_keys")) == ["a-key"]
    with pytest.raises(ConflictError):
        create(bench, "a-key")
    assert ask(bench, "recover", name="a-key") == newest
    assert ask(bench, "get", name="a-key", version=first["key"]["kid"].rsplit("/", 1)[1]) == first
    with pytest.raises(ConflictError):
        ask(bench, "restore", {"value": blob})
    ask(bench, "delete", name="a-key")
    ask(bench, "purge", name="a-key")
    assert ask(bench, "restore", {"value": blob}) == newest
    bench.restart()
    bench.clock.advance(days=31)
    assert len(ask(bench, "versions", name="a-key")["value"]) == 3  # rotated: it was due
    assert bench.store.audit() is not None


def test_deleted_keys_go_by_the_clock(bench: KeyBench) -> None:
    for name in ("a-key", "b-key"):
        create(bench, name)
        ask(bench, "delete", name=name)
        bench.clock.advance(days=1)
    bench.clock.advance(days=87)
    assert names(ask(bench, "deleted_keys")) == ["a-key", "b-key"]
    bench.clock.advance(days=1)
    assert names(ask(bench, "deleted_keys")) == ["b-key"]
    create(bench, "a-key")


def test_lists_go_by_name_and_by_number(bench: KeyBench) -> None:
    for name in ("b", "B", "a-1", "a1", "A"):
        create(bench, name)
        create(bench, name)
    pages, query = [], {"maxresults": "2"}
    while True:
        page = ask(bench, "keys", query=query)
        pages += names(page)
        if page["nextLink"] is None:
            break
        query["$skiptoken"] = page["nextLink"].split("$skiptoken=")[1].split("&")[0]
    assert pages == sorted(pages) == ["A", "B", "a-1", "a1", "b"]
    second = ask(bench, "versions", query={"maxresults": "1", "$skiptoken": to_b64url(b"1")}, name="b")["value"]
    assert second[0]["kid"] == ask(bench, "get", name="b")["key"]["kid"]


def test_lists_a_key_whose_first_version_was_destroyed(bench: KeyBench) -> None:
    bench.create_dataset("trips")
    with bench.store.transaction() as tx:
        first = tx.key("dataset-trips")
        newer = first.record.model_copy(update={"version": "0" * 32, "number": 2})
        tx.add_key(newer, first.material)
        tx.destroy_key(first.record)
    assert names(ask(bench, "keys")) == ["dataset-trips"]
    assert len(ask(bench, "versions", name="dataset-trips")["value"]) == 1


def test_an_immutable_policy_is_remembered_after_the_key(bench: KeyBench) -> None:
    document = b'{"version":"1.0.0","anyOf":[{"authority":"https://a","allOf":[{"claim":"a","equals":1}]}]}'
    policy = {"data": to_b64url(document)}
    create(bench, "a-key", attributes={"exportable": True}, release_policy=policy)
    before = ask(bench, "backup", name="a-key")["value"]
    ask(bench, "update", {"release_policy": {**policy, "immutable": True}}, name="a-key")
    ask(bench, "delete", name="a-key")
    ask(bench, "purge", name="a-key")
    bench.restart()
    with pytest.raises(RefusedError, match="immutable"):
        ask(bench, "restore", {"value": before})
    with pytest.raises(NotFoundError):
        ask(bench, "get", name="a-key")
