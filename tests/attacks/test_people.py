"""Several people at one key service: what is one owner's is nobody else's, and a role does what it says and no more."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.asgi import send
from tests.support.key_service import KeyBench, Tee, receiving_key, run_of

from strongroom.base.encoding import canonical_json, parse_json_object
from strongroom.base.errors import ConflictError, NotFoundError, RefusedError, StrongroomError
from strongroom.crypto.jose import sign_jws
from strongroom.crypto.keys import SigningKey
from strongroom.log.rotation import sign_rotation
from strongroom.services.errors import Reply, azure_error
from strongroom.services.http import Call, application
from strongroom.services.log_desk import LogDesk
from strongroom.services.people import People, PersonSettings, configured_people
from strongroom.services.rotations import RotationDesk
from strongroom.services.sign_in import TokenIssuers
from strongroom.wire import key_service as wire
from strongroom.wire.rotation import RotationRequest

NAMES = ("owner", "other", "approver", "submitter", "stranger", "auditor")


class Door:
    """A key service with the dataset `trips` of its owner, a run on it, and other people at its door."""

    def __init__(self, bench: KeyBench) -> None:
        self.bench = bench
        self.keys = {name: SigningKey.generate("ES256") for name in NAMES}
        self.keys |= {"owner": bench.owner, "submitter": bench.submitter}
        roles = {
            "owner": ("owner", "approver", "submitter"),
            "other": ("owner", "approver", "submitter"),
            "stranger": ("submitter",),
        }
        people = [
            PersonSettings.from_object(
                {"name": name, "roles": list(roles.get(name, (name,))), "key": key.verifying_key.to_jwk()}
            )
            for name, key in self.keys.items()
        ]
        bench.restart_with(
            People(
                configured_people([], people),
                audience=bench.identity.identity,
                issuers=TokenIssuers([], clock=bench.clock),
                clock=bench.clock,
            )
        )
        self.approval, _ = bench.prepare()
        self.ticket = bench.ticket()
        self.driver = Tee()
        bench.open(self.driver, self.ticket)

    def call(self, who: str, body: Any = None, /, *, query: dict[str, str] | None = None, **path: str) -> Call:
        content = b"" if body is None else canonical_json(body) if isinstance(body, dict) else body.to_json()
        token = self.bench.token(self.keys[who])
        return Call(path=path, query=query or {}, authorization=f"Bearer {token}", body=content)


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    bench = KeyBench(tmp_path)
    yield Door(bench)
    bench.store.close()


# --- what is another owner's -----------------------------------------------------------------------------------------


def versions(door: Door, name: str) -> Reply:
    return door.bench.datasets.versions(door.call(name, name="trips"))


def start_write(door: Door, name: str) -> Reply:
    request = wire.OwnerWriteRequest(recipient=receiving_key(9).public_jwk)
    return door.bench.datasets.start_write(door.call(name, request, name="trips"))


def unwrap(door: Door, name: str) -> Reply:
    version = wire.WrittenDataset(number=1, write_keys={door.bench.trips.write_id: door.bench.trips.wrapped})
    request = wire.OwnerUnwrapRequest(recipient=receiving_key(9).public_jwk, version=version)
    return door.bench.datasets.unwrap(door.call(name, request, name="trips"))


def commit(door: Door, name: str) -> Reply:
    asked = wire.Commit(dataset="trips", base=1, manifest_digest="0" * 64, write_ids=(door.bench.trips.write_id,))
    return door.bench.datasets.commit(door.call(name, wire.OwnerCommit(commit=asked), name="trips"))


def revoke(door: Door, name: str) -> Reply:
    return door.bench.approvals.revoke(door.call(name, {}, approval=door.approval))


def run(door: Door, name: str) -> Reply:
    return door.bench.owners.run(door.call(name, run=run_of(door.ticket)))


OF_AN_OWNER = [versions, start_write, unwrap, commit, revoke, run]


@pytest.mark.parametrize("ask", OF_AN_OWNER, ids=lambda ask: ask.__name__)
def test_another_owner_neither_sees_nor_changes_what_is_not_his(door: Door, ask: Callable[[Door, str], Reply]) -> None:
    if ask is not commit:  # whose write key is used up here
        assert ask(door, "owner").status < 300
    with pytest.raises(NotFoundError, match=r"no such|there is no dataset trips"):
        ask(door, "other")


def test_what_is_anothers_is_answered_like_what_does_not_exist(door: Door) -> None:
    def answer(name: str) -> str:
        with pytest.raises(NotFoundError) as refusal:
            door.bench.datasets.versions(door.call("other", name=name))
        return refusal.value.message.replace(name, "NAME")

    assert answer("trips") == answer("nowhere")


def test_lists_hold_what_is_ones_own(door: Door) -> None:
    def listed(name: str) -> list[int]:
        replies = (
            (door.bench.datasets.datasets(door.call(name)), "datasets"),
            (door.bench.approvals.approvals(door.call(name)), "approvals"),
            (door.bench.owners.runs(door.call(name)), "runs"),
        )
        return [len(parse_json_object(reply.body)[what]) for reply, what in replies]

    assert listed("owner") == listed("auditor") == [2, 2, 1]
    assert listed("other") == [0, 0, 0]


def test_another_owners_approval_frees_nothing(door: Door) -> None:
    """Signed with his own key, sent by himself."""
    approval = door.bench.approval("trips", "read")
    key = door.keys["other"]
    header = {"typ": wire.APPROVAL_TYP, "kid": key.verifying_key.thumbprint}
    token = sign_jws(approval.to_json(), key=key, header=header)
    upload = wire.ApprovalUpload(approval=token, application=door.bench.description().to_json().decode())
    with pytest.raises(NotFoundError):
        door.bench.approvals.approve(door.call("other", upload))


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/keys/dataset-trips"),
        ("PATCH", "/keys/dataset-trips"),
        ("POST", "/keys/dataset-trips/wrapkey"),
        ("POST", "/keys/dataset-trips/unwrapkey"),
        ("POST", "/keys/dataset-trips/create"),
    ],
)
def test_the_key_of_anothers_dataset_is_not_found_over_key_vaults_contract(door: Door, method: str, path: str) -> None:
    app = application(door.bench.vault.routes(), shape_for=lambda _: azure_error)
    body = canonical_json({"attributes": {"enabled": False}} if method == "PATCH" else {"kty": "oct-HSM"})

    def status(name: str) -> int:
        headers = {"authorization": f"Bearer {door.bench.token(door.keys[name])}"}
        return send(app, method, f"{path}?api-version=7.4", body, headers=headers).status

    assert status("owner") != 404
    assert status("other") == 404
    assert parse_json_object(send_keys(app, door, "other"))["value"] == []
    assert parse_json_object(send_keys(app, door, "owner"))["value"] != []


def send_keys(app: Any, door: Door, name: str) -> bytes:
    headers = {"authorization": f"Bearer {door.bench.token(door.keys[name])}"}
    return send(app, "GET", "/keys?api-version=7.4", headers=headers).body


# --- roles -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["submitter", "auditor", "approver"])
@pytest.mark.parametrize("ask", [start_write, unwrap, commit], ids=lambda ask: ask.__name__)
def test_only_an_owner_gets_keys_or_writes(door: Door, ask: Callable[[Door, str], Reply], name: str) -> None:
    with pytest.raises(RefusedError) as refusal:
        ask(door, name)
    assert [each.name for each in refusal.value.mismatches] == ["role"]


def test_an_auditor_changes_nothing(door: Door) -> None:
    with pytest.raises(RefusedError):
        door.bench.datasets.create_dataset(door.call("auditor", wire.NewDataset(dataset="mine")))
    with pytest.raises(RefusedError):
        revoke(door, "auditor")


def test_only_an_auditor_reads_the_log(door: Door) -> None:
    asked = {"start": "0", "end": "100"}
    leaves = parse_json_object(LogDesk(door.bench.desk).leaves(door.call("auditor", query=asked)).body)["leaves"]
    assert len(leaves) > 3
    for name in ("owner", "other", "approver", "submitter"):
        with pytest.raises(RefusedError):
            LogDesk(door.bench.desk).leaves(door.call(name, query=asked))


def test_a_submitter_sees_the_runs_that_he_submitted(door: Door) -> None:
    assert run(door, "submitter").status == 200
    with pytest.raises(NotFoundError):
        run(door, "stranger")
    assert parse_json_object(door.bench.owners.runs(door.call("stranger")).body)["runs"] == []


def test_who_was_an_owner_when_he_approved_and_is_none_any_more_frees_nothing(door: Door) -> None:
    """His approvals fall with him: nobody's key stays good for what he signed before."""
    bench = door.bench
    key = door.keys["other"].verifying_key.to_jwk()
    left = [PersonSettings.from_object({"name": "other", "roles": ["owner"], "key": key})]
    bench.restart_with(
        People(
            configured_people([], left),
            audience=bench.identity.identity,
            issuers=TokenIssuers([], clock=bench.clock),
            clock=bench.clock,
        )
    )
    with pytest.raises(StrongroomError):
        bench.keys(door.driver, door.ticket)
    with pytest.raises(StrongroomError):
        bench.open(Tee(), bench.ticket())


# --- a key that was replaced -----------------------------------------------------------------------------------------


def configure(door: Door, *keys: SigningKey) -> None:
    """Start the service with owners of these keys alone."""
    bench = door.bench
    people = configured_people([key.verifying_key.to_jwk() for key in keys], [])
    bench.restart_with(
        People(
            people,
            audience=bench.identity.identity,
            issuers=TokenIssuers([], clock=bench.clock),
            clock=bench.clock,
        )
    )


def test_who_replaced_his_key_by_a_logged_statement_keeps_what_is_his(door: Door) -> None:
    bench, new, stranger = door.bench, SigningKey.generate("ES256"), SigningKey.generate("ES256")
    statement = sign_rotation("owner", old=door.keys["owner"], new=new, now=bench.clock.now())
    request = RotationRequest(statement=statement)
    desk = RotationDesk(bench.desk, believed=(), successor=None)
    with pytest.raises(RefusedError):  # on another owner's word
        desk.rotate(door.call("other", request))
    desk.rotate(door.call("owner", request))

    configure(door, new, stranger)
    door.keys |= {"owner": new, "other": stranger}
    assert versions(door, "owner").status == 200
    assert start_write(door, "owner").status == 200
    with pytest.raises(NotFoundError):
        versions(door, "other")


def test_a_key_that_was_replaced_is_not_replaced_again_and_follows_no_other(door: Door) -> None:
    """Chains of keys would otherwise fork, or run in a circle."""
    bench, old, new, third = door.bench, door.keys["owner"], SigningKey.generate("ES256"), SigningKey.generate("ES256")
    desk = RotationDesk(bench.desk, believed=(), successor=None)

    def rotate(before: SigningKey, after: SigningKey) -> Reply:
        statement = sign_rotation("owner", old=before, new=after, now=bench.clock.now())
        return desk.rotate(door.call("owner", RotationRequest(statement=statement)))

    assert rotate(old, new).status == 201
    with pytest.raises(ConflictError, match="replaced before"):
        rotate(old, third)
    configure(door, new)
    desk, door.keys["owner"] = RotationDesk(bench.desk, believed=(), successor=None), new
    with pytest.raises(ConflictError, match="replaced before"):
        rotate(new, old)
    assert rotate(new, third).status == 201


def test_a_new_key_without_a_logged_statement_is_somebody_else(door: Door) -> None:
    new = SigningKey.generate("ES256")
    configure(door, new)
    door.keys["owner"] = new
    with pytest.raises(NotFoundError):
        start_write(door, "owner")
