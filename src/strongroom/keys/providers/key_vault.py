"""A master key in Azure Key Vault or a Managed HSM: `https://HOST/keys/NAME?credential=…`.

With an RSA key (Key Vault): a fresh AES-256 key encrypts, RSA-OAEP-256 wraps it, and PS256 of the vault signs all
of it with the context. Wrapping needs the public key alone, so that without the signature whoever can write the
database could wrap a key of his own choice. With an `oct-HSM` key (Managed HSM): AES-256-GCM in the HSM, the context
as additional authenticated data.

Source: Azure Key Vault REST API (keys), cryptographic operations; RFC 8017, sections 7.1 and 8.1.
"""

import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from strongroom.base.errors import (
    ConfigurationError,
    FormatError,
    IntegrityError,
    StrongroomError,
    UnavailableError,
)
from strongroom.base.secret import SecretBytes
from strongroom.crypto import aead
from strongroom.crypto.random import random_secret
from strongroom.keys.providers import envelope
from strongroom.keys.providers.authorities import authorities_pem
from strongroom.keys.providers.azure_credentials import credential_of
from strongroom.keys.providers.envelope import WrapAlgorithm
from strongroom.keys.providers.uri import ServiceAddress, parse_service_address

if TYPE_CHECKING:
    from types import ModuleType

    from azure.keyvault.keys import KeyClient, KeyVaultKey
    from azure.keyvault.keys.crypto import CryptographyClient

_FORM: Final = "https://HOST/keys/NAME?credential=token-file|workload-identity&…"
_OPTIONS: Final = frozenset({"credential", "token-source", "tenant", "client", "kty", "ca", "ca-sha256"})
_KEY_TYPES: Final = ("RSA-HSM", "RSA", "oct-HSM")
_RSA_BITS: Final = 3072
_MIN_RSA_BYTES: Final = 256
_VERSION_BYTES: Final = 16
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_LENGTH_BYTES: Final = 2
_SEALED_BYTES: Final = 29
_SIGNED: Final = b"strongroom wrapped key 1\0"
_PERMISSIONS: Final = (
    "Give it the key permissions get, wrapKey, unwrapKey, sign and verify (RSA), or get, encrypt and decrypt (oct-HSM)."
)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """A key that was wrapped with RSA, as it is stored.

    Attributes:
        version: The version of the vault's key, hexadecimal.
        wrapped: The AES key, RSA-OAEP-256.
        sealed: The key, under that AES key.
        signature: PS256 over all of it and the context.
    """

    version: str
    wrapped: bytes
    sealed: bytes
    signature: bytes

    def digest(self, context: bytes) -> bytes:
        """Return what the vault signs: every part has a fixed or a stated length."""
        bound = envelope.bound(WrapAlgorithm.VAULT_RSA_OAEP_A256GCM_PS256, context)
        lengths = b"".join(len(part).to_bytes(4, "big") for part in (bound, self.wrapped, self.sealed))
        signed = _SIGNED + lengths + bound + bytes.fromhex(self.version) + self.wrapped + self.sealed
        return hashlib.sha256(signed).digest()

    def write(self) -> bytes:
        """Return version, length of the wrapped key, wrapped key, signature, sealed key."""
        length = len(self.wrapped).to_bytes(_LENGTH_BYTES, "big")
        return bytes.fromhex(self.version) + length + self.wrapped + self.signature + self.sealed

    @classmethod
    def read(cls, body: bytes) -> "_Parts":
        """Read what `write` made; nothing in it is authentic yet."""
        start = _VERSION_BYTES + _LENGTH_BYTES
        size = int.from_bytes(body[_VERSION_BYTES:start], "big")
        if size < _MIN_RSA_BYTES or len(body) < start + 2 * size + _SEALED_BYTES:
            raise envelope.damaged()
        return cls(
            version=body[:_VERSION_BYTES].hex(),
            wrapped=body[start : start + size],
            signature=body[start + size : start + 2 * size],
            sealed=body[start + 2 * size :],
        )


class VaultMasterKey:
    """A key of Azure Key Vault or a Managed HSM.

    Args:
        address: Where it is.
        create: Make it if it is not there.
    """

    def __init__(self, address: ServiceAddress, *, create: bool) -> None:
        self._sdk = _sdk()
        self._name = f"the key vault at {address.host}"
        _, self._key_name, *version = address.path
        self._kty = address.options.get("kty", _KEY_TYPES[0])
        if self._kty not in _KEY_TYPES:
            raise ConfigurationError(f"a master key's type (kty) is one of: {', '.join(_KEY_TYPES)}")
        self._credential = credential_of(address)
        self._options: dict[str, Any] = {
            "retry_total": 3,
            "retry_backoff_factor": 0.2,
            "retry_backoff_max": 2,
            "connection_timeout": 5,
            "read_timeout": 15,
            "permit_redirects": False,
            "logging_enable": False,
        }
        authorities = authorities_pem(address)
        self._authorities = None if authorities is None else _in_memory(authorities)
        if self._authorities is not None:
            self._options["connection_verify"] = f"/proc/self/fd/{self._authorities}"
        logging.getLogger("azure").setLevel(logging.WARNING)  # its lines of each request say nothing to an operator
        self._client: KeyClient = self._sdk.KeyClient(
            f"https://{address.host}", credential=self._credential, **self._options
        )
        self._versions: dict[str, CryptographyClient] = {}
        try:
            self._current = self._asked(lambda: self._find(version[0] if version else None, create=create))
            self._demand_guarded(self._current)
        except BaseException:
            self.close()
            raise

    def wrap(self, key: SecretBytes, *, context: bytes) -> bytes:
        """Encrypt a key with the vault's newest (or the named) version; `context` says what it is for.

        Raises:
            ConfigurationError: The vault refuses.
            UnavailableError: The vault does not answer.
        """
        return self._asked(
            lambda: self._wrap_oct(key, context) if self._kty == "oct-HSM" else self._wrap_rsa(key, context)
        )

    def unwrap(self, wrapped: bytes, *, context: bytes) -> SecretBytes:
        """Decrypt what `wrap` made in the same context, with the version that wrapped it.

        Raises:
            IntegrityError: Wrapped by another master key, for another context, or changed.
            ConfigurationError: The vault refuses.
            UnavailableError: The vault does not answer.
        """
        return self._asked(
            lambda: self._unwrap_oct(wrapped, context) if self._kty == "oct-HSM" else self._unwrap_rsa(wrapped, context)
        )

    def close(self) -> None:
        """Close the connections."""
        for each in (*self._versions.values(), self._client):
            each.close()
        if self._authorities is not None:
            os.close(self._authorities)
            self._authorities = None

    # --- RSA --------------------------------------------------------------------------------------------------------

    def _wrap_rsa(self, key: SecretBytes, context: bytes) -> bytes:
        algorithm = WrapAlgorithm.VAULT_RSA_OAEP_A256GCM_PS256
        content_key, version = random_secret(), _version(self._current)
        crypto = self._crypto(version)
        wrapped = crypto.wrap_key(self._sdk.crypto.KeyWrapAlgorithm.rsa_oaep_256, content_key.reveal()).encrypted_key
        sealed = aead.encrypt(content_key, key.reveal(), context=envelope.bound(algorithm, context))
        unsigned = _Parts(version=version, wrapped=wrapped, sealed=sealed, signature=b"")
        signature = crypto.sign(self._sdk.crypto.SignatureAlgorithm.ps256, unsigned.digest(context)).signature
        if len(signature) != len(wrapped):
            raise FormatError(f"{self._name} answered a signature of another size than its key's")
        signed = _Parts(version=version, wrapped=wrapped, sealed=sealed, signature=signature)
        return envelope.write(algorithm, signed.write())

    def _unwrap_rsa(self, wrapped: bytes, context: bytes) -> SecretBytes:
        algorithm = WrapAlgorithm.VAULT_RSA_OAEP_A256GCM_PS256
        smallest = _VERSION_BYTES + _LENGTH_BYTES + 2 * _MIN_RSA_BYTES + _SEALED_BYTES
        parts = _Parts.read(envelope.read(algorithm, wrapped, min_body_bytes=smallest))
        crypto = self._crypto(parts.version)
        ps256 = self._sdk.crypto.SignatureAlgorithm.ps256
        if not self._opened(lambda: crypto.verify(ps256, parts.digest(context), parts.signature).is_valid):
            raise envelope.damaged()
        oaep = self._sdk.crypto.KeyWrapAlgorithm.rsa_oaep_256
        content_key = SecretBytes(self._opened(lambda: crypto.unwrap_key(oaep, parts.wrapped).key))
        try:
            return aead.decrypt(content_key, parts.sealed, context=envelope.bound(algorithm, context))
        except (FormatError, IntegrityError) as error:
            raise envelope.damaged() from error

    # --- symmetric --------------------------------------------------------------------------------------------------

    def _wrap_oct(self, key: SecretBytes, context: bytes) -> bytes:
        algorithm, version = WrapAlgorithm.VAULT_A256GCM, _version(self._current)
        result = self._crypto(version).encrypt(
            self._sdk.crypto.EncryptionAlgorithm.a256_gcm,
            key.reveal(),
            additional_authenticated_data=envelope.bound(algorithm, context),
        )
        nonce, tag = result.iv or b"", result.tag or b""
        if (len(nonce), len(tag)) != (_NONCE_BYTES, _TAG_BYTES):
            raise FormatError(f"{self._name} answered no AES-GCM ciphertext")
        return envelope.write(algorithm, bytes.fromhex(version) + nonce + tag + result.ciphertext)

    def _unwrap_oct(self, wrapped: bytes, context: bytes) -> SecretBytes:
        algorithm, start = WrapAlgorithm.VAULT_A256GCM, _VERSION_BYTES + _NONCE_BYTES
        body = envelope.read(algorithm, wrapped, min_body_bytes=start + _TAG_BYTES)
        crypto = self._crypto(body[:_VERSION_BYTES].hex())
        return SecretBytes(
            self._opened(
                lambda: (
                    crypto.decrypt(
                        self._sdk.crypto.EncryptionAlgorithm.a256_gcm,
                        body[start + _TAG_BYTES :],
                        iv=body[_VERSION_BYTES:start],
                        authentication_tag=body[start : start + _TAG_BYTES],
                        additional_authenticated_data=envelope.bound(algorithm, context),
                    ).plaintext
                )
            )
        )

    # --- the vault's key --------------------------------------------------------------------------------------------

    def _find(self, version: str | None, *, create: bool) -> "KeyVaultKey":
        try:
            return self._client.get_key(self._key_name, version)
        except self._errors.ResourceNotFoundError:
            if not create or version is not None:
                raise
        if self._kty == "oct-HSM":
            return self._client.create_oct_key(
                self._key_name, size=256, hardware_protected=True, key_operations=["encrypt", "decrypt"]
            )
        return self._client.create_rsa_key(
            self._key_name,
            size=_RSA_BITS,
            hardware_protected=self._kty == "RSA-HSM",
            key_operations=["wrapKey", "unwrapKey", "sign", "verify"],
        )

    def _demand_guarded(self, key: "KeyVaultKey") -> None:
        """Refuse a key that could leave its vault, or is of another kind than the address says."""
        kty = str(getattr(key.key_type, "value", key.key_type))
        if kty != self._kty or key.properties.exportable:
            raise ConfigurationError(
                f"the key {self._key_name} of {self._name} does not serve as a master key: it is"
                f" {'exportable' if key.properties.exportable else f'of type {kty}, not {self._kty}'}",
                action="Make another one that is not exportable, and name its type in the address (kty=…).",
            )

    def _crypto(self, version: str) -> "CryptographyClient":
        """Return the client of one version, checked as the first one was."""
        if version not in self._versions:
            try:
                key = self._client.get_key(self._key_name, version)
            except self._errors.ResourceNotFoundError as error:
                raise envelope.damaged() from error  # no version of this key wrapped it
            self._demand_guarded(key)
            self._versions[version] = self._sdk.crypto.CryptographyClient(
                key, credential=self._credential, **self._options
            )
        return self._versions[version]

    # --- errors -----------------------------------------------------------------------------------------------------

    @property
    def _errors(self) -> Any:  # noqa: ANN401 - the module of the SDK's errors
        import azure.core.exceptions  # noqa: PLC0415 - an extra

        return azure.core.exceptions

    def _opened(self, operation: Callable[[], _T]) -> _T:
        """Run an operation on stored bytes: what the vault calls a bad request there does not open."""
        try:
            return operation()
        except self._errors.HttpResponseError as error:
            if error.status_code == 400:  # noqa: PLR2004 - Bad Request
                raise envelope.damaged() from None
            raise

    def _asked(self, operation: Callable[[], _T]) -> _T:
        errors = self._errors
        try:
            return operation()
        except StrongroomError:
            raise
        except errors.AzureError as error:
            raise self._translate(error) from None  # an error of the SDK holds the request, its token included
        except ValueError as error:
            raise ConfigurationError(
                f"{self._name} asks for tokens in a way that is not accepted",
                action="Check the address: the host must lie below the resource that the vault names.",
            ) from error

    def _translate(self, error: Exception) -> StrongroomError:
        """Translate the vault's refusals.

        Source: Azure Key Vault, REST API error codes.
        """
        errors, status = self._errors, getattr(error, "status_code", None)
        if isinstance(error, errors.ResourceNotFoundError):
            return ConfigurationError(
                f"{self._name} has no key {self._key_name}",
                action="Recover it, or restore it from its backup: without it no other key can be opened.",
            )
        if isinstance(error, errors.ClientAuthenticationError) or status in {401, 403}:
            return ConfigurationError(
                f"{self._name} does not accept the credential, or not for this use", action=_PERMISSIONS
            )
        if isinstance(error, errors.HttpResponseError) and status in {400, 404, 405, 409, 501}:
            return ConfigurationError(
                f"{self._name} does not do what is asked (status {status})",
                action=f"Check the key's type and operations. {_PERMISSIONS}",
            )
        return UnavailableError(
            f"{self._name} does not answer, or nobody accepted vouches for it",
            action="Check address, network and certificate authorities (ca=FILE).",
        )


def open_master_key(uri: str, *, create: bool) -> VaultMasterKey:
    """Open a master key of Azure Key Vault or a Managed HSM.

    Args:
        uri: `https://HOST/keys/NAME[/VERSION]?credential=token-file&token-source=FILE`, or
            `?credential=workload-identity&tenant=ID&client=ID&token-source=FILE`; with `kty=` RSA-HSM (default), RSA
            or oct-HSM; with `ca=` and `ca-sha256=` for other authorities than this machine's.
        create: Make the key if it is not there.

    Raises:
        ConfigurationError: Not such an address; no such key, or one that does not serve; the vault refuses the
            credential; Azure's SDK is not installed.
        UnavailableError: The vault does not answer.
    """
    address = parse_service_address(uri, form=_FORM, options=_OPTIONS)
    if address.path[0] != "keys" or len(address.path) not in {2, 3}:
        raise ConfigurationError(f"the master key's address must be {_FORM}")
    return VaultMasterKey(address, create=create)


def _version(key: "KeyVaultKey") -> str:
    version = key.properties.version or ""
    if len(version) != 2 * _VERSION_BYTES or not all(character in "0123456789abcdef" for character in version):
        raise FormatError("the vault's key has no version of 32 hexadecimal digits")
    return version


def _in_memory(text: str) -> int:
    """Return a descriptor of memory with this text: the SDK reads files, and the checked one may change meanwhile."""
    descriptor = os.memfd_create("authorities", os.MFD_CLOEXEC)
    with open(descriptor, "w", encoding="ascii", closefd=False) as file:
        file.write(text)
    return descriptor


def _sdk() -> "ModuleType":
    try:
        import azure.keyvault.keys.crypto  # noqa: PLC0415 - an extra: only who has such a vault needs it
    except ImportError as error:
        raise ConfigurationError(
            "master keys in Azure Key Vault need Azure's SDK", action="Install it: pip install 'strongroom[azure]'"
        ) from error
    return azure.keyvault.keys
