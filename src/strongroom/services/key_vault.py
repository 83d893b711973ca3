"""Azure Key Vault's keys contract with Secure Key Release: its addresses, and what every call goes through.

Source: Azure Key Vault REST API, keys, versions 7.3 to 2025-07-01.
"""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType
from typing import Final, Protocol, TypeAlias

from starlette.routing import BaseRoute

from strongroom.base.encoding import Json
from strongroom.base.errors import FormatError, StrongroomError
from strongroom.services.access import demand_own_key
from strongroom.services.errors import Reply
from strongroom.services.http import Call, endpoint, json_reply
from strongroom.services.key_desk import KeyDesk
from strongroom.services.key_vault_crypto import CryptoOperations
from strongroom.services.key_vault_custody import CustodyOperations
from strongroom.services.key_vault_desk import Recovery, VaultDesk, demand_name, is_dataset_key
from strongroom.services.key_vault_errors import bearer_challenge, vault_error, vault_headers
from strongroom.services.key_vault_keys import KeyOperations
from strongroom.services.key_vault_release import ReleaseOperations
from strongroom.services.key_vault_rotation import RotationOperations

API_VERSIONS: Final = ("7.3", "7.4", "7.5", "7.6", "2025-07-01")
VAULT_PATHS: Final = ("/keys", "/deletedkeys", "/rng")
"""What the contract's addresses begin with."""

_Entry: TypeAlias = tuple[str, str, "_Operation"]
_ANY_VERSION: Final = ("/keys/{name}", "/keys/{name}/", "/keys/{name}/{version}")
"""A version of a key, or the newest. Azure's clients write an empty segment where they give no version."""


class _Operation(Protocol):
    """What answers a call of a person, who is an owner."""

    __name__: str

    def __call__(self, call: Call, person: str, /) -> Json: ...


def _table(vault: VaultDesk, rotation: RotationOperations) -> list[_Entry]:
    """Return the contract's addresses with what answers them."""
    keys, custody = KeyOperations(vault), CustodyOperations(vault)
    crypto, release = CryptoOperations(vault), ReleaseOperations(vault)
    table: list[_Entry] = [
        ("GET", "/keys", keys.keys),
        ("POST", "/keys/restore", custody.restore),
        ("POST", "/keys/{name}/create", keys.create),
        ("PUT", "/keys/{name}", keys.put),
        ("DELETE", "/keys/{name}", custody.delete),
        ("GET", "/keys/{name}/versions", keys.versions),
        ("POST", "/keys/{name}/backup", custody.backup),
        ("POST", "/keys/{name}/rotate", rotation.rotate),
        ("GET", "/keys/{name}/rotationpolicy", rotation.get_policy),
        ("PUT", "/keys/{name}/rotationpolicy", rotation.put_policy),
        ("GET", "/deletedkeys", custody.deleted_keys),
        ("GET", "/deletedkeys/{name}", custody.deleted),
        ("DELETE", "/deletedkeys/{name}", custody.purge),
        ("POST", "/deletedkeys/{name}/recover", custody.recover),
        ("POST", "/rng", crypto.random),
    ]
    for path in _ANY_VERSION:
        table += [
            ("GET", path, keys.get),
            ("PATCH", path, keys.update),
            ("GET", f"{path}/attestation", keys.attestation),
            ("POST", f"{path}/encrypt", crypto.encrypt),
            ("POST", f"{path}/decrypt", crypto.decrypt),
            ("POST", f"{path}/wrapkey", crypto.wrap),
            ("POST", f"{path}/unwrapkey", crypto.unwrap),
            ("POST", f"{path}/sign", crypto.sign),
            ("POST", f"{path}/verify", crypto.verify),
            ("POST", f"{path}/release", release.release),
        ]
    return table


class KeyVault:
    """The part of the key service that speaks Azure Key Vault's contract. Every call needs an owner's token.

    Args:
        desk: The key service's means.
        recovery: What happens to deleted keys.
    """

    def __init__(self, desk: KeyDesk, *, recovery: Recovery = Recovery()) -> None:  # noqa: B008 - it never changes
        vault = VaultDesk(desk=desk, recovery=recovery)
        self._desk = desk
        self._challenge = bearer_challenge(desk.url, tenant=desk.identity.identity)
        self._rotation = RotationOperations(vault)
        self._table = _table(vault, self._rotation)
        self._operations = MappingProxyType({operation.__name__: operation for _, _, operation in self._table})

    def routes(self) -> list[BaseRoute]:
        """Return the endpoints."""
        return [
            endpoint(path, self._answering(operation.__name__), methods=(method,), errors=self.error)
            for method, path, operation in self._table
        ]

    def run(self, operation: str, call: Call) -> Json:
        """Do what a call asks for.

        1. The caller is an owner.
        2. The call names a version of the contract that is spoken here, and a name that a key can have: a key that is
           not of another owner's dataset.
        3. What became due by the clock has happened.

        Args:
            operation: Which operation: its method's name.
            call: The call.

        Returns:
            The answer; None for an answer without a body.

        Raises:
            StrongroomError: Whatever the operation says; `error` puts it into the contract's shape.
        """
        person = self._desk.person(call)
        _demand_version(call.required("api-version"))
        if "name" in call.path:
            demand_name(call.path["name"])
            if is_dataset_key(call.path["name"]):
                demand_own_key(self._desk.store, call.path["name"], person)
        self._rotation.catch_up()
        return self._operations[operation](call, person)

    def error(self, error: StrongroomError) -> Reply:
        """Answer with an error in Key Vault's shape; one that asks for a token carries the challenge."""
        return vault_error(error, challenge=self._challenge)

    def watching_the_clock(self) -> contextlib.AbstractContextManager[None]:
        """Rotate and destroy what is due while a block runs, also when nobody calls."""
        return self._rotation.running()

    def _answering(self, operation: str) -> Callable[[Call], Reply]:
        def handler(call: Call) -> Reply:
            answer = self.run(operation, call)
            if answer is None:
                return Reply(body=b"", status=204, headers=vault_headers())
            return replace(json_reply(answer), headers=vault_headers())

        return handler


def _demand_version(version: str) -> None:
    if version not in API_VERSIONS:
        raise FormatError(
            f"the api-version {version[:32]} is not supported", action=f"Use one of: {', '.join(API_VERSIONS)}."
        )
