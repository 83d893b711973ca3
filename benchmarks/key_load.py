"""The key service as a process of its own, with open runs, and callers who ask it over HTTPS."""

import hashlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any, Final, Literal

from appraisals import pinned
from load import Loop, Prepared, Service, free_port
from machines import MRENCLAVE, Machines, long_policy
from sessions import BenchmarkError
from typing_extensions import override

from strongroom.application.description import ApplicationDescription, DatasetBinding, PackagedFile
from strongroom.attestation.evidence.unverified import UnverifiedEvidence
from strongroom.base.clock import SystemClock, to_rfc3339
from strongroom.base.encoding import canonical_json, parse_json_object, to_b64url
from strongroom.clients.attestation import AttestationClient
from strongroom.clients.key_service import TeeKeyServiceClient
from strongroom.clients.owner import OwnerClient, person_token
from strongroom.clients.pinned import Response
from strongroom.clients.statements import ServiceStatements
from strongroom.crypto.derive import sha256_hex
from strongroom.crypto.jose import sign_jws, unverified_payload
from strongroom.crypto.keys import ReceivingKey, SigningKey
from strongroom.crypto.random import random_bytes, random_id
from strongroom.policy.approval import Approval
from strongroom.wire import key_service as wire
from strongroom.wire.runtime_data import Role, RuntimeData
from strongroom.wire.ticket import TICKET_TYP, RunTicket

DATASET: Final = "trips"
VERIFIED_SHARE: Final = 50
"""Of so many releases, the service's signature over one is verified; run and key are compared in each."""
_CLOCK: Final = SystemClock()
_RUNS: Final = 8
_MAX_RUNS: Final = 1000
_MAX_EXECUTORS: Final = 1000
_FRESH_S: Final = 20.0
"""So long a signed request is sent again and again; the service takes it for a minute."""
_KEY_NAME: Final = "bench"

Wrapping = Literal["A256KW", "RSA-OAEP-256"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A TEE that joined a run.

    Attributes:
        ticket: The run's ticket.
        run: Its digest.
        signing: The TEE's signing key.
        tee_key: The name of the key that its secrets are sealed to.
        client: Its connection to the key service.
    """

    ticket: str
    run: str
    signing: SigningKey
    tee_key: str
    client: TeeKeyServiceClient


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyServer:
    """A running key service with open runs that read one dataset.

    Attributes:
        owner: Its owner's key.
        version: What the runs are bound to.
        members: A driver of each run.
        runs: Opens further ones.
    """

    service: Service
    owner: SigningKey
    version: wire.WrittenDataset
    members: Sequence[Member]
    runs: "Runs"


@contextmanager
def running_key_service(
    machines: Machines, attestation: Service, folder: Path, *, core: int, database: str | None
) -> Iterator[KeyServer]:
    """Start a key service on one core and open runs at it; end it afterwards.

    Args:
        machines: Whose evidence opens the runs.
        attestation: A running attestation service whose policy permits them.
        folder: A new folder for its configuration and state.
        core: The core.
        database: A PostgreSQL URL; SQLite without one.

    Raises:
        BenchmarkError: It did not start.
    """
    folder.mkdir()
    owner = SigningKey.generate("ES256")
    config = write_config(folder, attestation, owner=owner, database=database)
    service = start_key_service(config, core=core)
    try:
        client = OwnerClient(service.http(), identity=service.identity, key=owner, clock=_CLOCK)
        client.create_dataset(DATASET)
        write = client.start_write(DATASET)
        digest = sha256_hex(b"a manifest")
        client.commit(
            DATASET, wire.Commit(dataset=DATASET, base=None, manifest_digest=digest, write_ids=(write.write_id,))
        )
        version = wire.WrittenDataset(number=1, write_keys={write.write_id: write.wrapped})
        runs = Runs(machines, attestation, service, client, owner=owner)
        members = [runs.open() for _ in range(_RUNS)]
        yield KeyServer(service=service, owner=owner, version=version, members=members, runs=runs)
    finally:
        service.stop()


def write_config(folder: Path, attestation: Service, *, owner: SigningKey, database: str | None) -> Path:
    """Write a key service's configuration into a folder."""
    port = free_port()
    config: dict[str, Any] = {
        "version": 1,
        "url": f"https://127.0.0.1:{port}",
        "host": "127.0.0.1",
        "port": port,
        "state": str(folder / "state"),
        "state_database": database,
        "master_key": f"file://{folder}/mek",
        "owners": [owner.verifying_key.to_jwk()],
        "attestation_services": [
            {
                "url": attestation.url,
                "identity": attestation.identity,
                "certificate_pem": attestation.certificate_pem,
            }
        ],
        "mode": "owner-operated",
        "hardware": "simulated",
        "platform": None,
    }
    path = folder / "keys.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    return path


def start_key_service(config: Path, *, core: int) -> Service:
    """Start a key service with its configuration; it is ready when this returns."""
    settings = json.loads(config.read_text(encoding="utf-8"))
    command = [sys.executable, "-I", "-m", "strongroom.services.key_service", "--config", str(config)]
    with (config.parent / "service.log").open("ab") as log, pinned(core):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    return Service(config.parent, process, url=settings["url"])


class Runs:
    """Opens runs and joins them, each TEE with fresh evidence. Threads may share it."""

    def __init__(
        self, machines: Machines, attestation: Service, service: Service, client: OwnerClient, *, owner: SigningKey
    ) -> None:
        self._machines, self._service, self._owner = machines, service, owner
        self._attestation = attestation
        self._receiving = ReceivingKey.generate_rsa()
        self._application = ApplicationDescription(
            name="report",
            entry_point="report.py",
            files=(PackagedFile(name="report.py", size_bytes=1, sha256=sha256_hex(b"x"), use="entry-point"),),
            arguments=(),
            environment={},
            settings={},
            datasets={DATASET: DatasetBinding(key_service=service.identity, access="read", version=None)},
            log_level="WARN",
        )
        client.approve(
            Approval(
                dataset=DATASET,
                key_service=service.identity,
                application=self._application.digest,
                access="read",
                evidence_policy_hash=_policy_hash(),
                attestation_issuer=attestation.url,
                hardware="simulated",
                shape="process",
                max_runs=_MAX_RUNS,
                max_executors=_MAX_EXECUTORS,
                submitters=(owner.verifying_key.thumbprint,),
                issued_at=to_rfc3339(_CLOCK.now()),
            ),
            application=self._application.to_json().decode(),
        )

    def open(self, *, executors: int = 1) -> Member:
        """Open one run as its driver; so many executors may join it."""
        return self._join(self._ticket(executors), driver=None, receiving=self._receiving)

    def join(self, driver: Member, *, receiving: ReceivingKey) -> Member:
        """Join a driver's run as an executor, on connections of its own."""
        return self._join(driver.ticket, driver=driver, receiving=receiving)

    def _join(self, ticket: str, *, driver: Member | None, receiving: ReceivingKey) -> Member:
        run, signing = sha256_hex(unverified_payload(ticket)), SigningKey.generate("ES256")
        client = TeeKeyServiceClient(
            self._service.http(),
            statements=ServiceStatements(identity=self._service.identity, now=_CLOCK.now),
            signing_key=signing,
            receiving_key=receiving,
            run=run,
        )
        role: Role = "executor" if driver else "driver"
        data = RuntimeData(
            application=self._application.digest,
            role=role,
            run=run,
            nonces={self._service.identity: client.nonce()},
            keys=(receiving.public_jwk,),
            signing_key=signing.verifying_key.to_jwk(),
            driver_key=driver.signing.verifying_key.thumbprint if driver else None,
        ).to_json()
        application = bytes.fromhex(self._application.digest)
        intel = self._machines.intel
        report = intel.report(
            mrenclave=MRENCLAVE,
            isv_prod_id=1,
            config_id=application + bytes(32),
            report_data=hashlib.sha256(data).digest() + bytes(32),
        )
        evidence = UnverifiedEvidence(kind="sgx", quote=intel.quote(replace(report)), runtime_data=data)
        request = wire.JoinRequest(
            ticket=ticket,
            result=AttestationClient(self._attestation.http()).attest(evidence),
            evidence=wire.Evidence(kind="sgx", quote=to_b64url(evidence.quote), runtime_data=to_b64url(data)),
        )
        client.join(request, role=role)
        return Member(ticket=ticket, run=run, signing=signing, tee_key=str(receiving.public_jwk["kid"]), client=client)

    def _ticket(self, executors: int) -> str:
        key = self._owner
        ticket = RunTicket(
            run_id=random_id(),
            application=self._application.digest,
            datasets={DATASET: 1},
            max_executors=executors,
            not_after=to_rfc3339(_CLOCK.now() + timedelta(hours=12)),
            submitter=key.verifying_key.thumbprint,
            checkpoints={},
        )
        return sign_jws(ticket.to_json(), key=key, header={"typ": TICKET_TYP, "jwk": key.verifying_key.to_jwk()})


class Releases(Loop):
    """Members of runs that ask for the write keys of their version, in turn.

    Args:
        server: Whom they ask.
    """

    def __init__(self, server: KeyServer) -> None:
        super().__init__(server.service.http)
        self._server = server
        self._statements = ServiceStatements(identity=server.service.identity, now=_CLOCK.now)
        self._numbers = count()
        self._signed: dict[int, tuple[float, bytes]] = {}
        self._signing = threading.Lock()

    @override
    def prepare(self) -> Prepared:
        number = next(self._numbers)
        place = number % len(self._server.members)
        member = self._server.members[place]
        return Prepared(
            number=number,
            target=f"/strongroom/v1/runs/{member.run}/keys",
            body=self._request(place),
            content_type="application/jose",
            expected=(member.run, member.tee_key),
        )

    @override
    def check(self, prepared: Prepared, answer: Response) -> None:
        token = answer.require_success().decode("ascii")
        released = parse_json_object(unverified_payload(token))
        if (released.get("run"), released.get("tee_key")) != prepared.expected:
            raise BenchmarkError("the service released for another run or TEE")
        if prepared.number % VERIFIED_SHARE == 0:
            self._statements.verify(token, typ=wire.RELEASED_KEYS_TYP)

    def _request(self, place: int) -> bytes:
        with self._signing:
            made, body = self._signed.get(place, (0.0, b""))
            if time.monotonic() - made > _FRESH_S or not body:
                member = self._server.members[place]
                request = wire.KeysRequest(
                    run=member.run, issued_at=to_rfc3339(_CLOCK.now()), datasets={DATASET: self._server.version}
                )
                token = sign_jws(request.to_json(), key=member.signing, header={"typ": wire.KEYS_TYP, "kid": "0"})
                made, body = time.monotonic(), token.encode("ascii")
                self._signed[place] = made, body
            return body


class Wraps(Loop):
    """An owner who wraps and unwraps keys in turn, as Azure's clients do.

    Args:
        server: Whom they ask.
        algorithm: With which key: a symmetric one, or RSA of 2048 bits.
    """

    def __init__(self, server: KeyServer, algorithm: Wrapping) -> None:
        super().__init__(server.service.http)
        self._server, self._algorithm = server, algorithm
        self._key = f"{_KEY_NAME}-{algorithm.lower()}"
        self._secret = to_b64url(random_bytes(32))
        self._numbers = count()
        self._token, self._made = "", 0.0
        self._signing = threading.Lock()
        kind: dict[str, Any] = (
            {"kty": "RSA", "key_size": 2048}
            if algorithm.startswith("RSA")
            else {
                "kty": "oct-HSM",
                "key_size": 256,
            }
        )
        self.send(self._to(f"/keys/{self._key}/create", kind)).require_success()
        wrapped = self.send(self._prepared("wrapkey", self._secret)).require_success()
        self._wrapped = str(parse_json_object(wrapped)["value"])

    @override
    def prepare(self) -> Prepared:
        number = next(self._numbers)
        if number % 2:
            return self._prepared("wrapkey", self._secret, number=number)
        return self._prepared("unwrapkey", self._wrapped, number=number, expected=self._secret)

    @override
    def check(self, prepared: Prepared, answer: Response) -> None:
        value = parse_json_object(answer.require_success())["value"]
        if prepared.expected not in {None, value}:
            raise BenchmarkError("the service unwrapped another key")

    def _prepared(self, operation: str, value: str, *, number: int = 0, expected: object = None) -> Prepared:
        return self._to(
            f"/keys/{self._key}//{operation}",
            {"alg": self._algorithm, "value": value},
            number=number,
            expected=expected,
        )

    def _to(self, path: str, body: dict[str, Any], *, number: int = 0, expected: object = None) -> Prepared:
        return Prepared(
            number=number,
            target=f"{path}?api-version=7.4",
            body=canonical_json(body),
            content_type="application/json",
            headers={"Authorization": f"Bearer {self._bearer()}"},
            expected=expected,
        )

    def _bearer(self) -> str:
        with self._signing:
            if time.monotonic() - self._made > _FRESH_S or not self._token:
                server = self._server
                self._token = person_token(server.owner, audience=server.service.identity, clock=_CLOCK)
                self._made = time.monotonic()
            return self._token


def _policy_hash() -> str:
    return to_b64url(hashlib.sha256(to_b64url(long_policy(1).encode()).encode()).digest())
