"""The hierarchy below a key that a vault releases into the TEE. Pure; what only the key service does elsewhere.

    vault's key (RSA or 256-bit symmetric), released as a whole
     └ KEK of a dataset      HKDF(the key; its fingerprint; "kek", dataset)
        ├ write keys         as in `hierarchy`, wrapped under the KEK
        ├ write key of a run HKDF(KEK; run; "run write", application, driver's key)
        ├ share of a run     HKDF(KEK; run; "run share", application)
        └ key of versions    Ed25519, HKDF(KEK; ; "versions")

Whoever holds the vault's key can make each of these. Only measured agents do, and each makes only its own run's.

A write key of an owner's import is wrapped without the vault's private key, and says so in its first byte:
`0x81 | key version (16) | RSAES-OAEP(public half, write key; context)`, or
`0x82 | key version (16) | AES-KW(symmetric key, write key)`, which the vault makes (`wrapkey`, A256KW). Only the first
is bound to its context; what binds both to dataset and version is the owner's signature over the manifest that holds
them.
"""

import hashlib
from dataclasses import dataclass
from typing import Final

from strongroom.base.encoding import canonical_json, from_hex, to_b64url
from strongroom.base.errors import FormatError, IntegrityError
from strongroom.base.secret import SecretBytes
from strongroom.crypto.derive import hkdf_sha256
from strongroom.crypto.keys import SigningKey
from strongroom.crypto.released_keys import (
    check_value,
    open_with_rsa,
    rsa_secret,
    seal_to_rsa,
    signing_key_from_seed,
    unwrap_aes,
)
from strongroom.keys import hierarchy
from strongroom.wire.vault_key import VaultKey

_TO_PUBLIC_HALF: Final = b"\x81"
_BY_VAULT: Final = b"\x82"
_ID_BYTES: Final = 16
_DIGEST_BYTES: Final = 32
_KEY_BYTES: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasedKey:
    """A vault's key inside this TEE, shown to be the one that was pinned; made by `accept_key`.

    Attributes:
        key: The statement that bindings pin.
        material: PKCS#8 DER of an RSA key, the 32 bytes of a symmetric one.
        root: What everything is derived from.
    """

    key: VaultKey
    material: SecretBytes
    root: SecretBytes

    def kek(self, dataset: str) -> SecretBytes:
        """Return a dataset's KEK, 32 bytes."""
        return self._derive(self.root, salt=self.key.fingerprint, purpose="kek", dataset=dataset)

    def run_share(self, dataset: str, *, run: str, application: str) -> SecretBytes:
        """Return this key's share of a run's secret, 32 bytes.

        Args:
            dataset: The first of this key's datasets in the run, by name.
            run: Digest of the run ticket.
            application: Digest of the application that this TEE measured.

        Raises:
            FormatError: Not such digests.
        """
        from_hex(application, size_bytes=_DIGEST_BYTES)
        return self._derive(self.kek(dataset), salt=run, purpose="run share", application=application)

    def run_write(self, dataset: str, *, run: str, application: str, driver_key: str) -> tuple[str, SecretBytes]:
        """Return the write of a run to a dataset: the same in each TEE of the run that has this driver.

        Returns:
            The write's id, and its key.

        Raises:
            FormatError: Not such digests.
        """
        parts = {"application": application, "driver_key": driver_key}
        for each in parts.values():
            from_hex(each, size_bytes=_DIGEST_BYTES)
        key = self._derive(self.kek(dataset), salt=run, purpose="run write", dataset=dataset, **parts)
        named = canonical_json({"version": 1, "purpose": "run write", "dataset": dataset, "run": run, **parts})
        return hashlib.sha256(named).digest()[:_ID_BYTES].hex(), key

    def version_key(self, dataset: str) -> SigningKey:
        """Return the key that signs versions which runs write: whoever has it was let in by the vault."""
        return signing_key_from_seed(self._derive(self.kek(dataset), salt="", purpose="versions", dataset=dataset))

    def wrap(self, write_key: SecretBytes, *, dataset: str, write_id: str) -> str:
        """Wrap a run's write key under the dataset's KEK, for the manifest; base64url."""
        wrapped = hierarchy.wrap_write_key(
            self.kek(dataset), write_key, dataset=dataset, write_id=write_id, kek_version=self.key.key_version
        )
        return to_b64url(wrapped)

    def unwrap(self, wrapped: bytes, *, dataset: str, write_id: str) -> SecretBytes:
        """Open a wrapped write key of any of the three kinds.

        Raises:
            FormatError: Not a wrapped write key.
            IntegrityError: Under another key or version, of another place, or changed.
        """
        marker, version = wrapped[:1], wrapped[1 : 1 + _ID_BYTES].hex()
        if version != self.key.key_version:
            raise IntegrityError("a write key is wrapped under another version of the vault's key")
        rest = wrapped[1 + _ID_BYTES :]
        if marker == _TO_PUBLIC_HALF and self.key.is_rsa:
            return _full(open_with_rsa(rest, pkcs8=self.material, context=_context(self.key, dataset, write_id)))
        if marker == _BY_VAULT and not self.key.is_rsa:
            return _full(unwrap_aes(rest, key=self.material))
        return hierarchy.unwrap_write_key(self.kek(dataset), wrapped, dataset=dataset, write_id=write_id)

    @staticmethod
    def _derive(secret: SecretBytes, *, salt: str, purpose: str, **parts: str) -> SecretBytes:
        info = canonical_json({"version": 1, "purpose": purpose, **parts})
        return hkdf_sha256(secret, salt=from_hex(salt), info=b"strongroom/1 vault key\n" + info)


def accept_key(key: VaultKey, material: SecretBytes) -> ReleasedKey:
    """Take a released key if it is the one that was pinned, whoever gave it.

    Args:
        key: The statement that the binding pins.
        material: What the vault's envelope held.

    Raises:
        FormatError: Not such a key.
        IntegrityError: Another key.
    """
    if key.public_jwk is not None:
        return ReleasedKey(key=key, material=material, root=rsa_secret(material, public_jwk=key.public_jwk))
    if check_value(material) != key.check_value:
        raise IntegrityError("the released key does not have the check value that was pinned")
    return ReleasedKey(key=key, material=material, root=material)


def wrap_to_public_half(key: VaultKey, write_key: SecretBytes, *, dataset: str, write_id: str) -> bytes:
    """Wrap an import's write key so that TEEs with the vault's RSA key can open it; needs no vault.

    Raises:
        FormatError: The vault's key is symmetric.
    """
    if key.public_jwk is None:
        raise FormatError("only keys with a public half take an import's write key without the vault")
    context = _context(key, dataset, write_id)
    sealed = seal_to_rsa(_full(write_key), public_jwk=key.public_jwk, context=context)
    return _TO_PUBLIC_HALF + from_hex(key.key_version, size_bytes=_ID_BYTES) + sealed


def wrapped_by_vault(key: VaultKey, wrapped: bytes) -> bytes:
    """Return an import's write key in the manifest's form, as the vault wrapped it (`wrapkey`, A256KW).

    Raises:
        FormatError: The vault's key is not symmetric.
    """
    if key.is_rsa:
        raise FormatError("an RSA key takes an import's write key by its public half")
    return _BY_VAULT + from_hex(key.key_version, size_bytes=_ID_BYTES) + wrapped


def _context(key: VaultKey, dataset: str, write_id: str) -> bytes:
    return canonical_json(
        {
            "version": 1,
            "purpose": "write-key",
            "dataset": dataset,
            "write_id": write_id,
            "kek_version": key.key_version,
        }
    )


def _full(key: SecretBytes) -> SecretBytes:
    if len(key) != _KEY_BYTES:
        raise FormatError("keys of the hierarchy have 32 bytes")
    return key
