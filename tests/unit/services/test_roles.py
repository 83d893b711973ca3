"""Every route of both services asks for the roles that the reference page says, and the page knows every route."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Route
from tests.support.asgi import send
from tests.support.attestation_service import Installation
from tests.support.platform import NOW, Bench

from strongroom.clients.owner import person_token
from strongroom.crypto.keys import SigningKey
from strongroom.services.key_service import KeyService, KeyServiceSettings, build, launch
from strongroom.services.people import PersonSettings, Role

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "people.md"
ROW = re.compile(r"^\| `(\S+) (\S+)` \| ([^|]+) \|$", re.MULTILINE)
ANYBODY, TEES = "anybody", "TEEs"
VALUES = {"type": "SgxEnclave", "name": "nothing", "version": "0" * 32, "run": "0" * 64, "approval": "0" * 32}
CHANGING = {"POST", "PUT", "PATCH", "DELETE"}
OPEN_POSTS = {"/strongroom/v1/nonce", "/attest/", "/strongroom/v1/attest/", "/strongroom/v1/ear/"}
"""What anybody may post: it is answered, and nothing is kept."""


class _Clock:
    def now(self) -> Any:
        return NOW


@dataclass(frozen=True, kw_only=True)
class Service:
    """A service in this process, and a person for each role."""

    app: Any
    identity: str
    keys: Mapping[Role, SigningKey]

    def status(self, method: str, path: str, role: Role | None) -> int:
        headers = {}
        if role is not None:
            token = person_token(self.keys[role], audience=self.identity, clock=_Clock())
            headers["authorization"] = f"Bearer {token}"
        target = re.sub(r"\{(\w+)\}", lambda name: VALUES.get(name[1], "0"), path)
        return send(self.app, method, f"{target}?api-version=2025-06-01", b"{}", headers=headers).status

    def routes(self) -> Iterator[tuple[str, str]]:
        app = self.app
        assert isinstance(app, Starlette)
        for route in app.routes:
            assert isinstance(route, Route)
            for method in sorted((route.methods or set()) - {"HEAD"}):
                yield method, route.path


def people(keys: Mapping[Role, SigningKey]) -> tuple[PersonSettings, ...]:
    return tuple(
        PersonSettings(name=role.value, roles=(role,), key=key.verifying_key.to_jwk()) for role, key in keys.items()
    )


def table(heading: str) -> list[tuple[str, str, set[str]]]:
    """The rows of one of the page's tables: method, path, who."""
    text = PAGE.read_text(encoding="utf-8")
    part = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return [(method, path, {who.strip() for who in each.split(",")}) for method, path, each in ROW.findall(part)]


def row_of(rows: list[tuple[str, str, set[str]]], method: str, path: str) -> int:
    """The row that speaks of a route; an exact one counts before one that ends in "…"."""
    for number, (said, place, _) in enumerate(rows):
        if said == method and place == path:
            return number
    for number, (said, place, _) in enumerate(rows):
        if said in {method, "*"} and place.endswith("…") and path.startswith(place.removesuffix("…")):
            return number
    raise AssertionError(f"docs/reference/people.md does not say who may {method} {path}")


@pytest.fixture(scope="module")
def keys() -> dict[Role, SigningKey]:
    return {role: SigningKey.generate("ES256") for role in Role}


@pytest.fixture(scope="module")
def key_service(keys: dict[Role, SigningKey], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("key-service")
    settings = {
        "version": 1,
        "url": "https://127.0.0.1:8443",
        "host": "127.0.0.1",
        "port": 8443,
        "state": str(folder / "state"),
        "master_key": f"file://{folder}/mek",
        "people": [json.loads(person.to_json()) for person in people(keys)],
        "attestation_services": [{"url": "https://a.test", "kind": "azure-attestation"}],
        "mode": "owner-operated",
        "hardware": "simulated",
        "platform": None,
    }
    launched = launch(KeyServiceSettings.from_object(settings))
    made: KeyService = build(launched, clock=_Clock(), unlocked=None)
    yield Service(app=made.app, identity=made.identity.identity, keys=keys)
    made.store.close()


@pytest.fixture(scope="module")
def attestation_service(keys: dict[Role, SigningKey], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    made = Installation(tmp_path_factory.mktemp("attestation"), Bench.new())
    made.restart(owners=(), people=people(keys))
    yield Service(app=made.application(), identity=made.identity.identity, keys=keys)
    made.store.close()


@pytest.fixture(params=["Key service", "Attestation service"])
def service(request: pytest.FixtureRequest) -> tuple[str, Service]:
    name = "key_service" if request.param == "Key service" else "attestation_service"
    found: Service = request.getfixturevalue(name)
    return request.param, found


def test_every_route_asks_for_the_roles_that_the_page_says(service: tuple[str, Service]) -> None:
    heading, found = service
    rows = table(heading)
    spoken_of: set[int] = set()
    for method, path in found.routes():
        number = row_of(rows, method, path)
        spoken_of.add(number)
        who = rows[number][2]
        what = f"{method} {path}"
        if who & {ANYBODY, TEES}:
            assert len(who) == 1, what
            assert len({found.status(method, path, role) for role in (None, *Role)}) == 1, what
            continue
        assert who <= set(Role), what
        assert found.status(method, path, None) == 401, what
        for role in Role:
            status = found.status(method, path, role)
            assert (status == 403) == (role.value not in who), f"{what} as {role}: {status}"
            assert status != 401, what

    assert [rows[number][:2] for number in range(len(rows)) if number not in spoken_of] == []


def test_nothing_that_changes_anything_is_open(service: tuple[str, Service]) -> None:
    heading, found = service
    rows = table(heading)
    for method, path in found.routes():
        who = rows[row_of(rows, method, path)][2]
        if method in CHANGING and ANYBODY in who:
            assert any(path.startswith(place) for place in OPEN_POSTS), f"{method} {path} is open"
        if TEES in who:
            assert found.status(method, path, Role.OWNER) in {400, 403, 404}, f"{method} {path} takes a person's word"
