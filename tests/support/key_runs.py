"""Runs of a key service that is a process of its own, with the real clients."""

from datetime import timedelta
from typing import Any

from tests.support.service_processes import CLOCK, POLICY_HASH, Installation, RunningService

from strongroom.application.description import ApplicationDescription, DatasetBinding, PackagedFile
from strongroom.base.clock import to_rfc3339
from strongroom.base.encoding import from_b64url, to_b64url
from strongroom.clients.key_service import TeeKeyServiceClient
from strongroom.clients.statements import ServiceStatements
from strongroom.crypto.derive import sha256_hex
from strongroom.crypto.jose import sign_jws
from strongroom.crypto.keys import ReceivingKey, SigningKey
from strongroom.crypto.random import random_id
from strongroom.policy.approval import Approval
from strongroom.wire import key_service as wire
from strongroom.wire.runtime_data import Role, RuntimeData
from strongroom.wire.ticket import TICKET_TYP, RunTicket


class Node:
    """A TEE with real clients.

    Args:
        installed: Where it runs.
        ticket: Of its run.
        application: The digest of what it runs.
        receiving: Its encryption key; one is made without it, which takes long.
        service: Whom it asks, where there are several replicas of the key service.
    """

    def __init__(
        self,
        installed: Installation,
        *,
        ticket: str,
        application: str,
        receiving: ReceivingKey | None = None,
        service: RunningService | None = None,
    ) -> None:
        self.installed, self.ticket, self.application = installed, ticket, application
        self.run = sha256_hex(from_b64url(ticket.split(".")[1]))
        self.signing, self.receiving = SigningKey.generate("ES256"), receiving or ReceivingKey.generate_rsa()
        self.client = TeeKeyServiceClient(
            (service or installed.keys).http(),
            statements=ServiceStatements(identity=installed.keys.identity, now=CLOCK.now),
            signing_key=self.signing,
            receiving_key=self.receiving,
            run=self.run,
        )

    def join(self, **runtime: Any) -> tuple[wire.Release, wire.RunSecrets]:
        request, role = self.request(**runtime)
        return self.client.join(request, role=role)

    def request(self, **runtime: Any) -> tuple[wire.JoinRequest, Role]:
        """Make the request to open or join, with fresh evidence; and the role that it names."""
        fields: dict[str, Any] = {
            "application": self.application,
            "role": "driver",
            "run": self.run,
            "nonces": {self.installed.keys.identity: self.client.nonce()},
            "keys": (self.receiving.public_jwk,),
            "signing_key": self.signing.verifying_key.to_jwk(),
            **runtime,
        }
        data = RuntimeData(**fields)
        evidence = self.installed.evidence(data, application=bytes.fromhex(self.application))
        request = wire.JoinRequest(
            ticket=self.ticket,
            result=self.installed.attest(evidence),
            evidence=wire.Evidence(
                kind="sgx", quote=to_b64url(evidence.quote), runtime_data=to_b64url(evidence.runtime_data)
            ),
        )
        return request, data.role


def described(installed: Installation, dataset: str) -> ApplicationDescription:
    return ApplicationDescription(
        name="app",
        entry_point="app.py",
        files=(PackagedFile(name="app.py", size_bytes=1, sha256=sha256_hex(b"x"), use="entry-point"),),
        arguments=(),
        environment={},
        settings={},
        datasets={dataset: DatasetBinding(key_service=installed.keys.identity, access="write", version=None)},
        log_level="WARN",
    )


def approve(installed: Installation, dataset: str, application: ApplicationDescription, **changed: Any) -> str:
    fields: dict[str, Any] = {
        "dataset": dataset,
        "key_service": installed.keys.identity,
        "application": application.digest,
        "access": "write",
        "evidence_policy_hash": POLICY_HASH,
        "attestation_issuer": installed.attestation.url,
        "hardware": "simulated",
        "shape": "process",
        "submitters": (installed.submitter.verifying_key.thumbprint,),
        "issued_at": to_rfc3339(CLOCK.now()),
        **changed,
    }
    return installed.owner_client().approve(Approval(**fields), application=application.to_json().decode())


def ticket_for(installed: Installation, dataset: str, application: str) -> str:
    key = installed.submitter
    ticket = RunTicket(
        run_id=random_id(),
        application=application,
        datasets={dataset: None},
        max_executors=2,
        not_after=to_rfc3339(CLOCK.now() + timedelta(hours=1)),
        submitter=key.verifying_key.thumbprint,
        checkpoints={},
    )
    header = {"typ": TICKET_TYP, "jwk": key.verifying_key.to_jwk()}
    return sign_jws(ticket.to_json(), key=key, header=header)
