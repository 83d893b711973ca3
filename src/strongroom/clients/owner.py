"""Client of a key service for people: an owner's own use of their keys, approvals, runs."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from strongroom.base.clock import Clock, to_rfc3339
from strongroom.base.encoding import canonical_json, parse_json_object
from strongroom.base.errors import ConfigurationError, FormatError, InconsistentLogError, VerificationError
from strongroom.clients.key_service import ReleasedWriteKeys, released_write_keys
from strongroom.clients.pinned import PinnedHttp
from strongroom.clients.statements import ServiceStatements
from strongroom.crypto.jose import sign_jws, unseal
from strongroom.crypto.keys import ReceivingKey, SigningKey
from strongroom.policy.approval import Approval
from strongroom.policy.roster import Roster
from strongroom.policy.signatures import detach
from strongroom.wire import data_keys
from strongroom.wire import key_service as wire
from strongroom.wire.approvals import ROSTER_TYP, RevocationRequest, RosterUpload, SignatureUpload
from strongroom.wire.model import Message
from strongroom.wire.restore import (
    RESTORE_ACCEPTANCE_TYP,
    PendingRestore,
    RestoreAcceptance,
    RestoreAcceptanceUpload,
)
from strongroom.wire.rotation import LoggedRotation, RotationRequest, Rotations
from strongroom.wire.sign_in import WhoYouAre

_PREFIX: Final = "/strongroom/v1"
_TOKEN_LIFETIME_S: Final = 120
_VAULT_VERSION: Final = "7.4"


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


def dataset_head(http: PinnedHttp, *, statements: ServiceStatements, name: str) -> tuple[str, wire.DatasetVersion]:
    """Return a dataset's newest version statement, as signed and checked. Needs no token.

    Args:
        http: A connection to the key service.
        statements: Checks what it signs.
        name: The dataset.

    Raises:
        NotFoundError: No such dataset, or it has no version yet.
        VerificationError: Not this service's statement about this dataset.
    """
    reply = http.request("GET", f"{_PREFIX}/datasets/{name}/head")
    token = reply.require_success().decode("ascii", errors="replace").strip()
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
        predecessors: The identities that the service is known to have had before, oldest first.

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
        predecessors: Sequence[str] = (),
    ) -> None:
        if key is None and bearer is None:
            raise ConfigurationError("who calls has neither a key nor a sign-in", action="sign in: strongroom login")
        self._http = http
        self._identity = identity
        self._key = key
        self._bearer = bearer
        self._clock = clock
        self._statements = ServiceStatements(identity=identity, now=clock.now, predecessors=predecessors)

    def create_dataset(self, name: str, *, columns: tuple[str, ...] = ()) -> dict[str, Any]:
        """Make a dataset: its KEK, and one for each column that shall have a key of its own.

        Raises:
            ConflictError: It exists already.
            FormatError: A column is named twice, or cannot have a key of its own.
        """
        asked = {"dataset": name, "columns": list(columns)}
        return self._post("/datasets", wire.NewDataset.from_object(asked))

    def datasets(self) -> dict[str, Any]:
        """Return the datasets."""
        return self._get("/datasets")

    def head(self, name: str) -> wire.DatasetVersion:
        """Return a dataset's newest version."""
        return dataset_head(self._http, statements=self._statements, name=name)[1]

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

    def unwrap(self, name: str, version: wire.WrittenDataset) -> ReleasedWriteKeys:
        """Return the write keys and column keys of one version.

        Raises:
            RefusedError: The keys are disabled, or not of that version.
        """
        recipient = ReceivingKey.generate_rsa()
        request = wire.OwnerUnwrapRequest(recipient=recipient.public_jwk, version=version)
        sealed = wire.OwnerSealed.from_object(self._post(f"/datasets/{name}/unwrap", request)).sealed
        secret = unseal(sealed, key=recipient, context={"purpose": "owner-unwrap", "dataset": name})
        return released_write_keys(wire.WriteKeys.from_json(secret.reveal()))

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

    def keys(self, name: str) -> data_keys.DatasetKeys:
        """Return the versions of a dataset's KEKs.

        Raises:
            NotFoundError: No such dataset.
        """
        return data_keys.DatasetKeys.from_object(self._get(f"/datasets/{name}/keys"))

    def vault_keys(self) -> tuple[dict[str, Any], ...]:
        """Return the keys of Key Vault's contract that are no dataset's, as that contract describes them in a list.

        Raises:
            FormatError: The answer is no such list.
        """
        found: list[dict[str, Any]] = []
        target: str | None = f"/keys?api-version={_VAULT_VERSION}"
        while target is not None:
            match parse_json_object(self._http.request("GET", target, headers=self._headers()).require_success()):
                case {"value": [*items], **rest} if all(isinstance(item, dict) for item in items):
                    found += items
                    following = urlsplit(str(rest.get("nextLink") or ""))
                    target = f"{following.path}?{following.query}" if following.path else None
                case _:
                    raise FormatError("the key service's answer is no list of keys")
        return tuple(item for item in found if not _is_datasets(item))

    def rotate_key(self, name: str, *, column: str | None) -> data_keys.DatasetKey:
        """Make the next version of a dataset's KEK, or of a column's.

        Raises:
            RefusedError: The dataset is another owner's, or its key may not be used.
            NotFoundError: No such dataset, or the column has no key of its own.
        """
        choice = data_keys.KeyChoice(column=column)
        return data_keys.DatasetKey.from_object(self._post(f"/datasets/{name}/rotate", choice))

    def rewrap_keys(self, name: str, *, column: str | None) -> data_keys.Rewrapped:
        """Wrap some write keys under the newest version of a KEK; ask again while any remain.

        Raises:
            RefusedError: The dataset is another owner's, or a key may not be used.
        """
        choice = data_keys.KeyChoice(column=column)
        return data_keys.Rewrapped.from_object(self._post(f"/datasets/{name}/rewrap", choice))

    def retire_key(self, name: str, *, column: str | None, version: str) -> None:
        """Destroy an older version of a KEK.

        Raises:
            ConflictError: It is the newest one, or write keys still stand under it.
        """
        self._post(f"/datasets/{name}/retire", data_keys.RetireRequest(column=column, version=version))

    def set_key_state(self, name: str, *, column: str | None, enabled: bool) -> None:
        """Enable or disable a KEK.

        Raises:
            RefusedError: The dataset is another owner's, or its keys were destroyed.
        """
        self._post(f"/datasets/{name}/key-state", data_keys.KeyStateRequest(column=column, enabled=enabled))

    def consent_to_shredding(self, roster: Roster) -> str:
        """Sign, as a member of a dataset's roster, that its keys may be destroyed within a week."""
        consent = data_keys.ShreddingConsent(
            key_service=roster.key_service,
            dataset=roster.dataset,
            roster=roster.digest,
            issued_at=to_rfc3339(self._clock.now()),
        )
        return self._signed(consent.to_json(), typ=data_keys.SHREDDING_CONSENT_TYP)

    def shred(self, name: str, *, consents: tuple[str, ...] = ()) -> data_keys.ShreddingProof:
        """Destroy every key of a dataset. It cannot be undone.

        Args:
            name: The dataset.
            consents: Where it has a roster: what members of it signed (`consent_to_shredding`).

        Raises:
            NotFoundError: There is no such dataset, or it is another owner's.
            RefusedError: Too few members agree, or its keys were destroyed before.
        """
        asked = {"confirm": name, "consents": list(consents)}
        answer = self._post(f"/datasets/{name}/shred", data_keys.ShredRequest.from_object(asked))
        return data_keys.ShreddingProof.from_object(answer)

    def shredding(self, name: str) -> data_keys.ShreddingProof:
        """Return the proof that a dataset's keys were destroyed.

        Raises:
            NotFoundError: They were not.
        """
        return data_keys.ShreddingProof.from_object(self._get(f"/datasets/{name}/shredding"))

    def approve(self, approval: Approval, *, application: str) -> str:
        """Sign and store an approval with the description it approves.

        Returns:
            The approval's id.

        Raises:
            ConfigurationError: There is no key to sign with.
        """
        match self.propose(approval, application=application):
            case {"approval": str(approval_id)}:
                return approval_id
            case _:
                raise FormatError("the key service's answer names no approval")

    def propose(self, approval: Approval, *, application: str) -> dict[str, Any]:
        """Sign and store an approval, and say how many signatures it has and needs."""
        upload = wire.ApprovalUpload(
            approval=self._signed(approval.to_json(), typ=wire.APPROVAL_TYP), application=application
        )
        return self._post("/approvals", upload)

    def approvals(self) -> dict[str, Any]:
        """Return the approvals with how often each was used."""
        return self._get("/approvals")

    def approval(self, approval_id: str) -> dict[str, Any]:
        """Return one approval with its signatures and rosters.

        Raises:
            NotFoundError: There is none of that id.
        """
        return self._get(f"/approvals/{approval_id}")

    def sign_approval(self, approval_id: str, payload: bytes) -> dict[str, Any]:
        """Add a signature to a proposed approval.

        Args:
            approval_id: Its id.
            payload: Its exact bytes; the caller has read them.

        Raises:
            ConflictError: This person has signed it already.
        """
        signature = detach(self._signed(payload, typ=wire.APPROVAL_TYP))
        return self._post(f"/approvals/{approval_id}/signatures", SignatureUpload(signature=signature))

    def revoke(self, approval_id: str, *, reason: str = "") -> dict[str, Any]:
        """Revoke an approval: no new run, and no further key or commit for a running one."""
        return self._post(f"/approvals/{approval_id}/revoke", RevocationRequest(reason=reason))

    # --- rosters, leases, refusals ------------------------------------------------------------------------------

    def rosters(self, name: str) -> dict[str, Any]:
        """Return a dataset's rosters and those that wait for signatures."""
        return self._get(f"/datasets/{name}/rosters")

    def propose_roster(self, roster: Roster) -> dict[str, Any]:
        """Sign and store a roster; say how many signatures it has and needs."""
        upload = RosterUpload(roster=self._signed(roster.to_json(), typ=ROSTER_TYP))
        return self._post(f"/datasets/{roster.dataset}/rosters", upload)

    def sign_roster(self, roster: Roster) -> dict[str, Any]:
        """Add a signature to a proposed roster."""
        signature = detach(self._signed(roster.to_json(), typ=ROSTER_TYP))
        return self._post(f"/rosters/{roster.digest}/signatures", SignatureUpload(signature=signature))

    def leases(self) -> dict[str, Any]:
        """Return what may still be opened, and which runs are open."""
        return self._get("/leases")

    def refusals(self) -> dict[str, Any]:
        """Return why things were refused, newest first, of the datasets that this person answers for."""
        return self._get("/refusals")

    def rotate(self, statement: str) -> LoggedRotation:
        """Have the rotation of an identity logged.

        Raises:
            RefusedError: It is not of the key service's identity, not of an attestation service that this believes, or
                not of this person's key.
            ConflictError: One of its identities was replaced before.
        """
        answer = LoggedRotation.from_object(self._post("/rotations", RotationRequest(statement=statement)))
        if answer.statement != statement:
            raise VerificationError("the key service logged another rotation")
        return answer

    def rotate_service(self) -> LoggedRotation:
        """Have an attested key service replace its own identity, at its next start.

        Raises:
            ConflictError: Its owner runs it, and replaces the key where it runs; or its identity was replaced before.
        """
        return LoggedRotation.from_object(self._post("/identity/rotate", None))

    def rotations(self) -> Rotations:
        """Return every rotation that the key service logged, oldest first. The caller MUST follow them to believe."""
        return Rotations.from_object(self._get("/rotations"))

    def log_leaves(self, start: int, end: int) -> Iterator[str]:
        """Return the log's leaves from position `start` up to before `end`, as text; they are asked for in pages.

        Raises:
            InconsistentLogError: The service has fewer.
        """
        position = start
        while position < end:
            match self._get(f"/log/leaves?start={position}&end={end}"):
                case {"leaves": [_, *_] as page} if all(isinstance(leaf, str) for leaf in page):
                    yield from page[: end - position]
                    position += len(page)
                case _:
                    raise InconsistentLogError(f"the key service shows no log entry at position {position}")

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

    def _signed(self, payload: bytes, *, typ: str) -> str:
        public = self._signing_key.verifying_key
        header = {"typ": typ, "kid": public.thumbprint, "jwk": public.to_jwk()}
        return sign_jws(payload, key=self._signing_key, header=header)

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


def _is_datasets(item: dict[str, Any]) -> bool:
    """Tell whether a listed key is a dataset's KEK: its tags say of which."""
    tags = item.get("tags")
    return isinstance(tags, dict) and "strongroom-dataset" in tags
