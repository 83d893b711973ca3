"""Key Vault's contract: making, importing, describing, listing and changing keys."""

from collections.abc import Mapping
from typing import Any, Final

from strongroom.base.encoding import Json, from_any_b64, to_b64url
from strongroom.base.errors import FormatError, RefusedError
from strongroom.base.secret import SecretBytes
from strongroom.crypto import vault_keys
from strongroom.crypto.random import random_id
from strongroom.crypto.vault_keys import KeyKind
from strongroom.keys.records import KeyRecord, KeyReleasePolicy
from strongroom.keys.store import Transaction
from strongroom.keys.store.vault import VaultRows
from strongroom.policy.release_policy import parse_release_policy
from strongroom.services.access import is_own_key
from strongroom.services.http import Call
from strongroom.services.key_vault_desk import (
    VaultDesk,
    demand_name,
    demand_not_deleted,
    demand_ordinary,
    find,
    is_dataset_key,
    key_leaf,
    kind_of,
    page_size,
    pin_immutable,
    skipped,
)
from strongroom.services.key_vault_messages import (
    AttributesBody,
    CreateBody,
    ImportBody,
    KeyOp,
    PolicyBody,
    UpdateBody,
)
from strongroom.services.key_vault_rotation import reschedule

_POLICY_TYPE: Final = "application/json; charset=utf-8"
_DEFAULT_OPS: Final[Mapping[KeyKind, tuple[KeyOp, ...]]] = {
    "RSA": ("encrypt", "decrypt", "sign", "verify", "wrapKey", "unwrapKey"),
    "EC": ("sign", "verify"),
    "oct": ("encrypt", "decrypt", "wrapKey", "unwrapKey"),
}
_POSSIBLE_OPS: Final[Mapping[KeyKind, frozenset[KeyOp]]] = {
    "RSA": frozenset({*_DEFAULT_OPS["RSA"], "import", "export"}),
    "EC": frozenset({*_DEFAULT_OPS["EC"], "import", "export"}),
    "oct": frozenset({*_DEFAULT_OPS["oct"], "sign", "verify", "import", "export"}),
}
_MAKE_DATASET: Final = "Make it with: strongroom dataset create"
_ATTESTATION_SINCE: Final = frozenset({"7.6", "2025-07-01"})


class KeyOperations:
    """What makes, shows and changes keys."""

    def __init__(self, vault: VaultDesk) -> None:
        self._vault = vault

    def create(self, call: Call, person: str) -> Json:
        """Make a key, or a new version of one (`POST /keys/{name}/create`)."""
        body = CreateBody.from_json(call.body)
        demand_ordinary(call.path["name"], action=_MAKE_DATASET)
        kind = kind_of(body.kty)
        _demand_size_or_curve(body, kind)
        material = vault_keys.generate_key(kind, size_bits=body.key_size, curve=body.crv)
        return self._add(call, "key-created", person, body, (body.kty, material, body.key_ops))

    def put(self, call: Call, person: str) -> Json:
        """Import a key, or a new version of one (`PUT /keys/{name}`)."""
        body = ImportBody.from_json(call.body)
        demand_ordinary(call.path["name"], action=_MAKE_DATASET)
        if body.key.key_hsm is not None:
            raise FormatError(
                "key_hsm is refused: what another HSM protected cannot be opened here", action="Give the key's parts."
            )
        kty: str = body.key.kty
        if body.hsm and not kty.endswith("-HSM"):
            kty += "-HSM"
        jwk = body.key.model_dump(exclude_none=True)
        material = vault_keys.import_key(kind_of(kty), jwk)
        return self._add(call, "key-imported", person, body, (kty, material, body.key.key_ops))

    def get(self, call: Call, _person: str) -> Json:
        """Describe a key (`GET /keys/{name}/{version}`)."""
        with self._vault.desk.store.reading() as tx:
            return self._vault.bundle(find(tx, call).record)

    def attestation(self, call: Call, person: str) -> Json:
        """Refuse to prove that an HSM has the key (`GET /keys/{name}/{version}/attestation`): none has."""
        if call.required("api-version") not in _ATTESTATION_SINCE:
            raise FormatError("key attestation came with api-version 7.6")
        self.get(call, person)
        raise RefusedError(
            "this key service has no HSM that could attest a key",
            action="What the service itself runs on is attested at /strongroom/v1/evidence.",
        )

    def keys(self, call: Call, person: str) -> Json:
        """List the keys (`GET /keys`), but for those of others' datasets."""
        limit, after = page_size(call), skipped(call.query)
        if after:
            demand_name(after)
        with self._vault.desk.store.reading() as tx:
            found = [stored.record for stored in tx.newest_keys(after=after, limit=limit)]
            shown = [each for each in found if is_own_key(tx, each.name, person)]
        items: list[Json] = [self._vault.item(each, versioned=False) for each in shown]
        last, hidden = found[-1].name if found else "", len(found) - len(shown)
        return self._vault.page(call, "/keys", items, limit=limit, last=last, hidden=hidden)

    def versions(self, call: Call, _person: str) -> Json:
        """List a key's versions, oldest first (`GET /keys/{name}/versions`)."""
        name, limit, after = call.path["name"], page_size(call), skipped(call.query)
        if after and not after.isdigit():
            raise FormatError("$skiptoken is not of a nextLink of ours")
        with self._vault.desk.store.reading() as tx:
            find(tx, call)
            found = VaultRows(tx).versions(name, after=int(after or 0), limit=limit)
        items: list[Json] = [self._vault.item(each, versioned=True) for each in found]
        last = str(found[-1].number) if found else ""
        return self._vault.page(call, f"/keys/{name}/versions", items, limit=limit, last=last)

    def update(self, call: Call, person: str) -> Json:
        """Change a version's attributes, tags, operations or release policy (`PATCH /keys/{name}/{version}`)."""
        body, seconds = UpdateBody.from_json(call.body), self._vault.seconds
        with self._vault.desk.store.transaction() as tx:
            stored, rows = find(tx, call), VaultRows(tx)
            record = _changed(stored.record, body, seconds=seconds)
            tx.update_key(record, stored.material)
            pin_immutable(rows, record)
            reschedule(rows, tx, record.name)
            tx.append_leaf("key-updated", now=self._vault.now, what=key_leaf(record, person=person))
        return self._vault.bundle(record)

    def _add(
        self,
        call: Call,
        event: str,
        person: str,
        body: CreateBody | ImportBody,
        key: tuple[str, SecretBytes, tuple[KeyOp, ...] | None],
    ) -> Json:
        kty, material, key_ops = key
        name, seconds, asked, kind = call.path["name"], self._vault.seconds, body.attributes, kind_of(kty)
        _demand_times(asked.nbf, asked.exp)
        with self._vault.desk.store.transaction() as tx:
            rows = VaultRows(tx)
            demand_not_deleted(rows, name)
            record = KeyRecord(
                name=name,
                version=random_id(),
                number=rows.newest_number(name) + 1,
                kty=kty,
                key_ops=_DEFAULT_OPS[kind] if key_ops is None else _possible(kind, key_ops),
                enabled=asked.enabled is not False,
                exportable=bool(asked.exportable),
                created=seconds,
                updated=seconds,
                not_before=asked.nbf,
                expires=asked.exp,
                tags=body.tags,
                release_policy=_first_policy(tx, rows, name, asked, body.release_policy),
                public_jwk=vault_keys.public_jwk(kind, material),
            )
            tx.add_key(record, material)
            pin_immutable(rows, record)
            reschedule(rows, tx, name)
            tx.append_leaf(event, now=self._vault.now, what=key_leaf(record, person=person))
        return self._vault.bundle(record)


def _first_policy(
    tx: Transaction, rows: VaultRows, name: str, asked: AttributesBody, body: PolicyBody | None
) -> KeyReleasePolicy | None:
    """Return a new version's release policy: the one that is given, or that of the version before.

    Raises:
        FormatError: A policy without exportable, or exportable without any policy.
    """
    if body is not None and asked.exportable:
        return _policy(body)
    if body is None and not asked.exportable:
        return None
    previous = tx.key(name).record if body is None and rows.newest_number(name) else None
    if previous is None or previous.release_policy is None:
        raise FormatError("exportable keys must have a release policy, and only they have one")
    return previous.release_policy


def _changed(old: KeyRecord, body: UpdateBody, *, seconds: int) -> KeyRecord:
    asked = body.attributes
    if asked.exportable not in {None, old.exportable}:
        raise FormatError("whether a key is exportable is fixed when it is made")
    if body.key_ops is not None and is_dataset_key(old.name):
        raise RefusedError("a dataset's key is used through the dataset only")
    changes: dict[str, Any] = {
        "enabled": asked.enabled,
        "not_before": asked.nbf,
        "expires": asked.exp,
        "tags": body.tags,
        "key_ops": None if body.key_ops is None else _possible(kind_of(old.kty), body.key_ops),
        "release_policy": _new_policy(old, body.release_policy),
    }
    given = {name: value for name, value in changes.items() if value is not None}
    record = old.model_copy(update={"updated": seconds, **given})
    _demand_times(record.not_before, record.expires)
    return record


def _policy(body: PolicyBody) -> KeyReleasePolicy:
    data = from_any_b64(body.data or "")
    parse_release_policy(data)
    if body.content_type not in {None, _POLICY_TYPE, "application/json"}:
        raise FormatError(f"the release policy is of another type than {_POLICY_TYPE}")
    return KeyReleasePolicy(
        content_type=body.content_type or _POLICY_TYPE, data=to_b64url(data), immutable=bool(body.immutable)
    )


def _new_policy(old: KeyRecord, body: PolicyBody | None) -> KeyReleasePolicy | None:
    if body is None:
        return None
    policy = _policy(body)
    if not old.exportable or old.release_policy is None:
        raise FormatError("only exportable keys have a release policy")
    if old.release_policy.immutable and policy != old.release_policy:
        raise RefusedError("the key's release policy is immutable")
    return policy


def _possible(kind: KeyKind, key_ops: tuple[KeyOp, ...]) -> tuple[KeyOp, ...]:
    if len(set(key_ops)) != len(key_ops) or not _POSSIBLE_OPS[kind].issuperset(key_ops):
        raise FormatError(f"key_ops of {kind} keys are each one of {', '.join(sorted(_POSSIBLE_OPS[kind]))}, and once")
    return key_ops


def _demand_size_or_curve(body: CreateBody, kind: KeyKind) -> None:
    members: dict[KeyKind, dict[str, object]] = {
        "RSA": {"crv": body.crv},
        "EC": {"key_size": body.key_size, "public_exponent": body.public_exponent},
        "oct": {"crv": body.crv, "public_exponent": body.public_exponent},
    }
    for name, value in members[kind].items():
        if value is not None:
            raise FormatError(f"{name} is not for keys of type {body.kty}")


def _demand_times(not_before: int | None, expires: int | None) -> None:
    if not_before is not None and expires is not None and expires <= not_before:
        raise FormatError("a key expires (exp) after it begins (nbf)")
