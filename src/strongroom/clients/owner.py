"""Client of a key service for people: an owner's own use of their keys, approvals, runs."""

from collections.abc import Callable
from typing import Any, Final

from strongroom.base.clock import Clock, to_rfc3339
from strongroom.base.encoding import canonical_json, from_b64url, parse_json_object
from strongroom.base.errors import ConfigurationError, FormatError, VerificationError
from strongroom.base.secret import SecretBytes
from strongroom.clients.pinned import PinnedHttp
from strongroom.clients.statements import ServiceStatements
from strongroom.crypto.jose import sign_jws, unseal
from strongroom.crypto.keys import ReceivingKey, SigningKey
from strongroom.policy.approval import Approval
from strongroom.wire import key_service as wire
from strongroom.wire.model import Message
from strongroom.wire.restore import (
    RESTORE_ACCEPTANCE_TYP,
    PendingRestore,
    RestoreAcceptance,
    RestoreAcceptanceUpload,
)
from strongroom.wire.sign_in import WhoYouAre

_PREFIX: Final = "/strongroom/v1"
_TOKEN_LIFETIME_S: Final = 120


def person_token(key: SigningKey, *, audience: str, clock: Clock) -> str:
    """Return a short-lived bearer token for one service.

    Args:
        key: The person's signing key, which the service's configuration names.
        audience: The service's identity.
        clock: The time of issue.
    """
    now = int(clock.now().timestamp())
    subject = key.verifying_key.thumbprint
    token = wire.PersonToken(aud=audience, sub=subject, iat=now, exp=now + _TOKEN_LIFETIME_S)
    return sign_jws(token.to_json(), key=key, header={"typ": wire.PERSON_TOKEN_TYP, "kid": subject})


def dataset_head(http: PinnedHttp, *, identity: str, name: str, clock: Clock) -> tuple[str, wire.DatasetVersion]:
    """Return a dataset's newest version statement, as signed and checked. Needs no token.

    Raises:
        NotFoundError: No such dataset, or it has no version yet.
        VerificationError: Not this service's statement about this dataset.
    """
    reply = http.request("GET", f"{_PREFIX}/datasets/{name}/head")
    token = reply.require_success().decode("ascii", errors="replace").strip()
    statements = ServiceStatements(identity=identity, now=clock.now)
    version = wire.DatasetVersion.from_json(statements.verify(token, typ=wire.VERSION_TYP))
    if version.dataset != name:
        raise VerificationError(f"the version statement is not about dataset {name}")
    return token, version


class OwnerClient:
    """An owner's conversation with their key service.

    Args:
        http: A connection pinned to the service's identity.
        identity: The service's identity.
        key: The owner's signing key; None: the owner signs in, and can sign nothing.
        clock: For the tokens' times.
        bearer: Returns the token of a sign-in, which then stands in the place of tokens signed with the key.

    Raises:
        ConfigurationError: Neither a key nor a sign-in.
    """

    def __init__(
        self,
        http: PinnedHttp,
        *,
        identity: str,
        key: SigningKey | None,
        clock: Clock,
        bearer: Callable[[], str] | None = None,
    ) -> None:
        if key is None and bearer is None:
            raise ConfigurationError("who calls has neither a key nor a sign-in", action="sign in: strongroom login")
        self._http = http
        self._identity = identity
        self._key = key
        self._bearer = bearer
        self._clock = clock
        self._statements = ServiceStatements(identity=identity, now=clock.now)

    def create_dataset(self, name: str) -> dict[str, Any]:
        """Make a dataset: its KEK.

        Raises:
            ConflictError: It exists already.
        """
        return self._post("/datasets", wire.NewDataset(dataset=name))

    def datasets(self) -> dict[str, Any]:
        """Return the datasets."""
        return self._get("/datasets")

    def head(self, name: str) -> wire.DatasetVersion:
        """Return a dataset's newest version."""
        return dataset_head(self._http, identity=self._identity, name=name, clock=self._clock)[1]

    def versions(self, name: str) -> tuple[wire.DatasetVersion, ...]:
        """Return a dataset's versions, oldest first, each statement checked.

        Raises:
            NotFoundError: No such dataset.
        """
        match self._get(f"/datasets/{name}/versions"):
            case {"versions": [*tokens]} if all(isinstance(token, str) for token in tokens):
                return tuple(self._version(token, name) for token in tokens)
            case _:
                raise FormatError("the key service's answer names no versions")

    def start_write(self, name: str) -> wire.NewWrite:
        """Ask for a new write key, to import data.

        Raises:
            NotFoundError: No such dataset.
        """
        recipient = ReceivingKey.generate_rsa()
        request = wire.OwnerWriteRequest(recipient=recipient.public_jwk)
        sealed = wire.OwnerSealed.from_object(self._post(f"/datasets/{name}/writes", request)).sealed
        secret = unseal(sealed, key=recipient, context={"purpose": "owner-write", "dataset": name})
        return wire.NewWrite.from_json(secret.reveal())

    def unwrap(self, name: str, version: wire.WrittenDataset) -> dict[str, SecretBytes]:
        """Return the write keys of one version: write id → key.

        Raises:
            RefusedError: The keys are disabled, or not of that version.
        """
        recipient = ReceivingKey.generate_rsa()
        request = wire.OwnerUnwrapRequest(recipient=recipient.public_jwk, version=version)
        sealed = wire.OwnerSealed.from_object(self._post(f"/datasets/{name}/unwrap", request)).sealed
        secret = unseal(sealed, key=recipient, context={"purpose": "owner-unwrap", "dataset": name})
        keys = wire.WriteKeys.from_json(secret.reveal()).keys.get(name, {})
        return {write_id: SecretBytes(from_b64url(key)) for write_id, key in keys.items()}

    def commit(self, name: str, commit: wire.Commit) -> wire.DatasetVersion:
        """Make an import the dataset's next version.

        Raises:
            ConflictError: Somebody else made the next version first.
        """
        match self._post(f"/datasets/{name}/versions", wire.OwnerCommit(commit=commit)):
            case {"statement": str(statement)}:
                return self._version(statement, name)
            case _:
                raise FormatError("the key service's answer has no statement")

    def approve(self, approval: Approval, *, application: str) -> str:
        """Sign and store an approval with the description it approves.

        Returns:
            The approval's id.

        Raises:
            ConfigurationError: There is no key to sign with.
        """
        public = self._signing_key.verifying_key
        header = {"typ": wire.APPROVAL_TYP, "kid": public.thumbprint, "jwk": public.to_jwk()}
        token = sign_jws(approval.to_json(), key=self._signing_key, header=header)
        match self._post("/approvals", wire.ApprovalUpload(approval=token, application=application)):
            case {"approval": str(approval_id)}:
                return approval_id
            case _:
                raise FormatError("the key service's answer names no approval")

    def approvals(self) -> dict[str, Any]:
        """Return the approvals with how often each was used."""
        return self._get("/approvals")

    def revoke(self, approval_id: str) -> dict[str, Any]:
        """Revoke an approval: no new run, and no further key or commit for a running one."""
        return self._post(f"/approvals/{approval_id}/revoke", None)

    def runs(self) -> dict[str, Any]:
        """Return the runs, newest last."""
        return self._get("/runs")

    def run(self, run: str) -> dict[str, Any]:
        """Return one run."""
        return self._get(f"/runs/{run}")

    def pending_restore(self) -> PendingRestore:
        """Return the restore from a backup that waits for an owner's word."""
        return PendingRestore.from_object(self._get("/log/restore"))

    def accept_restore(self, restore: str, *, lost_size: int) -> None:
        """Sign and send the word that a restore is meant; the service releases keys again.

        Args:
            restore: Its name, as `pending_restore` says it.
            lost_size: The size of the newest checkpoint that anybody saw before; 0 where nothing is lost.

        Raises:
            ConflictError: Another restore waits, or none.
            ConfigurationError: There is no key to sign with.
        """
        public = self._signing_key.verifying_key
        said = RestoreAcceptance(
            key_service=self._identity,
            restore=restore,
            lost_size=lost_size,
            issued_at=to_rfc3339(self._clock.now()),
        )
        header = {"typ": RESTORE_ACCEPTANCE_TYP, "kid": public.thumbprint, "jwk": public.to_jwk()}
        token = sign_jws(said.to_json(), key=self._signing_key, header=header)
        self._post("/log/restore", RestoreAcceptanceUpload(statement=token))

    @property
    def _signing_key(self) -> SigningKey:
        if self._key is None:
            raise ConfigurationError(
                "this is signed with your key, and there is none here",
                action="make one with `strongroom init`, and have it registered under your name at the key service",
            )
        return self._key

    def _version(self, token: str, name: str) -> wire.DatasetVersion:
        version = wire.DatasetVersion.from_json(self._statements.verify(token, typ=wire.VERSION_TYP))
        if version.dataset != name:
            raise VerificationError(f"the version statement is not about dataset {name}")
        return version

    def who(self) -> WhoYouAre:
        """Return what the service knows of whoever calls."""
        return WhoYouAre.from_object(self._get("/me"))

    def _headers(self) -> dict[str, str]:
        if self._bearer is not None:
            return {"Authorization": f"Bearer {self._bearer()}"}
        assert self._key is not None
        return {"Authorization": f"Bearer {person_token(self._key, audience=self._identity, clock=self._clock)}"}

    def _get(self, path: str) -> dict[str, Any]:
        reply = self._http.request("GET", _PREFIX + path, headers=self._headers())
        return parse_json_object(reply.require_success())

    def _post(self, path: str, message: Message | None) -> dict[str, Any]:
        reply = self._http.request(
            "POST",
            _PREFIX + path,
            body=message.to_json() if message else canonical_json({}),
            content_type="application/json",
            headers=self._headers(),
        )
        return parse_json_object(reply.require_success())
