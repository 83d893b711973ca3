"""A master key in HashiCorp Vault's or OpenBao's transit engine: `vault://HOST:PORT/MOUNT/KEY?token-source=FILE`.

The service's process holds a token that may encrypt and decrypt with one key; the key itself never leaves the vault.
What is wrapped passes through the vault in the clear: whoever runs the vault is trusted as a master key's holder is.

Source: HashiCorp Vault API documentation, Transit secrets engine; OpenBao API documentation, Transit.
"""

import base64
import ssl
from pathlib import Path
from typing import Any, Final

import urllib3

from strongroom.base.encoding import Json, canonical_json, parse_json_object
from strongroom.base.errors import (
    ConfigurationError,
    FormatError,
    StrongroomError,
    UnavailableError,
    VerificationError,
)
from strongroom.base.secret import SecretBytes
from strongroom.keys.providers import envelope
from strongroom.keys.providers.authorities import tls_context
from strongroom.keys.providers.envelope import WrapAlgorithm
from strongroom.keys.providers.secret_file import read_secret_text
from strongroom.keys.providers.uri import ServiceAddress, parse_service_address

_FORM: Final = "vault://HOST:PORT/MOUNT/KEY?token-source=FILE[&ca=FILE&ca-sha256=HEX][&namespace=NAME]"
_OPTIONS: Final = frozenset({"token-source", "ca", "ca-sha256", "namespace"})
_ALGORITHM: Final = WrapAlgorithm.TRANSIT_A256GCM
_KEY_TYPE: Final = "aes256-gcm96"
_TIMEOUT: Final = urllib3.Timeout(connect=5.0, read=15.0)
_RETRIES: Final = urllib3.Retry(
    total=3,
    backoff_factor=0.2,
    backoff_max=2.0,
    allowed_methods=None,  # encrypting, decrypting and reading change nothing: each may be asked twice
    status_forcelist=(412, 429, 500, 502, 503, 504),
    raise_on_status=False,
    respect_retry_after_header=False,  # the caller waits, and a request of a person has a time limit
    redirect=False,
)
_MAX_ANSWER_BYTES: Final = 1 << 20
_VERSION_BYTES: Final = 4
_MIN_BODY_BYTES: Final = _VERSION_BYTES + 28
_CHECK_ACCESS: Final = (
    "Give the token a policy that allows to read, encrypt and decrypt with the key; or renew it in its file."
)


class TransitMasterKey:
    """A key of a transit engine.

    Args:
        address: Where the key is.
    """

    def __init__(self, address: ServiceAddress) -> None:
        *mount, self._key = address.path
        self._mount = "/".join(mount)
        self._base = f"https://{address.host}/v1/{self._mount}"
        self._token_file: Path = address.file("token-source")
        self._namespace = address.options.get("namespace")
        self._name = f"the vault at {address.host}"
        self._pool = urllib3.PoolManager(
            ssl_context=tls_context(address), timeout=_TIMEOUT, retries=_RETRIES, num_pools=1, maxsize=4
        )

    def wrap(self, key: SecretBytes, *, context: bytes) -> bytes:
        """Have a key encrypted; `context` says what it is for.

        Raises:
            ConfigurationError: The vault refuses: no such key, or the token does not allow it.
            UnavailableError: The vault does not answer.
            VerificationError: What answers is not vouched for by the accepted authorities.
        """
        body: Json = {"plaintext": _b64(key.reveal()), "associated_data": _b64(envelope.bound(_ALGORITHM, context))}
        status, data = self._ask("POST", f"encrypt/{self._key}", body)
        self._demand(status, data, "encrypt")
        match data:
            case {"ciphertext": str(text)}:
                return envelope.write(_ALGORITHM, _pack(text))
            case _:
                raise FormatError(f"{self._name} answered no ciphertext")

    def unwrap(self, wrapped: bytes, *, context: bytes) -> SecretBytes:
        """Have decrypted what `wrap` made in the same context.

        Raises:
            IntegrityError: Wrapped by another master key, for another context, or changed.
            ConfigurationError: The vault refuses: no such key, or the token does not allow it.
            UnavailableError: The vault does not answer.
            VerificationError: What answers is not vouched for by the accepted authorities.
        """
        packed = envelope.read(_ALGORITHM, wrapped, min_body_bytes=_MIN_BODY_BYTES)
        body: Json = {"ciphertext": _unpack(packed), "associated_data": _b64(envelope.bound(_ALGORITHM, context))}
        status, data = self._ask("POST", f"decrypt/{self._key}", body)
        if status == 400 and not _is_key_missing(data):  # noqa: PLR2004 - Bad Request: the ciphertext does not open
            raise envelope.damaged()
        self._demand(status, data, "decrypt")
        match data:
            case {"plaintext": str(text)}:
                return SecretBytes(_unb64(text))
            case _:
                raise FormatError(f"{self._name} answered no plaintext")

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()

    def check(self, *, create: bool) -> None:
        """Check that the key is one that cannot leave the vault and binds a context; make it if it may be made.

        Raises:
            ConfigurationError: There is no such key, it is of another kind, or the token does not allow to read it.
        """
        status, data = self._ask("GET", f"keys/{self._key}")
        if create and (status == 404 or _is_key_missing(data)):  # noqa: PLR2004 - Not Found
            made, answer = self._ask("POST", f"keys/{self._key}", {"type": _KEY_TYPE, "exportable": False})
            self._demand(made, answer, "make")
            status, data = self._ask("GET", f"keys/{self._key}")
        self._demand(status, data, "read")
        wanted: dict[str, Json] = {
            "type": _KEY_TYPE,
            "exportable": False,
            "allow_plaintext_backup": False,
            "derived": False,
            "supports_encryption": True,
            "supports_decryption": True,
        }
        wrong = [name for name, value in wanted.items() if data.get(name) != value]
        if wrong:
            raise ConfigurationError(
                f"the key {self._key} of {self._name} does not serve as a master key: {', '.join(wrong)}",
                action=f"Make another one: type {_KEY_TYPE}, not derived, not exportable, without plaintext backup.",
            )

    def _ask(self, method: str, path: str, body: Json = None) -> tuple[int, dict[str, Any]]:
        token = read_secret_text(
            self._token_file, what="the vault's token", action="Have it written there by your vault's agent."
        )
        headers = {"x-vault-token": token.reveal().decode("ascii"), "x-vault-request": "true"}
        if self._namespace is not None:
            headers["x-vault-namespace"] = self._namespace
        if body is not None:
            headers["content-type"] = "application/json"
        try:
            answer = self._pool.request(
                method,
                f"{self._base}/{path}",
                body=None if body is None else canonical_json(body),
                headers=headers,
                redirect=False,
                preload_content=False,
            )
            try:
                return answer.status, _content(answer.read(_MAX_ANSWER_BYTES))
            finally:
                answer.release_conn()
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise self._unreachable(error) from None  # a library's error may show what was sent

    def _unreachable(self, error: Exception) -> StrongroomError:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLError | urllib3.exceptions.SSLError):
            return VerificationError(
                f"what answers is not {self._name}: no accepted authority vouches for it",
                action="Check the address, and the certificate authorities that it names (ca=FILE).",
            )
        return UnavailableError(f"{self._name} does not answer", action="Start it, or check address and network.")

    def _demand(self, status: int, data: dict[str, Any], what: str) -> None:
        """Translate the vault's refusals.

        Source: HashiCorp Vault API documentation, HTTP status codes.
        """
        if status in {200, 204}:
            return
        if status >= 500 or status in {412, 429, 472, 473}:  # noqa: PLR2004 - sealed, standby, overloaded
            raise UnavailableError(
                f"{self._name} cannot {what} now (status {status})", action="Unseal it, or see its own log."
            )
        if status == 403:  # noqa: PLR2004 - Forbidden
            raise ConfigurationError(f"{self._name} does not allow its token to {what} the key", action=_CHECK_ACCESS)
        if status in {301, 302, 307, 308}:
            raise ConfigurationError(
                f"{self._name} sends its callers elsewhere", action="Name the active node, or a load balancer."
            )
        if status == 404 or _is_key_missing(data):  # noqa: PLR2004 - Not Found
            raise ConfigurationError(
                f"{self._name} has no key {self._key} in {self._mount}",
                action="Restore the vault from its backup: without this key no other key can be opened.",
            )
        raise ConfigurationError(f"{self._name} does not {what} the key (status {status})", action=_CHECK_ACCESS)


def open_master_key(uri: str, *, create: bool) -> TransitMasterKey:
    """Open a master key of a transit engine.

    Args:
        uri: As the module says.
        create: Make the key if it is not there.

    Raises:
        ConfigurationError: Not such an address; the key is missing, or of a kind that does not serve; the token's file
            is not its owner's alone, or the token does not allow it.
        UnavailableError: The vault does not answer, or is sealed.
        VerificationError: What answers is not vouched for by the accepted authorities.
    """
    address = parse_service_address(uri, form=_FORM, options=_OPTIONS)
    if len(address.path) < 2:  # noqa: PLR2004 - mount and key
        raise ConfigurationError(f"the master key's address must be {_FORM}")
    key = TransitMasterKey(address)
    try:
        key.check(create=create)
    except BaseException:
        key.close()
        raise
    return key


def _content(body: bytes) -> dict[str, Any]:
    """Return an answer's `data`, or its `errors`; nothing for an empty answer."""
    try:
        content = parse_json_object(body) if body else {}
    except FormatError:
        return {}
    data = content.get("data")
    return data if isinstance(data, dict) else {"errors": content.get("errors")}


def _is_key_missing(data: dict[str, Any]) -> bool:
    errors = data.get("errors")
    return isinstance(errors, list) and any("key not found" in str(error) for error in errors)


def _pack(ciphertext: str) -> bytes:
    """Return `vault:vN:BASE64` as N (4 bytes) and the bytes: text has spellings, and every stored bit must count."""
    prefix, version, encoded = (*ciphertext.split(":"), "", "")[:3]
    number = version.removeprefix("v")
    if prefix != "vault" or not number.isdecimal() or int(number) >= 1 << 32:
        raise FormatError("the vault's ciphertext is of an unknown form")
    return int(number).to_bytes(_VERSION_BYTES, "big") + _unb64(encoded)


def _unpack(packed: bytes) -> str:
    return f"vault:v{int.from_bytes(packed[:_VERSION_BYTES], 'big')}:{_b64(packed[_VERSION_BYTES:])}"


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _unb64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise FormatError("the vault's answer is not base64") from error
