"""Key Vault's contract: what is done with keys that stay here. Single uses are not logged."""

from typing import Final

from strongroom.base.encoding import Json, from_any_b64, to_b64url
from strongroom.base.errors import FormatError
from strongroom.base.secret import SecretBytes
from strongroom.crypto import vault_ciphers, vault_keys, vault_signatures
from strongroom.crypto.random import random_bytes
from strongroom.crypto.vault_ciphers import Encrypted
from strongroom.keys.store import StoredKey
from strongroom.services.http import Call
from strongroom.services.key_vault_desk import VaultDesk, demand_usable, find, kind_of
from strongroom.services.key_vault_errors import KeyRefusedError
from strongroom.services.key_vault_messages import KeyOp, OperationBody, RandomBody, SignBody, VerifyBody

_OUT_OF_TIME_TOO: Final[frozenset[KeyOp]] = frozenset({"decrypt", "unwrapKey", "verify"})
"""What Key Vault does with keys before and after their time too: what was made with them is still to be read."""


class CryptoOperations:
    """What uses keys."""

    def __init__(self, vault: VaultDesk) -> None:
        self._vault = vault

    def encrypt(self, call: Call, _person: str) -> Json:
        """Encrypt a value (`POST /keys/{name}/{version}/encrypt`)."""
        body = OperationBody.from_json(call.body)
        if body.tag is not None:
            raise FormatError("encryption makes the tag, and takes none")
        stored = self._usable(call, "encrypt")
        aad = _bytes(body.aad)
        made = vault_ciphers.encrypt(
            kind_of(stored.record.kty),
            stored.material,
            SecretBytes(from_any_b64(body.value)),
            algorithm=body.alg,
            iv=_bytes(body.iv),
            aad=aad,
        )
        parts = {"iv": made.iv, "tag": made.tag, "aad": aad}
        given = {name: to_b64url(value) for name, value in parts.items() if value is not None}
        return {"kid": self._vault.kid(stored.record), "value": to_b64url(made.ciphertext), **given}

    def decrypt(self, call: Call, _person: str) -> Json:
        """Decrypt a value (`POST /keys/{name}/{version}/decrypt`)."""
        body = OperationBody.from_json(call.body)
        stored = self._usable(call, "decrypt")
        encrypted = Encrypted(ciphertext=from_any_b64(body.value), iv=_bytes(body.iv), tag=_bytes(body.tag))
        value = vault_ciphers.decrypt(
            kind_of(stored.record.kty), stored.material, encrypted, algorithm=body.alg, aad=_bytes(body.aad)
        )
        return self._result(stored, value.reveal())

    def wrap(self, call: Call, _person: str) -> Json:
        """Wrap a key (`POST /keys/{name}/{version}/wrapkey`)."""
        body = _wrap_body(call)
        stored = self._usable(call, "wrapKey")
        value = SecretBytes(from_any_b64(body.value))
        wrapped = vault_keys.wrap(kind_of(stored.record.kty), stored.material, value, algorithm=body.alg)
        return self._result(stored, wrapped)

    def unwrap(self, call: Call, _person: str) -> Json:
        """Unwrap a key (`POST /keys/{name}/{version}/unwrapkey`)."""
        body = _wrap_body(call)
        stored = self._usable(call, "unwrapKey")
        wrapped = from_any_b64(body.value)
        value = vault_keys.unwrap(kind_of(stored.record.kty), stored.material, wrapped, algorithm=body.alg)
        return self._result(stored, value.reveal())

    def sign(self, call: Call, _person: str) -> Json:
        """Sign a digest (`POST /keys/{name}/{version}/sign`)."""
        body = SignBody.from_json(call.body)
        stored = self._usable(call, "sign")
        digest = from_any_b64(body.value)
        return self._result(
            stored, vault_signatures.sign(kind_of(stored.record.kty), stored.material, digest, algorithm=body.alg)
        )

    def verify(self, call: Call, _person: str) -> Json:
        """Say whether a signature over a digest is a key's (`POST /keys/{name}/{version}/verify`)."""
        body = VerifyBody.from_json(call.body)
        stored = self._usable(call, "verify")
        holds = vault_signatures.verify(
            kind_of(stored.record.kty),
            stored.material,
            from_any_b64(body.digest),
            from_any_b64(body.value),
            algorithm=body.alg,
        )
        return {"value": holds}

    def random(self, call: Call, _person: str) -> Json:
        """Answer with random bytes (`POST /rng`)."""
        return {"value": to_b64url(random_bytes(RandomBody.from_json(call.body).count))}

    def _usable(self, call: Call, operation: KeyOp) -> StoredKey:
        with self._vault.desk.store.reading() as tx:
            stored = find(tx, call)
        in_time = operation not in _OUT_OF_TIME_TOO
        demand_usable(stored.record, operation=operation, at=self._vault.seconds, in_time=in_time)
        if operation not in stored.record.key_ops:
            raise KeyRefusedError(
                f"operation {operation} is not permitted on this key", inner_code="KeyOperationForbidden"
            )
        return stored

    def _result(self, stored: StoredKey, value: bytes) -> Json:
        return {"kid": self._vault.kid(stored.record), "value": to_b64url(value)}


def _wrap_body(call: Call) -> OperationBody:
    body = OperationBody.from_json(call.body)
    if (body.iv, body.aad, body.tag) != (None, None, None):
        raise FormatError("keys are wrapped without iv, aad and tag")
    return body


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else from_any_b64(text)
