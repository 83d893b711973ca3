import json
from pathlib import Path
from typing import Any

import pytest

from strongroom.base.errors import ConfigurationError
from strongroom.cli.people import owner_thumbprints, read_people
from strongroom.cli.state import State
from strongroom.crypto.keys import SigningKey
from strongroom.services.people import Role, configured_people

OWNER = SigningKey.generate("ES256").verifying_key
ALICE = SigningKey.generate("ES256").verifying_key
CAROL = SigningKey.generate("ES256").verifying_key


@pytest.fixture
def state(tmp_path: Path) -> State:
    made = State(root=tmp_path)
    made.owner.mkdir()
    return made


def write(state: State, *people: dict[str, Any], **more: Any) -> None:
    state.people.write_text(json.dumps({"people": list(people), **more}))


def test_without_a_file_the_owner_is_everybody(state: State) -> None:
    found = read_people(state, owner=OWNER)

    (person,) = configured_people(found.owners, found.people)
    assert person.roles == frozenset(Role)
    assert owner_thumbprints(found) == (OWNER.thumbprint,)


def test_further_people_stand_beside_the_owner(state: State) -> None:
    write(
        state,
        {"name": "alice", "roles": ["approver"], "key": ALICE.to_jwk()},
        {"name": "carol", "roles": ["auditor"], "key": CAROL.to_jwk()},
    )
    found = read_people(state, owner=OWNER)

    assert {each.name for each in configured_people(found.owners, found.people)} >= {"alice", "carol"}
    assert set(owner_thumbprints(found)) == {OWNER.thumbprint, ALICE.thumbprint}  # who signs approvals, not the auditor


def test_the_owner_may_have_a_name_and_a_sign_in(state: State) -> None:
    subject = {"issuer": "https://login.example.org", "subject": "8f1c"}
    write(state, {"name": "me", "roles": ["owner", "auditor"], "key": OWNER.to_jwk(), "signs_in": subject})
    found = read_people(state, owner=OWNER)

    (person,) = configured_people(found.owners, found.people)
    assert (person.name, person.identity) == ("me", OWNER.thumbprint)
    assert person.subject == ("https://login.example.org", "8f1c")


def test_refuses_a_file_that_takes_the_ownership_from_everybody(state: State) -> None:
    write(state, {"name": "me", "roles": ["auditor"], "key": OWNER.to_jwk()})

    with pytest.raises(ConfigurationError, match="names no owner"):
        read_people(state, owner=OWNER)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"people": [{"name": "alice", "roles": ["owner"]}]}',
        '{"people": [{"name": "alice", "roles": [], "signs_in": {"issuer": "https://a.test", "subject": "x"}}]}',
        '{"people": [{"name": "a@b", "roles": ["owner"], "signs_in": {"issuer": "https://a.test", "subject": "x"}}]}',
        '{"people": [{"name": "alice", "roles": ["king"], "signs_in": {"issuer": "https://a.test", "subject": "x"}}]}',
        '{"people": [{"name": "alice", "roles": ["owner"], "key": {"kty": "EC"}}]}',
        '{"people": [], "issuers": [{"issuer": "http://a.test", "audience": "a", "clients": ["c"]}]}',
        '{"people": [], "issuers": [{"issuer": "https://a.test", "audience": "c", "clients": ["c"]}]}',
        '{"people": [], "kings": []}',
    ],
)
def test_refuses_a_file_that_says_too_little_or_too_much(state: State, content: str) -> None:
    state.people.write_text(content)

    with pytest.raises(ConfigurationError, match="people"):
        read_people(state, owner=OWNER)
