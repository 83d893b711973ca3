"""A key service in this process, with an owner, a submitter, and TEEs on a simulated platform."""

import functools
import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from tests.support.platform import MRENCLAVE, NOW, Bench

from strongroom.application.description import ApplicationDescription, DatasetBinding, PackagedFile
from strongroom.attestation.claims import sgx_claims
from strongroom.attestation.evidence.unverified import UnverifiedEvidence
from strongroom.attestation.verifier import verify_sgx
from strongroom.base.clock import to_rfc3339
from strongroom.base.encoding import canonical_json, from_b64url, parse_json_object, to_b64url
from strongroom.base.errors import VerificationError
from strongroom.base.secret import SecretBytes
from strongroom.crypto.derive import sha256_hex
from strongroom.crypto.jose import sign_jws, unseal, unverified_payload
from strongroom.crypto.keys import ReceivingKey, SigningKey, VerifyingKey
from strongroom.crypto.random import random_id
from strongroom.keys.providers.file import open_master_key
from strongroom.keys.store import LogSigner, Store, open_store
from strongroom.policy.approval import Approval, PlatformDemand
from strongroom.policy.roster import Roster
from strongroom.policy.signatures import detach
from strongroom.services.approvals import ApprovalDesk
from strongroom.services.datasets import DatasetDesk
from strongroom.services.files import prepare_folder
from strongroom.services.http import Call
from strongroom.services.identity import ServiceIdentity, open_identity
from strongroom.services.issuers import TrustedIssuers
from strongroom.services.key_care import KeyCare
from strongroom.services.key_desk import KeyDesk
from strongroom.services.key_vault import KeyVault
from strongroom.services.leases import LeaseDesk
from strongroom.services.owners import OwnerDesk
from strongroom.services.people import People, configured_people
from strongroom.services.restores import RestoreDesk
from strongroom.services.rosters import RosterDesk
from strongroom.services.runs import RunDesk
from strongroom.services.sign_in import TokenIssuers
from strongroom.services.workloads import WorkloadIssuers, WorkloadIssuerSettings
from strongroom.wire import key_service as wire
from strongroom.wire.approvals import ROSTER_TYP, RevocationRequest, RosterUpload, SignatureUpload
from strongroom.wire.lease import RENEW_TYP, RENEWAL_TYP, Renewal, RenewRequest
from strongroom.wire.runtime_data import RuntimeData
from strongroom.wire.ticket import TICKET_TYP, RunTicket

ISSUER = "https://attestation.test"
URL = "https://vault.test:8443"
POLICY_HASH = to_b64url(hashlib.sha256(b"an evidence policy").digest())
PLATFORM = Bench.new()


@functools.cache
def signing_key(name: str) -> SigningKey:
    """An RS256 key of this test session; making them takes long."""
    return SigningKey.generate("RS256")


@functools.cache
def receiving_key(number: int) -> ReceivingKey:
    return ReceivingKey.generate_rsa()


@functools.cache
def _identity() -> ServiceIdentity:
    """One identity for all benches: its RSA key takes long to make and to read."""
    with tempfile.TemporaryDirectory() as folder:
        return open_identity(Path(folder) / "state", common_name="test", sans=["vault.test"], now=NOW)


class MovableClock:
    def __init__(self, now: datetime = NOW) -> None:
        self.moment = now

    def now(self) -> datetime:
        return self.moment

    def advance(self, **time: float) -> None:
        self.moment += timedelta(**time)


ANY_MACHINE = PlatformDemand(machines="any", min_tcb_evaluation_data_number=0, min_crl_number=0)


@dataclass(kw_only=True)
class Tee:
    """A TEE's keys, and what it makes with them. `number` picks its RSA key."""

    number: int = 0
    signing: SigningKey = field(default_factory=lambda: SigningKey.generate("ES256"))

    @property
    def receiving(self) -> ReceivingKey:
        return receiving_key(self.number)

    @property
    def tee_key(self) -> str:
        return str(self.receiving.public_jwk["kid"])

    @property
    def thumbprint(self) -> str:
        return self.signing.verifying_key.thumbprint

    def sign(self, message: Any, *, typ: str) -> str:
        return sign_jws(message.to_json(), key=self.signing, header={"typ": typ})

    def unseal(self, sealed: str, *, run: str, purpose: str) -> bytes:
        context = {"run": run, "tee_key": self.tee_key, "purpose": purpose}
        return unseal(sealed, key=self.receiving, context=context).reveal()


class KeyBench:
    """The key service's parts over a store in `folder`: each step of the good path is a method with editable fields."""

    def __init__(
        self,
        folder: Path,
        *,
        hardware: Any = "simulated",
        azure: bool = False,
        place: str | None = None,
        largest_group: int | None = None,
    ) -> None:
        self.folder = folder
        self.place: Path | str = place or self.database
        self.largest_group = largest_group
        self.clock = MovableClock()
        self.owner = SigningKey.generate("ES256")
        self.other_owners: tuple[SigningKey, ...] = ()
        self.submitter = SigningKey.generate("ES256")
        self.issuer = signing_key("issuer")
        self.hardware = hardware
        self.azure_issuers = {ISSUER} if azure else set()
        self.clusters: tuple[WorkloadIssuerSettings, ...] = ()
        prepare_folder(folder / "state")
        self.identity = _identity()
        self.start()

    def start(self, people: People | None = None) -> None:
        self.store = self.open_store()
        self.desk = KeyDesk(
            store=self.store,
            identity=self.identity,
            people=people or self.people(),
            issuers=TrustedIssuers({ISSUER: self._issuer_key}, clock=self.clock, azure=self.azure_issuers),
            hardware=self.hardware,
            clock=self.clock,
            url=URL,
            workloads=WorkloadIssuers(self.clusters, key_service=self.identity.identity, clock=self.clock),
        )
        self.runs = RunDesk(self.desk)
        self.datasets = DatasetDesk(self.desk)
        self.care = KeyCare(self.desk)
        self.owners = OwnerDesk(self.desk)
        self.approvals = ApprovalDesk(self.desk)
        self.rosters = RosterDesk(self.desk)
        self.leases = LeaseDesk(self.desk)
        self.vault = KeyVault(self.desk)
        self.restores = RestoreDesk(self.desk)

    def restart_with(self, people: People) -> None:
        """Start again with other people than the owner."""
        self.store.close()
        self.start(people)

    def people(self) -> People:
        """Everybody whom the service knows: here its owner alone."""
        return People(
            configured_people([key.verifying_key.to_jwk() for key in (self.owner, *self.other_owners)], []),
            audience=self.identity.identity,
            issuers=TokenIssuers([], clock=self.clock),
            clock=self.clock,
        )

    def restart(self) -> None:
        self.store.close()
        self.start()

    @property
    def database(self) -> Path:
        return self.folder / "state" / "keys.db"

    def open_store(self) -> Store:
        uri = f"file://{self.folder}/mek"
        signer = LogSigner(origin=f"strongroom-key-service/{self.identity.identity}", key=self.identity.statement.key)
        return open_store(
            self.place,
            open_master_key=lambda new: open_master_key(uri, create=new),
            signer=signer,
            largest_group=self.largest_group,
        )

    def _issuer_key(self, header: Mapping[str, Any], _now: datetime) -> VerifyingKey:
        if header["kid"] != "issuer":
            raise VerificationError("no such key")
        return self.issuer.verifying_key

    # --- people

    def token(self, key: SigningKey | None = None, **changed: Any) -> str:
        signer, now = key or self.owner, int(self.clock.now().timestamp())
        kid = signer.verifying_key.thumbprint
        fields = {"aud": self.identity.identity, "sub": kid, "iat": now, "exp": now + 120, **changed}
        return sign_jws(
            wire.PersonToken(**fields).to_json(), key=signer, header={"typ": wire.PERSON_TOKEN_TYP, "kid": kid}
        )

    def person(
        self, body: Any = None, *, query: Mapping[str, str] | None = None, key: SigningKey | None = None, **path: str
    ) -> Call:
        """A call of the owner, or of whoever has the key."""
        content = b"" if body is None else canonical_json(body) if isinstance(body, dict) else body.to_json()
        return Call(path=path, query=dict(query or {}), authorization=f"Bearer {self.token(key)}", body=content)

    def azure(self, body: Any = None, **path: str) -> Call:
        return self.person(body, query={"api-version": "7.4"}, **path)

    def create_dataset(self, name: str, *, columns: tuple[str, ...] = ()) -> None:
        self.datasets.create_dataset(self.person(wire.NewDataset(dataset=name, columns=columns)))

    def import_version(
        self, name: str, *, base: int | None = None, keeps: tuple[str, ...] = ()
    ) -> tuple[wire.NewWrite, wire.DatasetVersion]:
        """An owner's import: a write key, then the next version; `keeps` are writes of the version before."""
        recipient = receiving_key(9)
        request = wire.OwnerWriteRequest(recipient=recipient.public_jwk)
        answer = wire.OwnerSealed.from_json(self.datasets.start_write(self.person(request, name=name)).body)
        secret = unseal(answer.sealed, key=recipient, context={"purpose": "owner-write", "dataset": name})
        write = wire.NewWrite.from_json(secret.reveal())
        commit = wire.Commit(
            dataset=name,
            base=base,
            manifest_digest=sha256_hex(random_id().encode()),
            write_ids=(write.write_id, *keeps),
        )
        reply = self.datasets.commit(self.person(wire.OwnerCommit(commit=commit), name=name))
        return write, self.version(parse_json_object(reply.body)["statement"])

    def owner_unwrap(self, name: str, asked: wire.WrittenDataset) -> wire.WriteKeys:
        """An owner's own look at a version's keys."""
        recipient = receiving_key(9)
        request = wire.OwnerUnwrapRequest(recipient=recipient.public_jwk, version=asked)
        answer = wire.OwnerSealed.from_json(self.datasets.unwrap(self.person(request, name=name)).body)
        secret = unseal(answer.sealed, key=recipient, context={"purpose": "owner-unwrap", "dataset": name})
        return wire.WriteKeys.from_json(secret.reveal())

    def version(self, statement: str) -> wire.DatasetVersion:
        return wire.DatasetVersion.from_json(self.desk.verify_own(statement, typ=wire.VERSION_TYP))

    def description(self, **changed: Any) -> ApplicationDescription:
        fields: dict[str, Any] = {
            "name": "report",
            "entry_point": "report.py",
            "files": (PackagedFile(name="report.py", size_bytes=1, sha256=sha256_hex(b"x"), use="entry-point"),),
            "arguments": ("strongroom://trips", "strongroom://report"),
            "environment": {},
            "settings": {},
            "datasets": {"trips": self.binding("read"), "report": self.binding("write")},
            "log_level": "WARN",
            **changed,
        }
        return ApplicationDescription(**fields)

    def binding(self, access: Any, *, version: int | None = None, key_service: str | None = None) -> DatasetBinding:
        return DatasetBinding(key_service=key_service or self.identity.identity, access=access, version=version)

    def approval(self, dataset: str, access: Any, **changed: Any) -> Approval:
        fields: dict[str, Any] = {
            "dataset": dataset,
            "key_service": self.identity.identity,
            "application": self.description().digest,
            "access": access,
            "evidence_policy_hash": POLICY_HASH,
            "attestation_issuer": ISSUER,
            "hardware": self.hardware,
            "platform": ANY_MACHINE if self.hardware == "real" else None,
            "shape": "process",
            "max_runs": 1,
            "submitters": (self.submitter.verifying_key.thumbprint,),
            "issued_at": to_rfc3339(self.clock.now()),
            **changed,
        }
        return Approval(**fields)

    def approve(
        self, dataset: str, access: Any, *, description: ApplicationDescription | None = None, **changed: Any
    ) -> str:
        described = description or self.description()
        approval = self.approval(dataset, access, **{"application": described.digest, **changed})
        return str(self.propose(approval, description=described)["approval"])

    def signed(self, statement: Any, *, key: SigningKey | None = None, typ: str = wire.APPROVAL_TYP) -> str:
        """A statement that the owner signed, or whoever has the key."""
        signer = key or self.owner
        public = signer.verifying_key
        header = {"typ": typ, "kid": public.thumbprint, "jwk": public.to_jwk()}
        return sign_jws(statement.to_json(), key=signer, header=header)

    def propose(
        self,
        approval: Approval,
        *,
        key: SigningKey | None = None,
        description: ApplicationDescription | None = None,
    ) -> dict[str, Any]:
        described = (description or self.description()).to_json().decode()
        upload = wire.ApprovalUpload(approval=self.signed(approval, key=key), application=described)
        return parse_json_object(self.approvals.approve(self.person(upload, key=key)).body)

    def sign(self, approval: Approval, *, key: SigningKey, of: str | None = None) -> dict[str, Any]:
        """Add a signature over an approval, to itself unless the id of another is given."""
        upload = SignatureUpload(signature=detach(self.signed(approval, key=key)))
        call = self.person(upload, key=key, approval=of or sha256_hex(approval.to_json()))
        return parse_json_object(self.approvals.sign(call).body)

    def revoke(self, approval: str, *, key: SigningKey | None = None, reason: str = "") -> None:
        self.approvals.revoke(self.person(RevocationRequest(reason=reason), key=key, approval=approval))

    def roster(self, *members: SigningKey, threshold: int, before: Roster | None = None, **changed: Any) -> Roster:
        fields: dict[str, Any] = {
            "key_service": self.identity.identity,
            "dataset": "trips",
            "number": before.number + 1 if before else 1,
            "previous": before.digest if before else None,
            "members": tuple(member.verifying_key.to_jwk() for member in members),
            "threshold": threshold,
            "issued_at": to_rfc3339(self.clock.now()),
            **changed,
        }
        return Roster(**fields)

    def propose_roster(self, roster: Roster, *, key: SigningKey | None = None) -> dict[str, Any]:
        upload = RosterUpload(roster=self.signed(roster, key=key, typ=ROSTER_TYP))
        return parse_json_object(self.rosters.propose(self.person(upload, key=key, name=roster.dataset)).body)

    def sign_roster(self, roster: Roster, *, key: SigningKey) -> dict[str, Any]:
        upload = SignatureUpload(signature=detach(self.signed(roster, key=key, typ=ROSTER_TYP)))
        return parse_json_object(self.rosters.sign(self.person(upload, key=key, roster=roster.digest)).body)

    def why(self, *, key: SigningKey | None = None, run: str | None = None) -> list[dict[str, Any]]:
        """What a person is told about refusals."""
        query = {} if run is None else {"run": run}
        told: list[dict[str, Any]] = parse_json_object(self.leases.refusals(self.person(query=query, key=key)).body)[
            "refusals"
        ]
        return told

    def prepare(self, *, column_keys: tuple[str, ...] = (), **changed: Any) -> tuple[str, str]:
        """Two datasets, one of them with a version, and approvals of the standard application for both.

        `column_keys` are columns of trips that have keys of their own.
        """
        self.create_dataset("trips", columns=column_keys)
        self.create_dataset("report")
        self.trips, _ = self.import_version("trips")
        return self.approve("trips", "read", **changed), self.approve("report", "write", **changed)

    # --- TEEs

    def ticket(self, *, signer: SigningKey | None = None, **changed: Any) -> str:
        key = signer or self.submitter
        fields: dict[str, Any] = {
            "run_id": random_id(),
            "application": self.description().digest,
            "datasets": {"trips": 1, "report": None},
            "max_executors": 2,
            "not_after": to_rfc3339(self.clock.now() + timedelta(hours=1)),
            "submitter": key.verifying_key.thumbprint,
            "checkpoints": {},
            **changed,
        }
        jwk = key.verifying_key.to_jwk()
        return sign_jws(RunTicket(**fields).to_json(), key=key, header={"typ": TICKET_TYP, "jwk": jwk})

    def nonce(self) -> str:
        return wire.Nonce.from_json(self.runs.nonce(self.tee_call("")).body).nonce

    def runtime(self, tee: Tee, ticket: str, **changed: Any) -> RuntimeData:
        fields: dict[str, Any] = {
            "application": self.description().digest,
            "role": "driver",
            "run": run_of(ticket),
            "nonces": {self.identity.identity: self.nonce()},
            "keys": (tee.receiving.public_jwk,),
            "signing_key": tee.signing.verifying_key.to_jwk(),
            **changed,
        }
        return RuntimeData(**fields)

    def attest(
        self, runtime: RuntimeData, *, claims: Mapping[str, Any] | None = None, config_id: bytes | None = None
    ) -> tuple[str, wire.Evidence]:
        """What the attestation service answers to genuine evidence over the runtime data; `claims` replace its own."""
        data = runtime.to_json()
        application = bytes.fromhex(runtime.application) if config_id is None else config_id
        report = PLATFORM.report(
            config_id=application.ljust(64, b"\0"), report_data=hashlib.sha256(data).digest().ljust(64, b"\0")
        )
        quote = PLATFORM.platform.quote(replace(report, mrenclave=MRENCLAVE))
        evidence = UnverifiedEvidence(kind="sgx", quote=quote, runtime_data=data)
        verified = verify_sgx(
            evidence, trusted_roots=PLATFORM.trusted_roots, endorsements=PLATFORM.endorsements, now=NOW
        )
        now = int(self.clock.now().timestamp())
        result = {
            **sgx_claims(verified, runtime_data_type="JSON"),
            "iss": ISSUER,
            "nbf": now,
            "exp": now + 600,
            "x-ms-policy-hash": POLICY_HASH,
            **(claims or {}),
        }
        token = sign_jws(canonical_json(result), key=self.issuer, header={"typ": "JWT", "kid": "issuer"})
        return token, wire.Evidence(kind="sgx", quote=to_b64url(quote), runtime_data=to_b64url(data))

    def join_request(
        self,
        tee: Tee,
        ticket: str,
        *,
        claims: Mapping[str, Any] | None = None,
        config_id: bytes | None = None,
        workload_token: str | None = None,
        **runtime: Any,
    ) -> str:
        result, evidence = self.attest(self.runtime(tee, ticket, **runtime), claims=claims, config_id=config_id)
        request = wire.JoinRequest(ticket=ticket, result=result, evidence=evidence, workload_token=workload_token)
        return tee.sign(request, typ=wire.JOIN_TYP)

    def tee_call(self, token: str, **path: str) -> Call:
        return Call(path=path, query={}, authorization="", body=token.encode())

    def open(self, tee: Tee, ticket: str, **changed: Any) -> wire.Release:
        reply = self.runs.open(self.tee_call(self.join_request(tee, ticket, **changed)))
        return wire.Release.from_json(self.desk.verify_own(reply.body.decode(), typ=wire.RELEASE_TYP))

    def join(self, tee: Tee, driver: Tee, ticket: str, **changed: Any) -> wire.Release:
        asked = {"role": "executor", "driver_key": driver.thumbprint, **changed}
        call = self.tee_call(self.join_request(tee, ticket, **asked), run=run_of(ticket))
        return wire.Release.from_json(self.desk.verify_own(self.runs.join(call).body.decode(), typ=wire.RELEASE_TYP))

    def secrets(self, tee: Tee, release: wire.Release) -> wire.RunSecrets:
        return wire.RunSecrets.from_json(tee.unseal(release.sealed, run=release.run, purpose="run-secrets"))

    def keys_request(self, ticket: str, **changed: Any) -> wire.KeysRequest:
        fields: dict[str, Any] = {
            "run": run_of(ticket),
            "issued_at": to_rfc3339(self.clock.now()),
            "datasets": {"trips": wire.WrittenDataset(number=1, write_keys={self.trips.write_id: self.trips.wrapped})},
            **changed,
        }
        return wire.KeysRequest(**fields)

    def released(self, tee: Tee, ticket: str, **changed: Any) -> wire.WriteKeys:
        """What a member gets of the keys it asks for."""
        token = tee.sign(self.keys_request(ticket, **changed), typ=wire.KEYS_TYP)
        reply = self.runs.keys(self.tee_call(token, run=run_of(ticket)))
        payload = self.desk.verify_own(reply.body.decode(), typ=wire.RELEASED_KEYS_TYP)
        released = wire.ReleasedKeys.from_json(payload)
        return wire.WriteKeys.from_json(tee.unseal(released.sealed, run=released.run, purpose="write-keys"))

    def keys(self, tee: Tee, ticket: str, **changed: Any) -> dict[str, dict[str, SecretBytes]]:
        return {
            name: {each: SecretBytes(from_b64url(key)) for each, key in ids.items()}
            for name, ids in self.released(tee, ticket, **changed).keys.items()
        }

    def rebase(self, tee: Tee, ticket: str, **changed: Any) -> wire.Rebased:
        fields: dict[str, Any] = {
            "run": run_of(ticket),
            "issued_at": to_rfc3339(self.clock.now()),
            "dataset": "report",
            **changed,
        }
        call = self.tee_call(tee.sign(wire.RebaseRequest(**fields), typ=wire.REBASE_TYP), run=run_of(ticket))
        payload = self.desk.verify_own(self.runs.rebase(call).body.decode(), typ=wire.REBASED_TYP)
        return wire.Rebased.from_json(payload)

    def renew(self, tee: Tee, ticket: str, **changed: Any) -> Renewal:
        fields: dict[str, Any] = {
            "run": run_of(ticket),
            "issued_at": to_rfc3339(self.clock.now()),
            "nonce": sha256_hex(b"a nonce"),
            **changed,
        }
        call = self.tee_call(tee.sign(RenewRequest(**fields), typ=RENEW_TYP), run=run_of(ticket))
        return Renewal.from_json(self.desk.verify_own(self.runs.renew(call).body.decode(), typ=RENEWAL_TYP))

    def record(self, tee: Tee, ticket: str) -> wire.RunRecord:
        request = wire.ListRequest(run=run_of(ticket), issued_at=to_rfc3339(self.clock.now()))
        call = self.tee_call(tee.sign(request, typ=wire.LIST_TYP), run=run_of(ticket))
        return wire.RunRecord.from_json(self.runs.record(call).body)

    def close(self, tee: Tee, ticket: str, **changed: Any) -> wire.Closing:
        fields: dict[str, Any] = {
            "run": run_of(ticket),
            "issued_at": to_rfc3339(self.clock.now()),
            "outcome": "succeeded",
            "leaves": len(self.record(tee, ticket).leaves),
            "receipt": sha256_hex(b"a receipt"),
            "commits": (),
            **changed,
        }
        call = self.tee_call(tee.sign(wire.CloseRequest(**fields), typ=wire.CLOSE_TYP), run=run_of(ticket))
        payload = self.desk.verify_own(self.runs.close(call).body.decode(), typ=wire.CLOSING_TYP)
        return wire.Closing.from_json(payload)

    def commit(self, write_id: str, **changed: Any) -> wire.Commit:
        fields: dict[str, Any] = {
            "dataset": "report",
            "base": None,
            "manifest_digest": sha256_hex(b"a manifest"),
            "write_ids": (write_id,),
            **changed,
        }
        return wire.Commit(**fields)

    def events(self) -> list[str]:
        with self.store.reading() as tx:
            return [parse_json_object(leaf)["event"] for leaf in tx.leaves(0, 1000)]


def written(number: int, *writes: wire.NewWrite) -> wire.WrittenDataset:
    """What a manifest of these writes holds of their keys."""
    columns = sorted({column for write in writes for column in write.columns})
    return wire.WrittenDataset(
        number=number,
        write_keys={write.write_id: write.wrapped for write in writes},
        column_keys={column: {write.write_id: write.columns[column].wrapped for write in writes} for column in columns},
    )


def run_of(ticket: str) -> str:
    return sha256_hex(unverified_payload(ticket))
