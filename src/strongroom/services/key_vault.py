"""Azure Key Vault's keys contract with Secure Key Release, as far as Strongroom serves it.

Source: Azure Key Vault REST API, keys, versions 7.3 to 2025-07-01; "Secure key release policy grammar".
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import Field, StringConstraints
from starlette.routing import BaseRoute

from strongroom.base.encoding import Json, canonical_json, from_any_b64, parse_json_object, to_b64url
from strongroom.base.errors import FormatError, Mismatch, NotFoundError, RefusedError, StrongroomError
from strongroom.base.secret import SecretBytes
from strongroom.base.workflow import Step
from strongroom.crypto import vault_keys
from strongroom.crypto.derive import sha256_hex
from strongroom.crypto.key_wrap import DEFAULT_ALGORITHM, wrap_to_rsa
from strongroom.crypto.keys import VerifyingKey
from strongroom.crypto.random import random_id
from strongroom.crypto.vault_keys import KeyKind
from strongroom.keys.records import DATASET_KEY_PREFIX, KeyRecord, KeyReleasePolicy
from strongroom.keys.release import demand_hardware
from strongroom.keys.store import StoredKey, Transaction
from strongroom.policy.release_policy import parse_release_policy
from strongroom.services.errors import Reply, azure_error
from strongroom.services.http import Call, endpoint, json_reply
from strongroom.services.key_desk import KeyDesk
from strongroom.wire.model import Message

_Name = Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z-]{1,127}\Z")]
_KeyType = Literal["RSA", "RSA-HSM", "EC", "EC-HSM", "oct", "oct-HSM"]
_KeyOp = Literal["encrypt", "decrypt", "sign", "verify", "wrapKey", "unwrapKey", "import", "export"]
_POLICY_TYPE: Final = "application/json; charset=utf-8"
_DEFAULT_OPS: Final[Mapping[KeyKind, tuple[_KeyOp, ...]]] = {
    "RSA": ("wrapKey", "unwrapKey"),
    "EC": ("sign", "verify"),
    "oct": ("wrapKey", "unwrapKey"),
}
_RELEASE_LIMIT: Final = 1 << 10


class _Attributes(Message):
    enabled: bool | None = None
    nbf: int | None = None
    exp: int | None = None
    exportable: bool | None = None


class _PolicyBody(Message):
    content_type: str | None = Field(default=None, alias="contentType")
    data: str | None = None
    immutable: bool | None = None


class _CreateBody(Message):
    kty: _KeyType
    key_size: int | None = None
    public_exponent: Literal[65537] | None = None
    crv: str | None = None
    key_ops: tuple[_KeyOp, ...] | None = None
    attributes: _Attributes = _Attributes()
    tags: dict[str, str] | None = None
    release_policy: _PolicyBody | None = None


class _ImportBody(Message):
    hsm: bool | None = Field(default=None, alias="Hsm")
    key: dict[str, Any]
    attributes: _Attributes = _Attributes()
    tags: dict[str, str] | None = None
    release_policy: _PolicyBody | None = None


class _UpdateBody(Message):
    key_ops: tuple[_KeyOp, ...] | None = None
    attributes: _Attributes = _Attributes()
    tags: dict[str, str] | None = None
    release_policy: _PolicyBody | None = None


class _WrapBody(Message):
    alg: str
    value: str


class _ReleaseBody(Message):
    target: str
    nonce: Annotated[str, StringConstraints(max_length=_RELEASE_LIMIT)] | None = None
    enc: str | None = None


class _NameOf(Message):
    name: _Name


class KeyVault:
    """The part of the key service that speaks Azure Key Vault's contract. Every call needs an owner's token."""

    def __init__(self, desk: KeyDesk) -> None:
        self._desk = desk
        self._challenge = _challenge(desk.url, tenant=desk.identity.identity)

    def routes(self) -> list[BaseRoute]:
        """Return the endpoints. Azure's clients write an empty segment where they give no version."""
        table: list[tuple[str, str, Callable[[Call], Json]]] = [
            ("GET", "/keys", self.keys),
            ("POST", "/keys/{name}/create", self.create),
            ("PUT", "/keys/{name}", self.put),
            ("GET", "/keys/{name}/versions", self.versions),
        ]
        for path in ("/keys/{name}", "/keys/{name}/", "/keys/{name}/{version}"):
            table += [("GET", path, self.get), ("PATCH", path, self.update)]
        for path in ("/keys/{name}", "/keys/{name}/", "/keys/{name}/{version}"):
            for name, operation in (("wrapkey", self.wrap), ("unwrapkey", self.unwrap), ("release", self.release)):
                table.append(("POST", f"{path}/{name}", operation))
        return [
            endpoint(path, self._answering(operation), methods=(method,), errors=self.error)
            for method, path, operation in table
        ]

    def error(self, error: StrongroomError) -> Reply:
        """Answer with an error in Key Vault's shape; one that asks for a token carries the challenge."""
        reply = azure_error(error)
        if reply.status == 401:  # noqa: PLR2004 - Unauthorized
            return Reply(body=reply.body, status=reply.status, headers={"www-authenticate": self._challenge})
        if isinstance(error, NotFoundError):
            body: Json = {"error": {"code": "KeyNotFound", "message": error.message}}
            return Reply(body=canonical_json(body), status=reply.status)
        return reply

    # --- operations ---------------------------------------------------------------------------------------------

    def create(self, call: Call) -> Json:
        """Make a key, or a new version of one (`POST /keys/{name}/create`)."""
        body = _CreateBody.from_json(call.body)
        kind = _kind(body.kty)
        material = vault_keys.generate_key(kind, size_bits=body.key_size, curve=body.crv)
        return self._add(call, body.kty, material, body.key_ops, body)

    def put(self, call: Call) -> Json:
        """Import a key, or a new version of one (`PUT /keys/{name}`)."""
        body = _ImportBody.from_json(call.body)
        kty = body.key.get("kty")
        if not isinstance(kty, str) or kty not in _KEY_TYPES:
            raise FormatError("the key's type (kty) is not supported")
        if body.hsm and not kty.endswith("-HSM"):
            kty += "-HSM"
        ops = _UpdateBody.from_object({"key_ops": body.key.get("key_ops")}).key_ops
        return self._add(call, kty, vault_keys.import_key(_kind(kty), body.key), ops, body)

    def get(self, call: Call) -> Json:
        """Describe a key (`GET /keys/{name}/{version}`)."""
        with self._desk.store.transaction() as tx:
            return self._bundle(_find(tx, call).record)

    def keys(self, _call: Call) -> Json:
        """List the keys (`GET /keys`)."""
        with self._desk.store.transaction() as tx:
            return {"value": [self._item(each.record, versioned=False) for each in tx.newest_keys()], "nextLink": None}

    def versions(self, call: Call) -> Json:
        """List a key's versions (`GET /keys/{name}/versions`)."""
        with self._desk.store.transaction() as tx:
            _find(tx, call)
            found = tx.key_versions(call.path["name"])
            return {"value": [self._item(each.record, versioned=True) for each in found], "nextLink": None}

    def update(self, call: Call) -> Json:
        """Change a version's attributes, tags, operations or release policy (`PATCH /keys/{name}/{version}`)."""
        body, now = _UpdateBody.from_json(call.body), int(self._desk.clock.now().timestamp())
        with self._desk.store.transaction() as tx:
            stored = _find(tx, call)
            old, asked = stored.record, body.attributes
            if asked.exportable not in {None, old.exportable}:
                raise FormatError("whether a key is exportable is fixed when it is made")
            if body.key_ops is not None and old.name.startswith(DATASET_KEY_PREFIX):
                raise RefusedError("a dataset's key is used through the dataset only")
            changes: dict[str, Any] = {
                "enabled": asked.enabled,
                "not_before": asked.nbf,
                "expires": asked.exp,
                "tags": body.tags,
                "key_ops": body.key_ops,
                "release_policy": _new_policy(old, body.release_policy),
            }
            record = old.model_copy(
                update={"updated": now, **{name: value for name, value in changes.items() if value is not None}}
            )
            tx.update_key(record, stored.material)
        return self._bundle(record)

    def wrap(self, call: Call) -> Json:
        """Wrap a key (`POST /keys/{name}/{version}/wrapkey`)."""
        body = _WrapBody.from_json(call.body)
        stored = self._usable(call, "wrapKey")
        value = SecretBytes(from_any_b64(body.value))
        wrapped = vault_keys.wrap(_kind(stored.record.kty), stored.material, value, algorithm=body.alg)
        return {"kid": self._kid(stored.record), "value": to_b64url(wrapped)}

    def unwrap(self, call: Call) -> Json:
        """Unwrap a key (`POST /keys/{name}/{version}/unwrapkey`)."""
        body = _WrapBody.from_json(call.body)
        stored = self._usable(call, "unwrapKey")
        value = vault_keys.unwrap(
            _kind(stored.record.kty), stored.material, from_any_b64(body.value), algorithm=body.alg
        )
        return {"kid": self._kid(stored.record), "value": to_b64url(value.reveal())}

    def release(self, call: Call) -> Json:
        """Release an exportable key to an attested TEE (`POST /keys/{name}/{version}/release`).

        1. The key may be used and exported, and has a release policy.
        2. The attestation result is of a trusted service, holds now, is about accepted hardware, and meets the policy.
        3. The key leaves encrypted to the first RSA key for encryption in the result's runtime data.
        4. The release is logged before it is answered.
        """
        body = _ReleaseBody.from_json(call.body)
        stored = self._usable(call, None)
        record = stored.record
        if not record.exportable or record.release_policy is None:
            raise RefusedError("the key is not exportable")
        result = self._desk.issuers.verify(body.target)
        demand_hardware(result.claims, accepted=self._desk.hardware)
        parse_release_policy(from_any_b64(record.release_policy.data)).evaluate(result.claims)
        recipient = _recipient(result.runtime)
        algorithm = body.enc or DEFAULT_ALGORITHM
        ciphertext = wrap_to_rsa(stored.material, recipient_jwk=recipient, algorithm=algorithm)
        with self._desk.store.transaction() as tx:
            tx.append_leaf(
                "keys-released",
                now=self._desk.clock.now(),
                what={
                    "key": record.name,
                    "key_version": record.version,
                    "tee_key": VerifyingKey.from_jwk(recipient).thumbprint,
                    "result": sha256_hex(body.target.encode("ascii")),
                },
            )
        return {"value": self._release_token(call, body, record, algorithm, recipient, ciphertext)}

    # --- parts --------------------------------------------------------------------------------------------------

    def _answering(self, operation: Callable[[Call], Json]) -> Callable[[Call], Reply]:
        def handler(call: Call) -> Reply:
            self._desk.person(call)
            call.required("api-version")
            _NameOf.from_object({"name": call.path.get("name", "none")})
            return json_reply(operation(call))

        return handler

    def _add(
        self,
        call: Call,
        kty: str,
        material: SecretBytes,
        key_ops: tuple[_KeyOp, ...] | None,
        body: _CreateBody | _ImportBody,
    ) -> Json:
        name, seconds, asked = call.path["name"], int(self._desk.clock.now().timestamp()), body.attributes
        if name.lower().startswith(DATASET_KEY_PREFIX):
            raise RefusedError(
                f"keys named {DATASET_KEY_PREFIX}… belong to datasets", action="Make it with: strongroom dataset create"
            )
        policy = None if body.release_policy is None else _policy(body.release_policy)
        if bool(asked.exportable) != (policy is not None):
            raise FormatError("exportable keys must have a release policy, and only they have one")
        kind = _kind(kty)
        with self._desk.store.transaction() as tx:
            record = KeyRecord(
                name=name,
                version=random_id(),
                number=len(tx.key_versions(name)) + 1,
                kty=kty,
                key_ops=_DEFAULT_OPS[kind] if key_ops is None else key_ops,
                enabled=asked.enabled is not False,
                exportable=bool(asked.exportable),
                created=seconds,
                updated=seconds,
                not_before=asked.nbf,
                expires=asked.exp,
                tags=body.tags,
                release_policy=policy,
                public_jwk=vault_keys.public_jwk(kind, material),
            )
            tx.add_key(record, material)
        return self._bundle(record)

    def _usable(self, call: Call, operation: _KeyOp | None) -> StoredKey:
        with self._desk.store.transaction() as tx:
            stored = _find(tx, call)
        if not stored.record.is_usable(at=self._desk.clock.now().timestamp()):
            raise RefusedError("the key is disabled or outside its time of validity")
        if operation is not None and operation not in stored.record.key_ops:
            raise RefusedError(f"operation {operation} is not permitted on this key")
        return stored

    def _kid(self, record: KeyRecord) -> str:
        return f"{self._desk.url}/keys/{record.name}/{record.version}"

    def _item(self, record: KeyRecord, *, versioned: bool) -> Json:
        kid = self._kid(record) if versioned else f"{self._desk.url}/keys/{record.name}"
        return {"kid": kid, "attributes": _attributes(record), **({"tags": record.tags} if record.tags else {})}

    def _bundle(self, record: KeyRecord) -> dict[str, Json]:
        key: Json = {
            "kid": self._kid(record),
            "kty": record.kty,
            "key_ops": list(record.key_ops),
            **record.public_jwk,
        }
        bundle: dict[str, Json] = {"key": key, "attributes": _attributes(record)}
        if record.tags is not None:
            bundle["tags"] = record.tags
        if record.release_policy is not None:
            policy = record.release_policy
            bundle["release_policy"] = {
                "contentType": policy.content_type,
                "data": policy.data,
                "immutable": policy.immutable,
            }
        return bundle

    def _release_token(
        self,
        call: Call,
        body: _ReleaseBody,
        record: KeyRecord,
        algorithm: str,
        recipient: Mapping[str, Any],
        ciphertext: bytes,
    ) -> str:
        """Sign the answer as Azure does: RS256 with the chain of a certificate whose name is the vault's."""
        hsm: Json = {
            "schema_version": "1.0.0",
            "header": {"kid": str(recipient.get("kid", "")), "alg": "dir", "enc": algorithm},
            "ciphertext": to_b64url(ciphertext),
        }
        bundle = self._bundle(record)
        bundle["key"] = {**_object(bundle["key"]), "key_hsm": to_b64url(canonical_json(hsm))}
        request: dict[str, Json] = {
            "api-version": call.required("api-version"),
            "enc": algorithm,
            "kid": self._kid(record),
        }
        if body.nonce is not None:
            request["nonce"] = body.nonce
        signing = self._desk.identity.signing
        leaf_hash = to_b64url(hashlib.sha256(signing.chain_der[0]).digest())
        answer: Json = {"request": request, "response": {"key": bundle}}
        return signing.sign(canonical_json(answer), header={"typ": "JWT", "x5t#S256": leaf_hash})


_KEY_TYPES: Final[frozenset[str]] = frozenset({"RSA", "RSA-HSM", "EC", "EC-HSM", "oct", "oct-HSM"})


def _find(tx: Transaction, call: Call) -> StoredKey:
    return tx.key(call.path["name"], call.path.get("version") or None)


def _kind(kty: str) -> KeyKind:
    match kty.removesuffix("-HSM"):
        case "RSA":
            return "RSA"
        case "EC":
            return "EC"
        case _:
            return "oct"


def _policy(body: _PolicyBody) -> KeyReleasePolicy:
    data = from_any_b64(body.data or "")
    parse_release_policy(data)
    return KeyReleasePolicy(
        content_type=body.content_type or _POLICY_TYPE, data=to_b64url(data), immutable=bool(body.immutable)
    )


def _new_policy(old: KeyRecord, body: _PolicyBody | None) -> KeyReleasePolicy | None:
    if body is None:
        return None
    policy = _policy(body)
    if not old.exportable or old.release_policy is None:
        raise FormatError("only exportable keys have a release policy")
    if old.release_policy.immutable and policy != old.release_policy:
        raise RefusedError("the key's release policy is immutable")
    return policy


def _attributes(record: KeyRecord) -> dict[str, Json]:
    attributes: dict[str, Json] = {
        "enabled": record.enabled,
        "created": record.created,
        "updated": record.updated,
        "recoveryLevel": "Purgeable",
        "exportable": record.exportable,
    }
    times = {"nbf": record.not_before, "exp": record.expires}
    return attributes | {name: seconds for name, seconds in times.items() if seconds is not None}


def _recipient(runtime: Mapping[str, Json]) -> Mapping[str, Any]:
    """Return the TEE's key for encryption: the first RSA key of the runtime data that says so."""
    keys: Any = runtime.get("keys")
    candidates: list[dict[str, Any]] = [key for key in keys if isinstance(key, dict)] if isinstance(keys, list) else []
    for key in candidates:
        match key:
            case {"kty": "RSA", "key_ops": [*operations]} if "encrypt" in operations:
                return key
            case {"kty": "RSA", "use": "enc"} | {"kty": "RSA", "key_use": "enc"}:
                return key
            case _:
                continue
    raise RefusedError(
        "the attested runtime data have no RSA key to encrypt to",
        step=Step.RELEASE,
        mismatches=(Mismatch(name="x-ms-runtime.keys", expected='an RSA key for "encrypt"', actual="none"),),
    )


def _challenge(url: str, *, tenant: str) -> str:
    """Return the bearer challenge. Clients demand that the vault's host lies below the resource's.

    Source: azure-keyvault, `ChallengeAuthPolicy`.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    below = host.partition(".")[2]
    resource = below if below and not host.replace(".", "").isdigit() else host
    port = f":{parts.port}" if parts.port else ""
    return f'Bearer authorization="{url}/{tenant}", resource="https://{resource}{port}"'


def _object(value: Json) -> dict[str, Json]:
    return parse_json_object(canonical_json(value))
