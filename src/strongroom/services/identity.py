"""A service's identity: one long-lived key, which certifies the keys it works with.

Clients pin the identity key (its SHA-256). It issues a TLS leaf at each start, whose key never leaves the
process, and certificates for the key that signs results and key releases (RS256, as Azure's contracts want it)
and for the key that signs statements and the log (Ed25519).
"""

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from strongroom.base.encoding import canonical_json, parse_json
from strongroom.base.errors import ConfigurationError, FormatError
from strongroom.base.secret import SecretBytes
from strongroom.crypto import x509
from strongroom.crypto.jose import sign_jws
from strongroom.crypto.keys import Algorithm, SigningKey
from strongroom.crypto.random import random_secret
from strongroom.keys.providers.envelope import WrapAlgorithm
from strongroom.keys.providers.local import LocalMasterKey
from strongroom.services.files import prepare_folder, read_file, replace_file

_MAX_KEY_FILE_BYTES: Final = 16 << 10
_IDENTITY_LIFETIME: Final = timedelta(days=20 * 365)
_SIGNING_LIFETIME: Final = timedelta(days=10 * 365)
_TLS_LIFETIME: Final = timedelta(days=397)
_BACKDATED: Final = timedelta(hours=1)
"""Leaves are valid from a little before their making, for peers whose clocks are late."""
_SIGNING_KEY: Final = "signing.key"
_STATE_KEY: Final = "state.key.sealed"
_STATE_KEY_FOR: Final = b"strongroom service state key 1"
_SEALED_FOR: Final = b"strongroom service key 1\0"
_IDENTITY_KEY: Final = "identity.key"
_IDENTITY_CERTIFICATE: Final = "identity.pem"
_NEXT_KEY: Final = "identity-next.key"
_NEXT_CERTIFICATE: Final = "identity-next.pem"
_PREDECESSORS: Final = "predecessors.json"


class KeySealing(Protocol):
    """What seals an attested service's own keys: its master key, which its operator cannot use."""

    def wrap(self, key: SecretBytes, *, context: bytes) -> bytes:
        """Encrypt a key; `context` says what it is for."""

    def unwrap(self, wrapped: bytes, *, context: bytes) -> SecretBytes:
        """Decrypt what `wrap` made in the same context."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertifiedKey:
    """A key with its certificate chain, DER: the leaf, then the identity's."""

    key: SigningKey
    chain_der: tuple[bytes, ...]

    @property
    def thumbprint(self) -> str:
        """SHA-256 of the public key's SubjectPublicKeyInfo, hexadecimal."""
        return self.key.verifying_key.thumbprint

    @property
    def x5c(self) -> list[str]:
        """The chain as JOSE headers carry it (RFC 7515, section 4.1.6)."""
        return x509.to_x5c(self.chain_der)

    def sign(self, payload: bytes, *, header: Mapping[str, Any]) -> str:
        """Return a compact JWS whose header carries `kid` and the chain beside the given members."""
        return sign_jws(payload, key=self.key, header={"kid": self.thumbprint, "x5c": self.x5c, **header})


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """The identity key as the issuer of a service's working certificates.

    Attributes:
        key: The identity key.
        certificate_der: Its self-signed certificate.
        common_name: What the certificates call the service.
        sans: Host names and IP addresses under which clients reach it.
    """

    key: SigningKey
    certificate_der: bytes
    common_name: str
    sans: tuple[str, ...]

    def certify(self, key: SigningKey, *, usage: x509.LeafUsage, now: datetime) -> CertifiedKey:
        """Issue a certificate for one of the service's own keys.

        Args:
            key: The key.
            usage: Its one use, which also decides how long the certificate is valid.
            now: The present time.
        """
        leaf = x509.issue_leaf(
            issuer_cert=self.certificate_der,
            issuer_key=self.key,
            subject_public_key=key.verifying_key,
            common_name=self.common_name,
            sans=self.sans,
            usage=usage,
            not_before=now - _BACKDATED,
            not_after=now + (_TLS_LIFETIME if usage is x509.LeafUsage.TLS else _SIGNING_LIFETIME),
        )
        return CertifiedKey(key=key, chain_der=(leaf, self.certificate_der))


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceIdentity:
    """A service's keys.

    Attributes:
        authority: The identity key, and what it issues certificates with.
        tls: The key of this process's TLS connections.
        signing: The RS256 key for attestation results or key releases.
        statement: The Ed25519 key for statements and log checkpoints.
        predecessors: The identities that the service had before, oldest first.
    """

    authority: Authority
    tls: CertifiedKey
    signing: CertifiedKey
    statement: CertifiedKey
    predecessors: tuple[str, ...] = ()

    @property
    def identity(self) -> str:
        """SHA-256 of the identity key's SubjectPublicKeyInfo, hexadecimal: what others pin."""
        return self.authority.key.verifying_key.thumbprint

    @property
    def key(self) -> SigningKey:
        """The identity key itself."""
        return self.authority.key

    @property
    def certificate_der(self) -> bytes:
        """The identity's self-signed certificate."""
        return self.authority.certificate_der

    @property
    def certificate_pem(self) -> str:
        """The identity certificate as PEM."""
        return x509.to_pem(self.certificate_der)

    @property
    def tls_chain_pem(self) -> str:
        """The TLS leaf and the identity certificate as PEM."""
        return "".join(x509.to_pem(certificate) for certificate in self.tls.chain_der)


def open_identity(
    folder: Path, *, common_name: str, sans: Sequence[str], now: datetime, sealing: KeySealing | None = None
) -> ServiceIdentity:
    """Read a service's identity, or make it on the first start.

    Args:
        folder: The service's state folder, its owner's alone. Private keys are files of mode 600 in it.
        common_name: What the certificates call the service.
        sans: Host names and IP addresses under which clients reach it.
        now: The present time.
        sealing: Seals the private keys at rest, in an attested service; None leaves them in the clear.

    Raises:
        ConfigurationError: The folder cannot be used, or a key in it may be read by others.
        IntegrityError: A sealed key was changed, or belongs to another master key.
    """
    prepare_folder(folder)
    state_key = None if sealing is None else _load_or_make_state_key(folder, sealing)
    _finish_installing(folder, state_key)
    key = load_or_make_key(folder / _IDENTITY_KEY, "ES256", sealing=state_key)
    certificate = _load_or_issue_certificate(folder / _IDENTITY_CERTIFICATE, key, common_name=common_name, now=now)
    authority = Authority(key=key, certificate_der=certificate, common_name=common_name, sans=tuple(sans))
    signing = load_or_make_key(folder / _SIGNING_KEY, "RS256", sealing=state_key)
    statement = load_or_make_key(folder / "statement.key", "Ed25519", sealing=state_key)
    return ServiceIdentity(
        authority=authority,
        tls=authority.certify(SigningKey.generate("ES256"), usage=x509.LeafUsage.TLS, now=now),
        signing=authority.certify(signing, usage=x509.LeafUsage.SIGNING, now=now),
        statement=authority.certify(statement, usage=x509.LeafUsage.SIGNING, now=now),
        predecessors=_read_predecessors(folder),
    )


def prepare_successor(
    folder: Path, *, common_name: str, now: datetime, sealing: KeySealing | None = None
) -> tuple[SigningKey, str]:
    """Return the key that is to take the identity's place, and its certificate (PEM); make them at the first time.

    Nothing else uses them until `install_successor`.

    Args:
        folder: The service's state folder.
        common_name: What the certificate calls the service.
        now: The present time.
        sealing: As in `open_identity`.

    Raises:
        ConfigurationError: The folder cannot be used, or holds something else under their names.
        IntegrityError: A sealed key was changed, or belongs to another master key.
    """
    prepare_folder(folder)
    state_key = None if sealing is None else _load_or_make_state_key(folder, sealing)
    key = load_or_make_key(folder / _NEXT_KEY, "ES256", sealing=state_key)
    certificate = _load_or_issue_certificate(folder / _NEXT_CERTIFICATE, key, common_name=common_name, now=now)
    return key, x509.to_pem(certificate)


def install_successor(folder: Path, *, old: str, sealing: KeySealing | None = None) -> None:
    """Put the prepared key in the place of the identity key, which is gone then; the next start works with it.

    May be called again after a crash at any point; `open_identity` goes on with what was begun. The caller MUST have
    had the rotation logged.

    Args:
        folder: The service's state folder.
        old: The identity that is replaced.
        sealing: As in `open_identity`.

    Raises:
        IntegrityError: A sealed key was changed, or belongs to another master key.
        UnavailableError: The disk does not take it.
    """
    state_key = None if sealing is None else _load_or_make_state_key(folder, sealing)
    predecessors = _read_predecessors(folder)
    if old not in predecessors:
        replace_file(folder / _PREDECESSORS, canonical_json([*predecessors, old]))
    _finish_installing(folder, state_key)


def has_successor(folder: Path, *, new: str, sealing: KeySealing) -> bool:
    """Return whether this is the identity whose sealed key is prepared to take the place of the present one.

    Raises:
        IntegrityError: The sealed key was changed, or belongs to another master key.
    """
    key = _load_key(folder / _NEXT_KEY, "ES256", sealing=_load_or_make_state_key(folder, sealing))
    return key is not None and key.verifying_key.thumbprint == new


def _finish_installing(folder: Path, sealing: LocalMasterKey | None) -> None:
    """Install the prepared key if that was begun: once the identity stands among the predecessors, it is replaced."""
    successor = _load_key(folder / _NEXT_KEY, "ES256", sealing=sealing)
    if successor is None:
        return
    current = _load_key(folder / _IDENTITY_KEY, "ES256", sealing=sealing)
    if current is None:
        return
    named, next_named = current.verifying_key.thumbprint, successor.verifying_key.thumbprint
    if named != next_named and named not in _read_predecessors(folder):
        return
    _write_key(folder / _IDENTITY_KEY, successor, sealing=sealing)
    certificate = read_file(folder / _NEXT_CERTIFICATE)
    if certificate is not None:
        replace_file(folder / _IDENTITY_CERTIFICATE, certificate)
    (folder / _NEXT_CERTIFICATE).unlink(missing_ok=True)
    _key_path(folder / _NEXT_KEY, sealing).unlink(missing_ok=True)  # last: as long as it is there, this is not done


def _read_predecessors(folder: Path) -> tuple[str, ...]:
    content = read_file(folder / _PREDECESSORS)
    try:
        found = [] if content is None else parse_json(content)
    except FormatError as error:
        raise ConfigurationError(f"{folder / _PREDECESSORS} is damaged", action="Restore it.") from error
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise ConfigurationError(f"{folder / _PREDECESSORS} is damaged", action="Restore it.")
    return tuple(found)


def replace_signing_key(folder: Path, identity: ServiceIdentity, key: SigningKey, *, now: datetime) -> ServiceIdentity:
    """Put a new signing key in the place of the old one, of whose private half nothing stays on the disk.

    The caller MUST go on publishing the old certificate for as long as what the old key signed is to be accepted.

    Args:
        folder: The service's state folder.
        identity: The service's keys.
        key: The new key, RS256.
        now: The present time.

    Returns:
        The same identity with the new signing key, certified.

    Raises:
        UnavailableError: The disk does not take it; the old key is still there.
    """
    replace_file(folder / _SIGNING_KEY, key.to_pem().reveal())
    return replace(identity, signing=identity.authority.certify(key, usage=x509.LeafUsage.SIGNING, now=now))


def tls_names(url: str, names: Sequence[str]) -> list[str]:
    """Return the names for a service's TLS certificate: its address's host, then the further ones.

    Raises:
        ConfigurationError: The address names no host.
    """
    host = urlsplit(url).hostname
    if not host:
        raise ConfigurationError("the service's address (url) names no host", action="Write it as https://HOST:PORT.")
    return list(dict.fromkeys([host, *names]))


def has_sealed_identity(folder: Path) -> bool:
    """Return whether an attested service was started in this state folder before."""
    return (folder / _STATE_KEY).exists()


def _load_or_make_state_key(folder: Path, master_key: KeySealing) -> LocalMasterKey:
    """Return the key that seals the service's other keys: so the master key's holder sees none of those."""
    path = folder / _STATE_KEY
    wrapped = _read_private(path)
    if wrapped is None:
        key = random_secret()
        replace_file(path, master_key.wrap(key, context=_STATE_KEY_FOR))
    else:
        key = master_key.unwrap(wrapped.reveal(), context=_STATE_KEY_FOR)
    return LocalMasterKey(key, algorithm=WrapAlgorithm.STATE_A256GCM)


def load_or_make_key(path: Path, algorithm: Algorithm, *, sealing: LocalMasterKey | None = None) -> SigningKey:
    """Read a private key from its file, or make it there; mode 600.

    Args:
        path: The file.
        algorithm: What the key is for.
        sealing: What the file is encrypted with, under another name; None for a PEM file.

    Raises:
        ConfigurationError: The file holds something else, or others may read it.
        IntegrityError: A sealed key was changed, or belongs to another master key.
    """
    key = _load_key(path, algorithm, sealing=sealing)
    if key is None:
        key = SigningKey.generate(algorithm)
        _write_key(path, key, sealing=sealing)
    return key


def _load_key(path: Path, algorithm: Algorithm, *, sealing: LocalMasterKey | None) -> SigningKey | None:
    path = _key_path(path, sealing)
    pem = _read_private(path)
    if pem is None:
        return None
    if sealing is not None:
        pem = sealing.unwrap(pem.reveal(), context=_sealed_for(path))
    try:
        key = SigningKey.from_pem(pem)
    except FormatError as error:
        raise ConfigurationError(f"{path} does not hold a key", action="Restore it from its backup.") from error
    if key.algorithm != algorithm:
        raise ConfigurationError(f"{path} holds a key of another kind", action="Restore it from its backup.")
    return key


def _write_key(path: Path, key: SigningKey, *, sealing: LocalMasterKey | None) -> None:
    path, pem = _key_path(path, sealing), key.to_pem()
    replace_file(path, pem.reveal() if sealing is None else sealing.wrap(pem, context=_sealed_for(path)))


def _key_path(path: Path, sealing: LocalMasterKey | None) -> Path:
    return path if sealing is None else path.with_name(f"{path.name}.sealed")


def _sealed_for(path: Path) -> bytes:
    return _SEALED_FOR + path.name.encode("ascii")


def _load_or_issue_certificate(path: Path, key: SigningKey, *, common_name: str, now: datetime) -> bytes:
    if not path.exists():
        certificate = x509.new_identity(
            common_name=common_name, key=key, not_before=now - _BACKDATED, not_after=now + _IDENTITY_LIFETIME
        )
        replace_file(path, x509.to_pem(certificate).encode("ascii"))
        return certificate
    try:
        certificate = x509.parse_pem_chain(path.read_bytes())[0]
    except (FormatError, OSError) as error:
        raise ConfigurationError(f"{path} does not hold a certificate") from error
    if x509.spki_sha256(certificate) != key.verifying_key.thumbprint:
        raise ConfigurationError(f"{path} is not the certificate of the identity key beside it")
    return certificate


def _read_private(path: Path) -> SecretBytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as file:
        if stat.S_IMODE(os.fstat(descriptor).st_mode) & 0o077:
            raise ConfigurationError(f"{path} may be read by others", action=f"Make it private: chmod 600 {path}")
        return SecretBytes(file.read(_MAX_KEY_FILE_BYTES))
