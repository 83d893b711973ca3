"""Client of a key service, from inside a TEE: every request signed by the TEE, every answer by the service."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from strongroom.base.clock import to_rfc3339
from strongroom.base.encoding import from_b64url, parse_json_object
from strongroom.base.errors import VerificationError
from strongroom.base.secret import SecretBytes
from strongroom.clients.pinned import PinnedHttp
from strongroom.clients.seen_log import SeenLog
from strongroom.clients.statements import ServiceStatements
from strongroom.crypto.derive import sha256_hex
from strongroom.crypto.jose import sign_jws, unseal
from strongroom.crypto.keys import ReceivingKey, SigningKey
from strongroom.crypto.random import random_bytes
from strongroom.wire import key_service as wire
from strongroom.wire.lease import RENEW_TYP, RENEWAL_TYP, Renewal, RenewRequest
from strongroom.wire.model import Message
from strongroom.wire.runtime_data import Role

_JOSE: Final = "application/jose"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasedWriteKeys:
    """Keys that a key service released.

    Attributes:
        write_keys: Dataset → write id → key.
        column_keys: Dataset → column → write id → key.
    """

    write_keys: Mapping[str, Mapping[str, SecretBytes]]
    column_keys: Mapping[str, Mapping[str, Mapping[str, SecretBytes]]]


def released_write_keys(message: wire.WriteKeys) -> ReleasedWriteKeys:
    """Return the keys of an unsealed message.

    Raises:
        FormatError: One is not base64url.
    """

    def keys(texts: Mapping[str, str]) -> dict[str, SecretBytes]:
        return {write_id: SecretBytes(from_b64url(key)) for write_id, key in texts.items()}

    return ReleasedWriteKeys(
        write_keys={name: keys(texts) for name, texts in message.keys.items()},
        column_keys={
            name: {column: keys(texts) for column, texts in columns.items()}
            for name, columns in message.columns.items()
        },
    )


class TeeKeyServiceClient:
    """One TEE's conversation with one owner's key service.

    Args:
        http: A connection pinned to the key service's identity.
        statements: Checks what the service signs.
        signing_key: The TEE's signing key, named in its runtime data.
        receiving_key: The TEE's ephemeral RSA key, named in its runtime data.
        run: Digest of the run ticket.
    """

    def __init__(
        self,
        http: PinnedHttp,
        *,
        statements: ServiceStatements,
        signing_key: SigningKey,
        receiving_key: ReceivingKey,
        run: str,
    ) -> None:
        self._http = http
        self._statements = statements
        self._signing_key = signing_key
        self._receiving_key = receiving_key
        self._tee_key = str(receiving_key.public_jwk["kid"])
        self._run = run
        self._number: int | None = None
        self._log = SeenLog(http)

    @property
    def identity(self) -> str:
        """The key service's identity."""
        return self._statements.identity

    def nonce(self) -> str:
        """Ask for a fresh nonce."""
        return wire.Nonce.from_json(
            self._http.request("POST", "/strongroom/v1/nonce", body=b"").require_success()
        ).nonce

    def join(
        self, request: wire.JoinRequest, *, role: Role, seen: str | None = None
    ) -> tuple[wire.Release, wire.RunSecrets]:
        """Open the run (driver) or join it (executor).

        Args:
            request: The ticket, the result and the evidence.
            role: Which.
            seen: A checkpoint of the service's log that the run ticket names: the log must extend it.

        Returns:
            The service's statement, checked (signature, run, role, this TEE's key, log proofs), and its secrets.

        Raises:
            RefusedError: No approval covers this; the mismatches say why.
            ConflictError: The ticket was used before.
            VerificationError: The answer is not this service's answer to this TEE.
            InconsistentLogError: The log does not extend the one that the ticket names.
        """
        path = "/strongroom/v1/runs" if role == "driver" else f"/strongroom/v1/runs/{self._run}/members"
        token = self._post(path, request, typ=wire.JOIN_TYP)
        release = wire.Release.from_json(self._statements.verify(token, typ=wire.RELEASE_TYP))
        self._check_answer(release.run, release.tee_key, release.key_service)
        if release.role != role:
            raise VerificationError("the key service released for another role")
        if seen is not None:
            self._log.observe(self._statements.checkpoint(seen))
        self._check_leaf(release.proof, event="run-opened" if role == "driver" else "member-joined")
        for name, statement in release.versions.items():
            self._check_version_leaf(release.version_proofs.get(name), statement, dataset=name)
        secrets = unseal(release.sealed, key=self._receiving_key, context=self._context("run-secrets"))
        self._number = release.number
        return release, wire.RunSecrets.from_json(secrets.reveal())

    def write_keys(self, datasets: Mapping[str, wire.WrittenDataset], *, now: datetime) -> ReleasedWriteKeys:
        """Ask for the write keys of bound versions, and for those of their column keys that the approvals name.

        Raises:
            RefusedError: Revoked, closed, or not bound by the ticket.
            VerificationError: The answer is not this service's answer to this TEE.
        """
        request = wire.KeysRequest(run=self._run, issued_at=to_rfc3339(now), datasets=dict(datasets))
        token = self._post(f"/strongroom/v1/runs/{self._run}/keys", request, typ=wire.KEYS_TYP)
        released = wire.ReleasedKeys.from_json(self._statements.verify(token, typ=wire.RELEASED_KEYS_TYP))
        self._check_answer(released.run, released.tee_key, released.key_service)
        self._check_leaf(released.proof, event="keys-released")
        sealed = unseal(released.sealed, key=self._receiving_key, context=self._context("write-keys"))
        return released_write_keys(wire.WriteKeys.from_json(sealed.reveal()))

    def renew(self, *, now: datetime) -> None:
        """Ask whether the run still stands, before more keys are given out in this TEE.

        Raises:
            RefusedError: Closed, over, or revoked: by whom and when.
            VerificationError: The answer is not this service's answer to this TEE, or to another question.
        """
        request = RenewRequest(run=self._run, issued_at=to_rfc3339(now), nonce=random_bytes(32).hex())
        token = self._post(f"/strongroom/v1/runs/{self._run}/renew", request, typ=RENEW_TYP)
        renewal = Renewal.from_json(self._statements.verify(token, typ=RENEWAL_TYP))
        self._check_answer(renewal.run, renewal.tee_key, renewal.key_service)
        if renewal.nonce != request.nonce:
            raise VerificationError("the key service's answer is to another question")

    def version(self, statement: str, *, dataset: str) -> wire.DatasetVersion:
        """Check a countersigned version statement.

        Raises:
            VerificationError: Not this service's statement about this dataset.
        """
        version = wire.DatasetVersion.from_json(self._statements.verify(statement, typ=wire.VERSION_TYP))
        if version.dataset != dataset:
            raise VerificationError(f"the version statement is not about dataset {dataset}")
        return version

    def record(self, *, now: datetime) -> wire.RunRecord:
        """Return every member and leaf of the run so far (driver only), the leaves' proofs checked."""
        request = wire.ListRequest(run=self._run, issued_at=to_rfc3339(now))
        token = self._signed(request, typ=wire.LIST_TYP)
        path = f"/strongroom/v1/runs/{self._run}/list"
        record = wire.RunRecord.from_json(
            self._http.request("POST", path, body=token.encode(), content_type=_JOSE).require_success()
        )
        for proof in record.leaves:
            self._check_proof(proof)
        return record

    def rebase(self, dataset: str, *, now: datetime) -> tuple[str, wire.LogProof]:
        """Have the run's write build on the newest version of a dataset (driver only).

        Returns:
            That version's statement, as it was signed, and the proof that it is logged.

        Raises:
            RefusedError: It does already, or the application pins the version it writes on.
            VerificationError: The answer is not this service's answer to this run.
        """
        request = wire.RebaseRequest(run=self._run, issued_at=to_rfc3339(now), dataset=dataset)
        token = self._post(f"/strongroom/v1/runs/{self._run}/rebase", request, typ=wire.REBASE_TYP)
        rebased = wire.Rebased.from_json(self._statements.verify(token, typ=wire.REBASED_TYP))
        self._check_answer(rebased.run, self._tee_key, rebased.key_service)
        self._check_leaf(rebased.proof, event="write-rebased")
        self.version(rebased.statement, dataset=dataset)
        return rebased.statement, self._check_version_leaf(rebased.version_proof, rebased.statement, dataset=dataset)

    def close(self, request: wire.CloseRequest) -> tuple[str, wire.Closing]:
        """Close the run (driver only): all commits take effect, or none.

        Returns:
            The closing statement as it was signed, and its checked content.

        Raises:
            ConflictError: Somebody else made the next version, or a member joined meanwhile.
            RefusedError: The approval was revoked.
        """
        token = self._post(f"/strongroom/v1/runs/{self._run}/close", request, typ=wire.CLOSE_TYP)
        closing = wire.Closing.from_json(self._statements.verify(token, typ=wire.CLOSING_TYP))
        if (closing.run, closing.receipt, closing.outcome, closing.key_service) != (
            request.run,
            request.receipt,
            request.outcome,
            self.identity,
        ):
            raise VerificationError("the key service closed another run")
        versions = self._check_leaf(closing.proof, event="run-closed").get("versions")
        if versions != {name: sha256_hex(text.encode()) for name, text in closing.versions.items()}:
            raise VerificationError("the key service logged other versions than it countersigned")
        for commit in request.commits:
            version = self.version(closing.versions.get(commit.dataset, ""), dataset=commit.dataset)
            if version.key_service != self.identity:
                raise VerificationError("the key service countersigned a version in another's name")
            if version.manifest_digest != commit.manifest_digest:
                raise VerificationError(f"the key service countersigned another manifest of {commit.dataset}")
        return token, closing

    def _post(self, path: str, request: Message, *, typ: str) -> str:
        token = self._signed(request, typ=typ)
        reply = self._http.request("POST", path, body=token.encode(), content_type=_JOSE)
        return reply.require_success().decode("ascii", errors="replace").strip()

    def _signed(self, request: Message, *, typ: str) -> str:
        """Sign a request; a member says which it is, so that the service need not try every member's key."""
        named = {} if self._number is None else {"kid": str(self._number)}
        return sign_jws(request.to_json(), key=self._signing_key, header={"typ": typ, **named})

    def _context(self, purpose: str) -> dict[str, str]:
        return {"run": self._run, "tee_key": self._tee_key, "purpose": purpose}

    def _check_answer(self, run: str, tee_key: str, key_service: str) -> None:
        if (run, tee_key, key_service) != (self._run, self._tee_key, self.identity):
            raise VerificationError("the key service's answer is for another run, TEE or service")

    def _check_leaf(self, proof: wire.LogProof, *, event: str) -> dict[str, Any]:
        leaf = self._check_proof(proof)
        if leaf.get("event") != event or leaf.get("run") != self._run:
            raise VerificationError("the key service proved another entry of its log")
        return leaf

    def _check_version_leaf(self, proof: wire.LogProof | None, statement: str, *, dataset: str) -> wire.LogProof:
        if proof is None:
            raise VerificationError(f"the key service did not prove that the version of dataset {dataset} is logged")
        leaf = self._check_proof(proof)
        expected = ("dataset-version", dataset, sha256_hex(statement.encode()))
        if (leaf.get("event"), leaf.get("dataset"), leaf.get("statement")) != expected:
            raise VerificationError(f"the key service proved another entry than the version of dataset {dataset}")
        return proof

    def _check_proof(self, proof: wire.LogProof) -> dict[str, Any]:
        """Check a leaf's inclusion, and that its checkpoint and all earlier ones of this conversation are one log's."""
        self._log.observe(self._statements.check_proof(proof))
        return parse_json_object(proof.leaf)


def run_digest(ticket_payload: bytes) -> str:
    """Return `run`: the SHA-256 of a run ticket's exact bytes."""
    return sha256_hex(ticket_payload)
