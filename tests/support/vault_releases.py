"""Our key service as an Azure vault: behind a relay that can change what is said, with Entra and metadata beside it.

What answers is the real service in its own process, over TLS. The relay only passes on; a test edits one thing.
"""

import http.client
import http.server
import json
import os
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.support.service_processes import CLOCK, POLICY_HASH, Installation, RunningService, start
from tests.support.tee import SCRIPT, Runner

from strongroom.application.description import ApplicationDescription, DatasetBinding
from strongroom.application.package import ApplicationSources, pack
from strongroom.base.clock import to_rfc3339
from strongroom.base.encoding import canonical_json, from_any_b64, parse_json_object, to_b64url
from strongroom.base.secret import SecretBytes
from strongroom.clients.azure_key_vault import AzureKeyVaultClient, connect_vault
from strongroom.crypto import x509
from strongroom.crypto.derive import sha256_hex
from strongroom.crypto.jose import sign_jws, unverified_header, unverified_payload
from strongroom.crypto.keys import ReceivingKey, SigningKey, VerifyingKey
from strongroom.crypto.random import random_id, random_secret
from strongroom.crypto.released_keys import CHECKED_VALUE, check_value_of
from strongroom.datasets.identity import DatasetWrite
from strongroom.datasets.manifest import build_manifest
from strongroom.datasets.storage import Storage
from strongroom.datasets.vault_versions import next_version, publish_version, sign_version
from strongroom.keys.vault_hierarchy import wrap_to_public_half, wrapped_by_vault
from strongroom.policy.approval import MAX_RUNS, Approval
from strongroom.policy.vault_approval import vault_release_policy
from strongroom.wire import key_service as wire
from strongroom.wire.descriptor import Descriptor
from strongroom.wire.manifest import FileEntry
from strongroom.wire.runtime_data import RuntimeData
from strongroom.wire.ticket import TICKET_TYP, RunTicket
from strongroom.wire.vault_key import ManagedIdentity, VaultAddress, VaultKey, WorkloadIdentity

CLIENT_ID = "11111111-2222-3333-4444-555555555555"
FEDERATED = "projected.service-account.token"
RESOURCE = "https://managedhsm.azure.net"


@dataclass
class Said:
    """An answer on its way to the client; every field is one edit away from an attack."""

    status: int
    headers: dict[str, str]
    body: bytes


class TlsServer:
    """An HTTP server on 127.0.0.1 with a certificate of its own authority; `names` stand in it; None: without TLS."""

    def __init__(
        self, answer: Callable[[str, str, Mapping[str, str], bytes], Said], *, names: tuple[str, ...] | None
    ) -> None:
        outer = self
        self.requests: list[str] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def respond(self) -> None:
                outer.requests.append(f"{self.command} {self.path}")
                body = self.rfile.read(int(self.headers.get("content-length", "0")))
                headers = {name.lower(): value for name, value in self.headers.items()}
                said = answer(self.command, self.path, headers, body)
                self.send_response(said.status)
                for name, value in {**said.headers, "content-length": str(len(said.body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(said.body)

            do_GET = do_POST = do_PATCH = respond  # noqa: N815 - as the library calls them

            def log_message(self, *_: object) -> None:
                """Be quiet."""

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """Peers hang up in these tests."""

        self._server = Server(("127.0.0.1", 0), Handler)
        port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{port}"
        self.authority_pem = ""
        if names is not None:
            self.url = f"https://127.0.0.1:{port}"
            context = self._context(names)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def _context(self, names: tuple[str, ...]) -> ssl.SSLContext:
        authority_key, key, now = SigningKey.generate("ES256"), SigningKey.generate("ES256"), datetime.now(tz=UTC)
        span = {"not_before": now - timedelta(days=1), "not_after": now + timedelta(days=1)}
        authority = x509.new_identity(common_name="an authority", key=authority_key, **span)
        leaf = x509.issue_leaf(
            issuer_cert=authority,
            issuer_key=authority_key,
            subject_public_key=key.verifying_key,
            common_name="a server",
            sans=names,
            usage=x509.LeafUsage.TLS,
            **span,
        )
        self.authority_pem = x509.to_pem(authority)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        descriptor = os.memfd_create("tls")
        os.write(descriptor, x509.to_pem(leaf).encode() + key.to_pem().reveal())
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
        os.close(descriptor)
        return context

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class VaultInstallation(Installation):
    """Both services; the key service is called by the relay's address, which is the vault's.

    Attributes:
        edit: Changes an answer of the vault on its way.
        paths: Which keys are asked for in the place of others.
        federated: The projected token that Entra takes; another one is refused.
        forms: What Entra and the metadata service were asked.
    """

    def __init__(self, folder: Path) -> None:
        self.edit: Callable[[Said], Said] = lambda said: said
        self.paths: dict[str, str] = {}
        self.federated = FEDERATED
        self.forms: list[dict[str, str]] = []
        self.direct = ""
        self.token_answer: Callable[[Said], Said] = lambda said: said
        self.relay = TlsServer(self._relay, names=("127.0.0.1",))
        self.entra = TlsServer(self._entra, names=("127.0.0.1",))
        self.metadata = TlsServer(self._metadata, names=None)
        self.token_file = folder / "federated-token"
        self.token_file.write_text(FEDERATED + "\n")
        super().__init__(folder)

    def write_key_config(self, **changed: Any) -> Path:
        return super().write_key_config(**{"url": self.relay.url, **changed})

    def start_keys(self, config: Path) -> RunningService:
        settings = json.loads(config.read_text())
        self.direct = f"https://127.0.0.1:{settings['port']}"
        return start("key_service", config, url=self.direct, state=Path(settings["state"]))

    def stop(self) -> None:
        super().stop()
        for server in (self.relay, self.entra, self.metadata):
            server.stop()

    def _relay(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Said:
        context = ssl.create_default_context(cadata=self.keys.certificate_pem)
        host = urlsplit(self.direct)
        for asked, given in self.paths.items():
            path = path.replace(asked, given)
        connection = http.client.HTTPSConnection(str(host.hostname), host.port, context=context, timeout=30)
        kept = {name: headers[name] for name in ("authorization", "content-type") if name in headers}
        connection.request(method, path, body=body, headers=kept)
        answer = connection.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders()}
        said = Said(answer.status, found, answer.read())
        connection.close()
        for name in ("transfer-encoding", "connection", "date", "server"):
            said.headers.pop(name, None)
        return self.edit(said)

    def _entra(self, _method: str, path: str, _headers: Mapping[str, str], body: bytes) -> Said:
        form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        self.forms.append({"path": path, **form})
        if form.get("client_assertion") != self.federated:
            refused = {"error": "invalid_client", "error_description": "AADSTS70021: no matching federated identity"}
            return Said(401, {}, json.dumps(refused).encode())
        return self.token_answer(self._token())

    def _metadata(self, _method: str, path: str, headers: Mapping[str, str], _body: bytes) -> Said:
        parts = urlsplit(path)
        asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.forms.append({"path": parts.path, "metadata": headers.get("metadata", ""), **asked})
        return self.token_answer(self._token())

    def _token(self) -> Said:
        answer = {"token_type": "Bearer", "expires_in": 3599, "access_token": self.person_token()}
        return Said(200, {"content-type": "application/json"}, json.dumps(answer).encode())

    # --- what an owner does at the vault ----------------------------------------------------------------------------

    def vault(self, method: str, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """One call of the vault's own interface, as its owner."""
        reply = self.keys.http().request(
            method,
            f"{path}?api-version=7.4",
            body=json.dumps(body).encode(),
            content_type="application/json",
            headers={"Authorization": f"Bearer {self.person_token()}"},
        )
        return parse_json_object(reply.require_success())

    def create_key(self, name: str, kty: str, **changed: Any) -> VaultKey:
        """Make an exportable key whose release policy nobody meets yet, and describe it."""
        closed = {"claim": "x-ms-strongroom-closed", "equals": True}
        body = {
            "kty": kty,
            "attributes": {"exportable": True},
            "key_ops": ["wrapKey", "unwrapKey"],
            "release_policy": self._policy_body(
                canonical_json({"version": "1.0.0", "anyOf": [{"authority": self.attestation.url, "allOf": [closed]}]})
            ),
        }
        made = self.vault("POST", f"/keys/{name}/create", body)["key"]
        version = made["kid"].rpartition("/")[2]
        wrapped = self.wrap(name, CHECKED_VALUE) if kty.startswith("oct") else b""
        fields: dict[str, Any] = {
            "kind": "azure-managed-hsm",
            "url": self.relay.url,
            "key": name,
            "key_version": version,
            "kty": kty,
            "public_jwk": None if wrapped else {"kty": "RSA", "n": made["n"], "e": made["e"]},
            "check_value": check_value_of(wrapped) if wrapped else None,
            "roots": (sha256_hex(x509.parse_pem_chain(self.keys.certificate_pem.encode())[0]),),
            "owners": (self.owner.verifying_key.thumbprint,),
            **changed,
        }
        return VaultKey(**fields)

    def wrap(self, name: str, value: bytes) -> bytes:
        """Have the vault wrap a value with a symmetric key."""
        answer = self.vault("POST", f"/keys/{name}//wrapkey", {"alg": "A256KW", "value": to_b64url(value)})
        return from_any_b64(answer["value"])

    def set_policy_of(self, key: VaultKey, policy: bytes) -> None:
        """Put a release policy on a key."""
        self.vault("PATCH", f"/keys/{key.key}/{key.key_version}", {"release_policy": self._policy_body(policy)})

    @staticmethod
    def _policy_body(policy: bytes) -> dict[str, Any]:
        return {"contentType": "application/json; charset=utf-8", "data": to_b64url(policy)}

    def signed_again(self, edit: Callable[[dict[str, Any], dict[str, Any]], None]) -> Callable[[Said], Said]:
        """Return an edit of a release's header and payload, signed with the vault's own key."""
        key = SigningKey.from_pem(SecretBytes((self.folder / "keys" / "signing.key").read_bytes()))

        def change(said: Said) -> Said:
            token = parse_json_object(said.body)["value"]
            header, payload = unverified_header(token), parse_json_object(unverified_payload(token))
            edit(header, payload)
            del header["alg"]
            token = sign_jws(canonical_json(payload), key=key, header=header)
            return replace(said, body=canonical_json({"value": token}))

        return change


@contextmanager
def vault_installation(folder: Path) -> Iterator[VaultInstallation]:
    made = VaultInstallation(folder)
    try:
        yield made
    finally:
        made.stop()


class VaultRunner(Runner):
    """An owner whose datasets `trips` and `report` are under one key of a vault, and runs of an application.

    Args:
        mixed: Keep `report` at the key service, so that two keepers take part in each run.
        version: Which version of `trips` the application is bound to.
    """

    def __init__(
        self,
        services: VaultInstallation,
        folder: Path,
        *,
        kty: str = "RSA-HSM",
        mixed: bool = False,
        version: int | None = None,
    ) -> None:
        self.services: VaultInstallation = services
        self.folder = folder
        self.recipient = ReceivingKey.generate_p256()
        self.storage = {name: (folder / "storage" / name).as_uri() for name in ("trips", "report")}
        self.owner = services.owner_client()
        self.key = services.create_key(f"kek-{random_id()[:8]}", kty)
        self.mixed, self.version = mixed, version
        if mixed:
            self.owner.create_dataset("report")
        self.import_version("trips")
        self.package = folder / "package"
        self.description = self._pack()
        self.approvals = {"trips": self.approval("trips", "read"), "report": self.approval("report", "write")}
        self.open_key()

    @property
    def under_key(self) -> tuple[str, ...]:
        return ("trips",) if self.mixed else ("trips", "report")

    def import_version(self, name: str, *, signer: SigningKey | None = None, **changed: Any) -> None:
        """Make a version of a dataset with one listed file, as its owner does without the vault's private key."""
        number = changed.get("number", 1)
        write_id, secret = random_id(), random_secret()
        if self.key.is_rsa:
            wrapped = wrap_to_public_half(self.key, secret, dataset=name, write_id=write_id)
        else:
            wrapped = wrapped_by_vault(self.key, self.services.wrap(self.key.key, secret.reveal()))
        write = DatasetWrite(write_id=write_id, key=secret, wrapped=to_b64url(wrapped), base=None)
        file = FileEntry(path="part-0.parquet", write_id=write_id, file_id=random_id(), length_bytes=10)
        data, digest = build_manifest(dataset=name, key_service=self.key.identity, base=None, write=write, files=[file])
        storage, owner = Storage(self.storage[name]), signer or self.services.owner
        storage.write_manifest(data, digest)
        version = next_version(
            key=self.key,
            dataset=name,
            base=None,
            manifest_digest=digest,
            write_ids=(write_id,),
            writer=f"owner:{owner.verifying_key.thumbprint}",
            created_at=CLOCK.now(),
        )
        publish_version(storage, number, sign_version(version.model_copy(update=changed), key=owner))

    def _pack(self, *arguments: str) -> ApplicationDescription:
        script = self.folder / "application.py"
        script.write_bytes(SCRIPT)
        report = self.services.keys.identity if self.mixed else self.key.identity
        return pack(
            ApplicationSources(
                script=str(script),
                arguments=("strongroom://trips", "strongroom://report", *arguments),
                datasets={
                    "trips": DatasetBinding(key_service=self.key.identity, access="read", version=self.version),
                    "report": DatasetBinding(key_service=report, access="write", version=None),
                },
            ),
            output=self.package,
        )

    def approval(self, name: str, access: Any, **changed: Any) -> Approval:
        fields: dict[str, Any] = {
            "dataset": name,
            "key_service": self.key.identity,
            "application": self.description.digest,
            "access": access,
            "evidence_policy_hash": POLICY_HASH,
            "attestation_issuer": self.services.attestation.url,
            "hardware": "simulated",
            "shape": "process",
            "max_runs": MAX_RUNS,
            "submitters": (self.services.submitter.verifying_key.thumbprint,),
            "recipients": (VerifyingKey.from_jwk(self.recipient.public_jwk).to_jwk(),),
            "back_end": self.key.kind,
            "issued_at": to_rfc3339(CLOCK.now()),
            **changed,
        }
        return Approval(**fields)

    def signed(self, approval: Approval, *, signer: SigningKey | None = None) -> str:
        key = signer or self.services.owner
        header = {"typ": wire.APPROVAL_TYP, "jwk": key.verifying_key.to_jwk()}
        return sign_jws(approval.to_json(), key=key, header=header)

    def open_key(self) -> None:
        """Put what is approved on the vault's key; approve the rest at the key service."""
        self.services.set_policy_of(
            self.key, vault_release_policy([self.approvals[name] for name in self.under_key]).data
        )
        if self.mixed:
            self.approve("report", "write")

    def ticket(self, *, submitter: SigningKey | None = None, **changed: Any) -> str:
        key = submitter or self.services.submitter
        fields: dict[str, Any] = {
            "run_id": random_id(),
            "application": self.description.digest,
            "datasets": {"trips": 1, "report": None},
            "max_executors": 2,
            "not_after": to_rfc3339(CLOCK.now() + timedelta(hours=1)),
            "submitter": key.verifying_key.thumbprint,
            "checkpoints": {},
            **changed,
        }
        header = {"typ": TICKET_TYP, "jwk": key.verifying_key.to_jwk()}
        return sign_jws(RunTicket(**fields).to_json(), key=key, header=header)

    def address(self, **changed: Any) -> VaultAddress:
        fields: dict[str, Any] = {
            "statement": self.key.to_json().decode(),
            "roots_pem": self.services.keys.certificate_pem,
            "credential": self.workload_identity(),
            "authorities_pem": self.services.relay.authority_pem,
            "approvals": {name: self.signed(self.approvals[name]) for name in self.under_key},
            **changed,
        }
        return VaultAddress(**fields)

    def workload_identity(self, **changed: Any) -> WorkloadIdentity:
        fields: dict[str, Any] = {
            "token_url": f"{self.services.entra.url}/tenant/oauth2/v2.0/token",
            "client_id": CLIENT_ID,
            "token_file": str(self.services.token_file),
            "authorities_pem": self.services.entra.authority_pem,
            **changed,
        }
        return WorkloadIdentity(**fields)

    def managed_identity(self) -> ManagedIdentity:
        return ManagedIdentity(url=self.services.metadata.url, client_id=CLIENT_ID)

    def descriptor(self, ticket: str, *, driver: Any = None, **changed: Any) -> Descriptor:
        """A descriptor; `vaults` may be given, and whatever else `Runner.descriptor` takes."""
        fields: dict[str, Any] = {"vaults": {self.key.identity: self.address()}, **changed}
        if not self.mixed:
            fields.setdefault("key_services", {})
        return super().descriptor(ticket, driver=driver, **fields)


@dataclass
class Waits:
    """Remembers how long somebody wanted to wait, and does not."""

    seconds: list[float] = field(default_factory=list)

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


@dataclass
class AttestedTee:
    """A TEE that was attested for a runner's application and has not asked for keys yet."""

    receiving: ReceivingKey
    result: str

    @classmethod
    def of(cls, runner: VaultRunner, *, role: Any = "driver", application: str | None = None) -> "AttestedTee":
        receiving, signing = ReceivingKey.generate_rsa(), SigningKey.generate("ES256")
        digest = application or runner.description.digest
        runtime = RuntimeData(
            application=digest,
            role=role,
            run="00" * 32,
            nonces={runner.key.identity: "nonce"},
            keys=(receiving.public_jwk,),
            signing_key=signing.verifying_key.to_jwk(),
            driver_key=None if role == "driver" else "11" * 32,
        )
        evidence = runner.services.evidence(runtime, application=bytes.fromhex(digest))
        return cls(receiving, runner.services.attest(evidence))

    def client(self, runner: VaultRunner, *, key: VaultKey | None = None, **changed: Any) -> AzureKeyVaultClient:
        """What its agent would ask the vault with."""
        return connect_vault(key or runner.key, runner.address(**changed), receiving_key=self.receiving, now=CLOCK.now)
