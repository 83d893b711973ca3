"""A master key in a hardware security module: `pkcs11:token=T;object=K?module-path=FILE&pin-source=FILE`.

An AES-256 key that is sensitive and not extractable; AES-GCM, with the context as additional authenticated data: the
one authenticated mechanism that SoftHSM and the vendors' modules share (CKM_AES_GCM).

Source: RFC 7512; PKCS #11 Specification 3.1, sections 4.9 (secret keys) and 6.13 (AES-GCM).
"""

import hashlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import unquote_to_bytes

from strongroom.base.errors import ConfigurationError, StrongroomError, UnavailableError
from strongroom.base.secret import SecretBytes
from strongroom.crypto.random import random_bytes, random_secret
from strongroom.keys.providers import envelope
from strongroom.keys.providers.envelope import WrapAlgorithm
from strongroom.keys.providers.secret_file import read_secret_text
from strongroom.keys.providers.uri import absolute_path, demand_plain, parse_options

if TYPE_CHECKING:
    from types import ModuleType

    import pkcs11

_FORM: Final = "pkcs11:token=NAME;object=NAME?module-path=FILE&pin-source=FILE"
_PATH: Final = frozenset({"token", "serial", "object", "id", "type"})
_QUERY: Final = frozenset({"module-path", "module-sha256", "pin-source"})
_ALGORITHM: Final = WrapAlgorithm.PKCS11_A256GCM
_KEY_BITS: Final = 256
_NONCE_BYTES: Final = 12
_TAG_BITS: Final = 128
_MIN_BODY_BYTES: Final = _NONCE_BYTES + _TAG_BITS // 8
_GONE: Final = "Check that the module's device or daemon is there; the service need not be restarted."
_PIN: Final = "Write the token user's PIN, one line, into the file that pin-source names."
_COPIES: Final[dict[str, str]] = {}
"""Copies in memory of modules that addresses pin, by digest: a process loads each once."""
_SESSION_ENDED: Final = (
    "SessionHandleInvalid",
    "SessionClosed",
    "UserNotLoggedIn",
    "KeyHandleInvalid",
    "ObjectHandleInvalid",
    "DeviceRemoved",
)
_MEANINGS: Final = (
    (
        ("PinIncorrect", "PinInvalid", "PinLenRange"),
        "does not accept the PIN",
        f"{_PIN} Tokens lock after a few wrong ones.",
    ),
    (
        ("PinLocked", "PinExpired", "UserPinNotInitialized"),
        "has a PIN that is locked, expired or not set",
        "Have the token's security officer set it anew.",
    ),
    (
        ("NoSuchToken", "MultipleTokensReturned"),
        "is not there, or not the only one of its name",
        "Check module-path and token; name the serial number where labels repeat.",
    ),
    (
        ("NoSuchKey", "MultipleObjectsReturned"),
        "has no key {key}, or several",
        "Restore the token from its backup: without this key no other key can be opened.",
    ),
    (
        ("MechanismInvalid", "MechanismParamInvalid"),
        "does not support AES-GCM with a nonce of ours (CKM_AES_GCM)",
        "Use a module that does: docs/how-to/master-key.md names what is needed.",
    ),
)
"""What the module's errors mean for a person, and what to do.

Source: PKCS #11 Specification 3.1, section 5.1.
"""
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pkcs11Address:
    """Where a key is.

    Attributes:
        module: The vendor's library.
        module_sha256: The digest of that file, hexadecimal; None accepts whatever lies there.
        pin_file: Owner-only file with the token user's PIN.
        token, serial: Which token; at least one is given.
        label, key_id: Which key; the label is given, the identifier may be.
    """

    module: Path
    module_sha256: str | None
    pin_file: Path
    token: str | None
    serial: bytes | None
    label: str
    key_id: bytes | None


def parse_address(uri: str) -> Pkcs11Address:
    """Read an RFC 7512 address.

    Raises:
        ConfigurationError: Not such an address, an unknown or repeated attribute, no token, object, module or PIN
            file; the PIN itself in it (`pin-value`).
    """
    demand_plain(uri, form=_FORM)
    path_text, _, query_text = uri.removeprefix("pkcs11:").partition("?")
    if not uri.startswith("pkcs11:"):
        raise ConfigurationError(f"the master key's address must be {_FORM}")
    if "pin-value" in query_text:
        raise ConfigurationError("the master key's address holds a PIN", action=f"Change the PIN. {_PIN}")
    path = parse_options(path_text, names=_PATH, separator=";")
    query = parse_options(query_text, names=_QUERY, separator="&")
    if not {"module-path", "pin-source"} <= set(query) or "object" not in path or not {"token", "serial"} & set(path):
        raise ConfigurationError(f"the master key's address must be {_FORM}")
    if path.get("type", "secret-key") != "secret-key":
        raise ConfigurationError("a master key in a hardware security module is of type secret-key")
    raw = dict(part.partition("=")[::2] for part in path_text.split(";"))
    return Pkcs11Address(
        module=absolute_path(query["module-path"], name="module-path"),
        module_sha256=query.get("module-sha256"),
        pin_file=absolute_path(query["pin-source"].removeprefix("file:"), name="pin-source"),
        token=path.get("token"),
        serial=path["serial"].encode() if "serial" in path else None,
        label=path["object"],
        key_id=unquote_to_bytes(raw["id"]) if "id" in path else None,
    )


class Pkcs11MasterKey:
    """A key in a token. Threads may share it: one operation runs at a time.

    Args:
        address: Where it is.
        create: Make it if it is not there.
    """

    def __init__(self, address: Pkcs11Address, *, create: bool) -> None:
        self._address = address
        self._library = _library()
        self._module = str(address.module) if address.module_sha256 is None else _pinned_module(address)
        self._lock = threading.Lock()
        self._session: pkcs11.Session | None = None
        self._key: Any = None
        self._name = f"the token {address.token or address.serial!r}"
        with self._lock:
            self._translated(lambda: self._open(create=create))

    def wrap(self, key: SecretBytes, *, context: bytes) -> bytes:
        """Have a key encrypted; `context` says what it is for.

        Raises:
            ConfigurationError: The token does not know the key or the PIN any more.
            UnavailableError: The module does not work.
        """
        nonce = random_bytes(_NONCE_BYTES)
        sealed = self._run(lambda: self._encrypt(nonce, key, context))
        return envelope.write(_ALGORITHM, nonce + sealed)

    def unwrap(self, wrapped: bytes, *, context: bytes) -> SecretBytes:
        """Have decrypted what `wrap` made in the same context.

        Raises:
            IntegrityError: Wrapped by another master key, for another context, or changed.
            ConfigurationError: The token does not know the key or the PIN any more.
            UnavailableError: The module does not work.
        """
        body = envelope.read(_ALGORITHM, wrapped, min_body_bytes=_MIN_BODY_BYTES)
        return self._run(lambda: self._decrypt(body[:_NONCE_BYTES], body[_NONCE_BYTES:], context))

    def close(self) -> None:
        """Log out."""
        with self._lock:
            self._forget()

    # --- one operation, under the lock ----------------------------------------------------------------------------

    def _run(self, operation: Callable[[], _T]) -> _T:
        """Run an operation; once more in a new session where the old one ended (the module was restarted)."""
        with self._lock:
            if self._session is not None:
                try:
                    return self._translated(operation)
                except _SessionEndedError:
                    self._forget()
            self._translated(lambda: self._open(create=False))
            return self._translated(operation)

    def _encrypt(self, nonce: bytes, key: SecretBytes, context: bytes) -> bytes:
        sealed: bytes = self._key.encrypt(
            key.reveal(),
            mechanism=self._library.Mechanism.AES_GCM,
            mechanism_param=self._parameters(nonce, context),
        )
        return sealed

    def _decrypt(self, nonce: bytes, sealed: bytes, context: bytes) -> SecretBytes:
        errors = self._library.exceptions
        try:
            return SecretBytes(self._gcm_decrypt(nonce, sealed, context))
        except (errors.EncryptedDataInvalid, errors.EncryptedDataLenRange) as error:
            raise envelope.damaged() from error
        except (errors.GeneralError, errors.FunctionFailed, errors.DataInvalid) as error:
            # What modules say of a wrong tag, and of their own faults as well: a module that still works meant the tag.
            self._demand_working()
            raise envelope.damaged() from error

    def _gcm_decrypt(self, nonce: bytes, sealed: bytes, context: bytes) -> bytes:
        opened: bytes = self._key.decrypt(
            sealed, mechanism=self._library.Mechanism.AES_GCM, mechanism_param=self._parameters(nonce, context)
        )
        return opened

    def _demand_working(self) -> None:
        probe, nonce = random_secret(), random_bytes(_NONCE_BYTES)
        if self._gcm_decrypt(nonce, self._encrypt(nonce, probe, b"probe"), b"probe") != probe.reveal():
            raise UnavailableError(f"{self._name} does not decrypt what it encrypted", action=_GONE)

    def _parameters(self, nonce: bytes, context: bytes) -> Any:  # noqa: ANN401 - the library's parameters
        return self._library.GCMParams(nonce, envelope.bound(_ALGORITHM, context), _TAG_BITS)

    def _forget(self) -> None:
        session, self._session, self._key = self._session, None, None
        if session is not None:
            try:
                session.close()
            except self._library.exceptions.PKCS11Error:
                return  # it had ended already

    # --- opening --------------------------------------------------------------------------------------------------

    def _open(self, *, create: bool) -> None:
        address = self._address
        pin = read_secret_text(address.pin_file, what="the PIN's file", action=_PIN)
        loaded = self._library.lib(self._module)
        found = {"token_label": address.token, "token_serial": address.serial}
        token = loaded.get_token(**{name: value for name, value in found.items() if value is not None})
        try:
            self._session = token.open(rw=create, user_pin=pin.reveal().decode("ascii"))
        except self._library.exceptions.UserAlreadyLoggedIn:
            # A login is the whole process's: another master key of this token is open, whose PIN the token accepted.
            self._session = token.open(rw=create)
        try:
            self._key = self._find(create=create)
            self._demand_guarded()
        except BaseException:
            self._forget()
            raise

    def _find(self, *, create: bool) -> Any:  # noqa: ANN401 - the library's key
        assert self._session is not None
        constants, address = self._library, self._address
        try:
            return self._session.get_key(
                object_class=constants.ObjectClass.SECRET_KEY, label=address.label, id=address.key_id
            )
        except constants.exceptions.NoSuchKey:
            if not create:
                raise
        attribute = constants.Attribute
        return self._session.generate_key(
            constants.KeyType.AES,
            _KEY_BITS,
            label=address.label,
            id=address.key_id,
            store=True,
            capabilities=constants.MechanismFlag.ENCRYPT | constants.MechanismFlag.DECRYPT,
            template={attribute.SENSITIVE: True, attribute.EXTRACTABLE: False, attribute.PRIVATE: True},
        )

    def _demand_guarded(self) -> None:
        """Refuse a key that could leave its token, or is not AES-256."""
        attribute = self._library.Attribute
        wanted = {
            "key type": (attribute.KEY_TYPE, self._library.KeyType.AES),
            "length": (attribute.VALUE_LEN, _KEY_BITS // 8),
            "sensitive": (attribute.SENSITIVE, True),
            "extractable": (attribute.EXTRACTABLE, False),
        }
        wrong = [name for name, (which, value) in wanted.items() if self._key[which] != value]
        if wrong:
            raise ConfigurationError(
                f"the key {self._address.label} of {self._name} does not serve as a master key: {', '.join(wrong)}",
                action="Make another one in the token: AES-256, sensitive, not extractable.",
            )

    # --- errors ---------------------------------------------------------------------------------------------------

    def _translated(self, operation: Callable[[], _T]) -> _T:
        try:
            return operation()
        except StrongroomError:
            raise
        except (self._library.exceptions.PKCS11Error, RuntimeError, OSError) as error:
            # The library's errors carry the module's number of the error, and nothing of ours.
            raise self._translate(error) from error

    def _translate(self, error: Exception) -> StrongroomError:
        errors = self._library.exceptions
        if isinstance(error, _names(errors, _SESSION_ENDED)):
            return _SessionEndedError(f"the session with {self._name} ended", action=_GONE)
        for names, words, action in _MEANINGS:
            if isinstance(error, _names(errors, names)):
                return ConfigurationError(f"{self._name} {words.format(key=self._address.label)}", action=action)
        if isinstance(error, errors.PKCS11Error):
            return UnavailableError(f"{self._name} does not work ({type(error).__name__})", action=_GONE)
        return ConfigurationError(
            f"the module {self._address.module} cannot be loaded", action="Check module-path, and install it."
        )


def _names(errors: "ModuleType", names: tuple[str, ...]) -> tuple[type[Exception], ...]:
    return tuple(getattr(errors, name) for name in names)


class _SessionEndedError(UnavailableError):
    """The module ended our session: a new one may work."""


def open_master_key(uri: str, *, create: bool) -> Pkcs11MasterKey:
    """Open a master key of a hardware security module.

    Args:
        uri: As the module says; the PIN is in the file that `pin-source` names.
        create: Make the key if it is not there.

    Raises:
        ConfigurationError: Not such an address; no such module, token or key; the PIN is not accepted; a key that is
            extractable, not sensitive, or not AES-256; python-pkcs11 is not installed.
        UnavailableError: The module does not work.
    """
    return Pkcs11MasterKey(parse_address(uri), create=create)


def _pinned_module(address: Pkcs11Address) -> str:
    """Return where a copy of the module lies in memory: the bytes that were checked are the bytes that are loaded.

    The copy stays for the life of the process, as what was loaded from it does.

    Raises:
        ConfigurationError: The file cannot be read, or is not the one that the address says.
    """
    try:
        content = address.module.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"the module {address.module} cannot be read: {error.strerror}", action="Check module-path, and install it."
        ) from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != address.module_sha256:
        raise ConfigurationError(
            f"the module {address.module} is not the one that the master key's address pins",
            action="Install the one that was reviewed. Another one is code in this process that nobody approved.",
        )
    if digest not in _COPIES:
        descriptor = os.memfd_create("module", os.MFD_CLOEXEC)
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        _COPIES[digest] = f"/proc/self/fd/{descriptor}"
    return _COPIES[digest]


def _library() -> "ModuleType":
    try:
        import pkcs11  # noqa: PLC0415 - an extra: only who has such a module needs it
    except ImportError as error:
        raise ConfigurationError(
            "master keys in hardware security modules need python-pkcs11",
            action="Install it: pip install 'strongroom[pkcs11]'",
        ) from error
    return pkcs11
