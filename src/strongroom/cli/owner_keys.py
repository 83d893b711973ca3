"""The owner's own keys: files that only the owner may read, and their public halves for handing on."""

import os
import stat
from pathlib import Path
from typing import Any, Final

from strongroom.base.encoding import canonical_json, parse_json_object
from strongroom.base.errors import ConfigurationError, ConflictError, FormatError
from strongroom.base.secret import SecretBytes
from strongroom.cli.state import State, read_file
from strongroom.crypto.keys import ReceivingKey, SigningKey, VerifyingKey
from strongroom.crypto.random import random_id
from strongroom.datasets.storage import write_file
from strongroom.services.files import prepare_folder

_MAX_KEY_FILE_BYTES: Final = 16 << 10
_INIT: Final = "make the keys with: strongroom init"
_HEX_DIGITS: Final = 64


def make_owner_keys(state: State) -> dict[str, str]:
    """Make the keys of an owner, of a submitter and of a recipient of output.

    Returns:
        The thumbprint of each.

    Raises:
        ConflictError: There are keys already.
        ConfigurationError: The folder cannot be used.
    """
    prepare_folder(state.owner)
    there = [path.name for path in (state.owner_key, state.submitter_key, state.recipient_key) if path.exists()]
    if there:
        raise ConflictError(
            f"there are keys in {state.owner} already: {', '.join(there)}",
            action="keep them; for a second owner choose another folder with --state",
        )
    thumbprints: dict[str, str] = {}
    for path in (state.owner_key, state.submitter_key):
        key = SigningKey.generate("ES256")
        _write_private(path, key.to_pem())
        thumbprints[path.stem] = _write_public(path, key.verifying_key.to_jwk())
    receiving = ReceivingKey.generate_p256()
    _write_private(state.recipient_key, receiving.to_pem())
    thumbprints["recipient"] = _write_public(state.recipient_key, _bare(receiving.public_jwk))
    return thumbprints


def prepare_owner_key(state: State) -> SigningKey:
    """Return the key that is to take the owner's place; made at the first time, and used by nothing yet.

    Raises:
        ConfigurationError: The folder cannot be used.
    """
    path = _next_owner_key(state)
    if not path.exists():
        _write_private(path, SigningKey.generate("ES256").to_pem())
    return load_signing_key(path)


def install_owner_key(state: State) -> None:
    """Put the prepared key in the place of the owner's, which is gone then. The caller MUST have had that logged.

    Raises:
        ConfigurationError: The folder cannot be used.
    """
    key = prepare_owner_key(state)
    try:
        _next_owner_key(state).replace(state.owner_key)
    except OSError as error:
        raise ConfigurationError(f"{state.owner_key} cannot be written: {error.strerror}") from error
    _write_public(state.owner_key, key.verifying_key.to_jwk())


def _next_owner_key(state: State) -> Path:
    return state.owner_key.with_name(f"{state.owner_key.stem}-next{state.owner_key.suffix}")


def load_signing_key(path: Path) -> SigningKey:
    """Read a private signing key.

    Raises:
        ConfigurationError: There is none, others may read it, or it is no such key.
    """
    try:
        return SigningKey.from_pem(read_private(path))
    except FormatError as error:
        raise ConfigurationError(f"{path} does not hold a private key", action="restore it from its backup") from error


def load_recipient_key(path: Path) -> ReceivingKey:
    """Read a recipient's private key.

    Raises:
        ConfigurationError: There is none, others may read it, or it is no such key.
    """
    try:
        return ReceivingKey.from_pem(read_private(path))
    except FormatError as error:
        raise ConfigurationError(f"{path} does not hold a private key", action="restore it from its backup") from error


def public_key_of(text: str) -> VerifyingKey:
    """Return the public key in a file: a JWK, or our own private key's PEM.

    Args:
        text: The file's path.

    Raises:
        ConfigurationError: It cannot be read, or holds no such key.
    """
    path = Path(text).expanduser()
    content = read_file(path, what="the key file", action="name a file with a public key (JWK), as `init` writes them")
    try:
        if content.lstrip().startswith(b"{"):
            return VerifyingKey.from_jwk(parse_json_object(content))
        return SigningKey.from_pem(SecretBytes(content)).verifying_key
    except FormatError as error:
        raise ConfigurationError(f"{path} holds neither a JWK nor a private key in PEM form") from error


def thumbprint_of(text: str) -> str:
    """Return a key's thumbprint, given itself or a file with the key.

    Raises:
        ConfigurationError: Neither.
    """
    if len(text) == _HEX_DIGITS and all(character in "0123456789abcdef" for character in text):
        return text
    return public_key_of(text).thumbprint


def _bare(jwk: dict[str, Any]) -> dict[str, Any]:
    return {name: jwk[name] for name in ("kty", "crv", "x", "y")}


def _write_public(private: Path, jwk: dict[str, Any]) -> str:
    write_file(private.with_suffix(".jwk"), canonical_json(jwk) + b"\n")
    return VerifyingKey.from_jwk(jwk).thumbprint


def _write_private(path: Path, content: SecretBytes) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content.reveal())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}") from error


def replace_private(path: Path, content: SecretBytes) -> None:
    """Write a file that only its owner may read, in the place of one of this name, if there is one.

    Raises:
        ConfigurationError: It cannot be written.
    """
    fresh = path.with_name(f".{path.name}.{random_id()}")
    _write_private(fresh, content)
    try:
        fresh.replace(path)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}") from error


def read_private(path: Path) -> SecretBytes:
    """Return what is in a file that only its owner may read.

    Raises:
        ConfigurationError: It cannot be read, or others may read it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigurationError(f"the key {path} cannot be read: {error.strerror}", action=_INIT) from error
    with os.fdopen(descriptor, "rb") as file:
        if stat.S_IMODE(os.fstat(descriptor).st_mode) & 0o077:
            raise ConfigurationError(f"{path} may be read by others", action=f"make it private: chmod 600 {path}")
        return SecretBytes(file.read(_MAX_KEY_FILE_BYTES))
