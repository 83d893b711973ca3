"""Client of an Azure Key Vault or Managed HSM: from inside a TEE one call, `release`; for an owner `wrapkey`.

The same contract that our own key service speaks below `/keys`. The connection and the access token decide whether
there is an answer; secrecy rests on the key being wrapped to this TEE, and authenticity on the key being the pinned
one.
Source: Azure Key Vault REST API, "Release"; "Authentication, requests and responses"; "Throttling guidance".
"""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from strongroom.base.encoding import canonical_json, from_any_b64, parse_json_object, to_b64url
from strongroom.base.errors import (
    AuthenticationError,
    FormatError,
    NotFoundError,
    RateError,
    RefusedError,
    StrongroomError,
    UnavailableError,
)
from strongroom.base.limits import LIMITS
from strongroom.base.secret import SecretBytes
from strongroom.base.workflow import Step
from strongroom.clients.azure_faults import read_fault
from strongroom.clients.azure_identity import AccessToken, access_token
from strongroom.clients.https import Answered, Https, patiently
from strongroom.clients.vault_release import ReleaseRequest, open_release, verify_release
from strongroom.crypto.keys import ReceivingKey
from strongroom.crypto.random import random_bytes
from strongroom.crypto.web_pki import pinned_roots
from strongroom.keys.vault_hierarchy import ReleasedKey
from strongroom.wire.vault_key import DEFAULT_RESOURCES, VaultAddress, VaultKey

API_VERSION: Final = "7.4"
ENVELOPE: Final = "RSA_AES_KEY_WRAP_256"
_NONCE_BYTES: Final = 24
_SHOWN_CHALLENGE: Final = 1200
_UNAUTHORIZED = 401
_FIRST_SERVER_ERROR: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultRelease:
    """A key that a vault released into this TEE.

    Attributes:
        released: The key.
        nonce: What the signed answer repeated.
        policy: The key's release policy, as the vault says it: JSON.
        policy_immutable: Whether the vault says that the policy cannot change.
    """

    released: ReleasedKey
    nonce: str
    policy: bytes
    policy_immutable: bool


class AzureKeyVaultClient:
    """One TEE's conversation with the vault that keeps one key.

    Args:
        key: The key that a binding pins.
        https: The vault.
        token: Asks for a bearer token.
        roots_der: The root certificates that the key's statement pins.
        receiving_key: The TEE's ephemeral RSA key, named in its runtime data.
        now: The time.
        wait: Waits some seconds, where the vault asks for it.
    """

    def __init__(
        self,
        key: VaultKey,
        https: Https,
        *,
        token: AccessToken,
        roots_der: Sequence[bytes],
        receiving_key: ReceivingKey,
        now: Callable[[], datetime],
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self._key = key
        self._https = https
        self._token = token
        self._roots_der = tuple(roots_der)
        self._receiving_key = receiving_key
        self._now = now
        self._wait = wait

    def release(self, result: str) -> VaultRelease:
        """Have the vault release the key into this TEE.

        1. Ask with the attestation result and a fresh nonce.
        2. Verify the answer: signed by the vault, to this very request (`verify_release`).
        3. Open it with this TEE's key, and compare the key with the pinned one (`open_release`).

        Args:
            result: The attestation result, whose runtime data name this TEE's key.

        Raises:
            RefusedError: The vault says no: the result does not meet the key's release policy, the key is disabled, or
                this machine's identity may not release it.
            AuthenticationError: The vault does not accept this machine's token.
            NotFoundError: There is no such key.
            RateError: The vault wants to be asked later.
            VerificationError: What answered is not the vault, or not to this request.
            IntegrityError: The key is for another TEE, or not the pinned one.
            UnavailableError: The vault does not answer.
        """
        request = ReleaseRequest(api_version=API_VERSION, nonce=to_b64url(random_bytes(_NONCE_BYTES)), enc=ENVELOPE)
        answer = self._ask(request, result)  # 1
        signed = verify_release(  # 2
            _value(answer), key=self._key, request=request, roots_der=self._roots_der, now=self._now()
        )
        released = open_release(signed, key=self._key, request=request, receiving_key=self._receiving_key)  # 3
        return VaultRelease(
            released=released,
            nonce=request.nonce,
            policy=signed.policy,
            policy_immutable=signed.policy_immutable,
        )

    def _ask(self, request: ReleaseRequest, result: str) -> Answered:
        path = f"/keys/{self._key.key}/{self._key.key_version}/release?api-version={request.api_version}"
        body = canonical_json({"target": result, "nonce": request.nonce, "enc": request.enc})
        answer = patiently(lambda: self._post(path, body), wait=self._wait)
        if answer.status == _UNAUTHORIZED:  # the token may have run out between being given and being used
            answer = patiently(lambda: self._post(path, body), wait=self._wait)
        if not answer.is_success:
            raise _refused(answer, f"key {self._key.key} of {self._key.url}")
        return answer

    def _post(self, path: str, body: bytes) -> Answered:
        try:
            return _send(self._https, path, body, token=self._token())
        except StrongroomError as error:
            raise error.at(Step.RELEASE) from error.__cause__


def connect_vault(
    key: VaultKey, address: VaultAddress, *, receiving_key: ReceivingKey, now: Callable[[], datetime]
) -> AzureKeyVaultClient:
    """Return a client for a key, as the host says how to reach it.

    Args:
        key: The statement that the binding pins; the caller has compared its digest.
        address: The host's word.
        receiving_key: The TEE's ephemeral RSA key.
        now: The time.

    Raises:
        ConfigurationError: An address or certificate is none.
        UntrustedRootError: No root certificate of the address is one that the statement pins.
    """
    resource = address.resource or DEFAULT_RESOURCES[key.kind]
    try:
        return AzureKeyVaultClient(
            key,
            Https(key.url, service="the vault", authorities_pem=address.authorities_pem),
            token=access_token(address.credential, resource=resource),
            roots_der=pinned_roots(address.roots_pem.encode(), digests=key.roots),
            receiving_key=receiving_key,
            now=now,
        )
    except StrongroomError as error:
        raise error.at(Step.RELEASE) from error.__cause__


def wrap_in_vault(https: Https, path: str, value: bytes, *, token: SecretBytes) -> bytes:
    """Have a vault wrap a value with a symmetric key: an owner's call, not a TEE's.

    Args:
        https: The vault.
        path: The key's version: `/keys/{name}/{version}`.
        value: A multiple of 8 bytes.
        token: The owner's access token.

    Raises:
        StrongroomError: As `AzureKeyVaultClient.release`.
    """
    body = canonical_json({"alg": "A256KW", "value": to_b64url(value)})
    answer = _send(https, f"{path}/wrapkey?api-version={API_VERSION}", body, token=token)
    if not answer.is_success:
        raise _refused(answer, path.removeprefix("/"))
    return from_any_b64(_value(answer))


def _send(https: Https, path: str, body: bytes, *, token: SecretBytes) -> Answered:
    headers = {"authorization": f"Bearer {token.reveal().decode('ascii')}", "content-type": "application/json"}
    return https.request("POST", path, body=body, headers=headers, max_bytes=LIMITS.token_bytes)


def _value(answer: Answered) -> str:
    match parse_json_object(answer.body):
        case {"value": str(value)}:
            return value
        case _:
            raise FormatError("the vault's answer holds no key", step=Step.RELEASE)


def _refused(answer: Answered, name: str) -> StrongroomError:
    said = read_fault(answer).said
    match answer.status:
        case 401:
            return AuthenticationError(
                f"the vault does not accept this machine's token for {name}: {said}",
                action=f"Give this machine an identity that the vault knows{_challenge(answer)}.",
                step=Step.RELEASE,
            )
        case 403:
            return RefusedError(
                f"the vault does not release {name}: {said}",
                action="Compare the key's release policy with what was attested; see that the key is enabled, and that "
                "this machine's identity may release it.",
                step=Step.RELEASE,
            )
        case 404:
            return NotFoundError(
                f"the vault has no {name}: {said}",
                action="Compare the key's statement with the vault.",
                step=Step.RELEASE,
            )
        case 429:
            later = answer.retry_after_s
            when = "later" if later is None else f"in {later} s"
            return RateError(
                f"the vault is asked too often for {name}", action=f"Submit again {when}.", step=Step.RELEASE
            )
        case status if status >= _FIRST_SERVER_ERROR:
            return UnavailableError(
                f"the vault failed with status {status}: {said}", action="Submit again later.", step=Step.RELEASE
            )
        case status:
            return FormatError(
                f"the vault did not understand the request for {name} (status {status}): {said}",
                action="Check that the key is exportable and has a release policy.",
                step=Step.RELEASE,
            )


def _challenge(answer: Answered) -> str:
    """Return whose tokens a vault asks for, where its challenge says so."""
    text = answer.headers.get("www-authenticate", "")[:_SHOWN_CHALLENGE]
    found = dict(re.findall(r'(authorization|resource|scope)="([!-~]{1,200})"', text))
    wanted = found.get("resource") or found.get("scope")
    if wanted is None:
        return ""
    return f"; it asks for a token for {wanted}" + (f" by {found['authorization']}" if "authorization" in found else "")
