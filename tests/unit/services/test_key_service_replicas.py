"""Two replicas of the real key service on one PostgreSQL database: one log, one count, whoever dies."""

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.support.key_runs import Node, approve, described, ticket_for
from tests.support.postgres import PostgresServer
from tests.support.service_processes import CLOCK, Installation, RunningService, installation, start

from strongroom.base.errors import ConflictError, RefusedError, UnavailableError
from strongroom.cli.installation import free_port
from strongroom.crypto.keys import ReceivingKey
from strongroom.services.identity import open_identity
from strongroom.services.key_service import COMMON_NAME, open_state, read_settings
from strongroom.wire import key_service as wire

pytestmark = pytest.mark.needs_postgres
V1 = "/strongroom/v1"


class Replicas:
    """An installation whose key service runs twice: the same keys and database, each on a port of its own."""

    def __init__(self, installed: Installation, url: str) -> None:
        installed.keys.stop()
        self.installed, self.url = installed, url
        installed.keys = installed.start_keys(self._config(installed.keys.config, name="one"))
        self.other = self.start_other()
        self.receiving = ReceivingKey.generate_rsa()

    def start_other(self) -> RunningService:
        path = self._config(self.installed.keys.config, name="other")
        settings = json.loads(path.read_text())
        return start("key_service", path, url=settings["url"], state=Path(settings["state"]))

    @property
    def both(self) -> tuple[RunningService, RunningService]:
        return self.installed.keys, self.other

    def node(self, ticket: str, application: str, service: RunningService) -> Node:
        return Node(self.installed, ticket=ticket, application=application, receiving=self.receiving, service=service)

    def _config(self, base: Path, *, name: str) -> Path:
        port = free_port()
        settings: dict[str, Any] = json.loads(base.read_text())
        settings |= {
            "url": f"https://127.0.0.1:{port}",
            "port": port,
            "state": str(self.installed.folder / "shared"),
            "state_database": self.url,
        }
        path = self.installed.folder / f"{name}.json"
        path.write_text(json.dumps(settings))
        return path


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer) -> Iterator[Replicas]:
    with installation(tmp_path_factory.mktemp("installation")) as installed:
        made = Replicas(installed, postgres.new_database())
        yield made
        made.other.stop()


def checkpoint(service: RunningService) -> str:
    return service.http().request("GET", f"{V1}/log/checkpoint").require_success().decode()


def test_replicas_are_one_service(replicas: Replicas) -> None:
    one, other = replicas.both
    assert one.identity == other.identity
    replicas.installed.owner_client().create_dataset("shared")
    assert checkpoint(one) == checkpoint(other)
    application = described(replicas.installed, "shared")
    approve(replicas.installed, "shared", application, max_runs=1)
    ticket = ticket_for(replicas.installed, "shared", application.digest)
    driver = replicas.node(ticket, application.digest, one)
    request, role = driver.request()
    driver.client.join(request, role=role)
    late = replicas.node(ticket, application.digest, other)
    with pytest.raises(ConflictError, match="used before"):  # the ticket, at the other replica
        late.join()
    replayed = replicas.node(ticket, application.digest, other)
    replayed.client._signing_key = driver.signing
    with pytest.raises(RefusedError, match="used before"):  # the nonce, at the other replica
        replayed.client.join(request, role=role)
    executor = Node(replicas.installed, ticket=ticket, application=application.digest, service=other)
    executor.join(role="executor", driver_key=driver.signing.verifying_key.thumbprint)


def test_concurrent_openings_at_both_replicas_never_exceed_what_was_approved(replicas: Replicas) -> None:
    installed, name = replicas.installed, "contended"
    installed.owner_client().create_dataset(name)
    application = described(installed, name)
    approval = approve(installed, name, application, max_runs=3)

    def open_one(number: int) -> bool:
        ticket = ticket_for(installed, name, application.digest)
        try:
            replicas.node(ticket, application.digest, replicas.both[number % 2]).join()
        except RefusedError:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        opened = list(pool.map(open_one, range(12)))
    assert sum(opened) == 3
    used = {each["approval"]: each for each in installed.owner_client().approvals()["approvals"]}[approval]
    assert used["runs_opened"] == 3
    assert checkpoint(replicas.both[0]) == checkpoint(replicas.both[1])


def test_one_replica_killed_loses_nothing_and_the_other_goes_on(replicas: Replicas) -> None:
    installed = replicas.installed
    stopped, made = False, set()

    def make(number: int) -> None:
        nonlocal stopped
        service = replicas.both[number % 2]
        owner = type(installed.owner_client())(
            service.http(), identity=service.identity, key=installed.owner, clock=CLOCK
        )
        for each in range(200):
            name = f"made-{number}-{each}"
            try:
                owner.create_dataset(name)
            except UnavailableError:
                return  # its replica is gone
            made.add(name)
            if number == 0 and each == 20:
                stopped = True
                os.kill(replicas.other.process.pid, signal.SIGKILL)
            if stopped and each > 30:
                return

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(make, range(4)))
    assert stopped
    replicas.other.stop()
    assert made <= {each["dataset"] for each in installed.owner_client().datasets()["datasets"]}
    replicas.other = replicas.start_other()
    assert checkpoint(replicas.both[0]) == checkpoint(replicas.both[1])

    settings = read_settings(installed.keys.config)
    identity = open_identity(Path(settings.state), common_name=COMMON_NAME, sans=["127.0.0.1"], now=CLOCK.now())
    store = open_state(settings, identity)
    audited = store.audit()
    store.close()
    assert audited is not None
    assert audited.leaves > len(made)


def test_a_write_at_one_replica_is_read_at_the_other(replicas: Replicas) -> None:
    one, other = replicas.both
    installed = replicas.installed
    installed.owner_client().create_dataset("everywhere")
    answer = other.http().request(
        "GET", f"{V1}/datasets", headers={"Authorization": f"Bearer {installed.person_token()}"}
    )
    assert b'"everywhere"' in answer.require_success()
    assert isinstance(wire.Nonce.from_json(one.http().request("POST", f"{V1}/nonce").require_success()), wire.Nonce)
