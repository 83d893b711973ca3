"""Two replicas of the real attestation service on one PostgreSQL database: one policy, one identity, a key for each."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.postgres import PostgresServer
from tests.support.service_processes import Installation, RunningService, installation, start

from strongroom.base.errors import RefusedError, StrongroomError, UnavailableError
from strongroom.cli.installation import free_port
from strongroom.clients.attestation import AttestationClient
from strongroom.crypto.jose import unverified_header

pytestmark = pytest.mark.needs_postgres

RUNTIME = b'{"job":"taxi"}'
DENY = "version= 1.0;\nauthorizationrules\n{\n\t=> deny();\n};\nissuancerules\n{\n};\n"


class Replicas:
    """An installation whose attestation service runs twice; the address of the first is the issuer of both."""

    def __init__(self, installed: Installation) -> None:
        self.installed = installed
        self.other = self.start_other()

    def start_other(self) -> RunningService:
        settings = json.loads(self.installed.attestation.config.read_text())
        port = free_port()
        path = self.installed.folder / f"other-{port}.json"
        path.write_text(json.dumps({**settings, "port": port}))
        url = f"https://127.0.0.1:{port}"
        return start("attestation_service", path, url=url, state=Path(settings["state"]))

    def attest(self, service: RunningService) -> str:
        return AttestationClient(service.http()).attest(self.installed.evidence(RUNTIME))

    @property
    def both(self) -> tuple[RunningService, RunningService]:
        return self.installed.attestation, self.other


@pytest.fixture
def replicas(tmp_path: Path, postgres: PostgresServer) -> Iterator[Replicas]:
    with installation(tmp_path, state_database=postgres.new_database()) as installed:
        made = Replicas(installed)
        yield made
        made.other.stop()


def soon(replicas: Replicas, service: RunningService, *, permitted: bool) -> None:
    """Wait, for two seconds at most, until a replica knows of a change."""
    end = time.monotonic() + 2
    while True:
        try:
            replicas.attest(service)
            found = True
        except RefusedError:
            found = False
        if found == permitted:
            return
        assert time.monotonic() < end
        time.sleep(0.05)


def test_replicas_have_one_identity_and_each_signs_with_a_key_of_its_own(replicas: Replicas) -> None:
    one, other = replicas.both
    believed = replicas.installed.issuers()
    assert one.identity == other.identity
    results = [replicas.attest(service) for service in (one, other, one, other)]
    kids = [str(unverified_header(result)["kid"]) for result in results]
    assert kids[0] == kids[2] != kids[1] == kids[3]
    for result in results:
        believed.verify(result)
    for service in replicas.both:
        published = json.loads(service.http().request("GET", "/certs").require_success())["keys"]
        assert {key["kid"] for key in published} == {kids[0], kids[1]}


def test_no_replicas_signing_key_is_on_a_disk(replicas: Replicas) -> None:
    state = replicas.installed.folder / "attestation"
    before = {path.name: path.read_bytes() for path in state.iterdir()}
    replicas.installed.rotate_signing_key()
    assert {path.name: path.read_bytes() for path in state.iterdir()} == before


def test_a_policy_that_one_replica_took_holds_at_the_other(replicas: Replicas) -> None:
    one, other = replicas.both
    replicas.attest(other)
    AttestationClient(one.http()).set_policy(
        replicas.installed.policy_token(DENY), token=replicas.installed.attestation_token(), tee="sgx"
    )
    with pytest.raises(RefusedError):
        replicas.attest(one)
    soon(replicas, other, permitted=False)
    replicas.installed.set_policy()
    soon(replicas, other, permitted=True)


def test_results_of_a_replica_that_is_gone_stay_good(replicas: Replicas) -> None:
    result = replicas.attest(replicas.other)
    replicas.other.process.kill()
    replicas.other.stop()
    replicas.installed.issuers().verify(result)
    replicas.other = replicas.start_other()
    replicas.installed.issuers().verify(replicas.attest(replicas.other))


def test_a_key_that_was_forgotten_while_it_signed_nothing_is_published_when_it_signs(replicas: Replicas) -> None:
    time.sleep(1.1)  # times in the database are whole seconds
    third = replicas.start_other()  # which forgets the keys that no living token was signed with
    try:
        result = replicas.attest(replicas.other)
        kid = unverified_header(result)["kid"]
        for service in (*replicas.both, third):
            published = json.loads(service.http().request("GET", "/certs").require_success())["keys"]
            assert kid in {key["kid"] for key in published}
        replicas.installed.issuers().verify(result)
    finally:
        third.stop()


def test_without_its_database_a_replica_attests_nothing(replicas: Replicas, postgres: PostgresServer) -> None:
    replicas.attest(replicas.other)
    postgres.stop(mode="immediate")
    try:
        time.sleep(1.1)
        with pytest.raises(StrongroomError) as refused:
            replicas.attest(replicas.other)
        assert isinstance(refused.value, UnavailableError)
        assert replicas.other.http().request("GET", "/readyz").status == 503
        assert replicas.other.http().request("GET", "/healthz").status == 200
    finally:
        postgres.start()
    soon(replicas, replicas.other, permitted=True)
