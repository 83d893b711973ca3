"""What a vault answers to a release: verified down to a pinned root, and opened with the TEE's key.

    JWS RS256, x5c = [certificate with the vault's name, …]
    {"request": {"api-version", "enc", "kid", "nonce"},
     "response": {"key": {"key": {"kid", "kty", "key_hsm", …}, "attributes", "release_policy"}}}
    key_hsm = base64url({"schema_version": "1.0.0", "header": {"alg": "dir", "enc", …}, "ciphertext"})

Members that are not read are not refused: the answer is another's format, which grows.

Source: Azure Key Vault REST API, `Release`; confidential-sidecar-containers, `pkg/skr/akv.go`.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlsplit

from strongroom.base.encoding import from_any_b64, parse_json_object, to_b64url
from strongroom.base.errors import FormatError, Mismatch, StrongroomError, VerificationError, differences
from strongroom.base.limits import LIMITS
from strongroom.base.workflow import Step
from strongroom.crypto.jose import unverified_header, verify_jws
from strongroom.crypto.key_wrap import unwrap_with_rsa
from strongroom.crypto.keys import ReceivingKey
from strongroom.crypto.web_pki import verify_server_chain
from strongroom.keys.vault_hierarchy import ReleasedKey, accept_key
from strongroom.wire.vault_key import VaultKey

_ALGORITHM: Final = "RS256"
_SCHEMA: Final = "1.0.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseRequest:
    """What this TEE asked for; the signed answer repeats it.

    Attributes:
        nonce: Fresh, of this TEE's making.
        enc: The envelope's algorithm.
    """

    api_version: str
    nonce: str
    enc: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedRelease:
    """A release that the vault signed for this request; made by `verify_release`. Not opened yet.

    Attributes:
        ciphertext: The key, wrapped to a TEE's key.
        policy: The key's release policy at that moment, as the vault says it: JSON.
        policy_immutable: Whether the vault says that the policy cannot change.
    """

    ciphertext: bytes
    policy: bytes
    policy_immutable: bool


def verify_release(
    token: str, *, key: VaultKey, request: ReleaseRequest, roots_der: Sequence[bytes], now: datetime
) -> SignedRelease:
    """Verify a vault's answer.

    1. The first certificate of its chain is one for the vault's host, under a pinned root.
    2. That certificate's key signed it, with RS256.
    3. It repeats this request: nonce, algorithm, version of the interface, the one version of the one key.
    4. It holds a key of the pinned type in an envelope of the asked algorithm, and a release policy.
    The caller MUST open it with `open_release`, which compares the key itself.

    Args:
        token: The answer's `value`.
        key: The key that the binding pins.
        request: What was asked.
        roots_der: The root certificates that the key's statement pins.
        now: The time; in a TEE the host's word.

    Raises:
        FormatError: Not such an answer.
        VerificationError: One of these does not hold.
    """
    try:
        header = unverified_header(token)
        chain = _chain(header)
        signer = verify_server_chain(chain, host=_host(key), roots_der=roots_der, now=now)  # 1
        if signer.algorithm != _ALGORITHM:  # 2
            raise VerificationError("releases are signed with RS256")
        payload = parse_json_object(verify_jws(token, key=signer).payload)
        _demand_thumbprint(header, chain[0])
        _demand_answers(payload, key=key, request=request)  # 3
        return _content(payload, key=key, request=request)  # 4
    except StrongroomError as error:
        raise error.at(Step.RELEASE) from error.__cause__


def open_release(
    release: SignedRelease, *, key: VaultKey, request: ReleaseRequest, receiving_key: ReceivingKey
) -> ReleasedKey:
    """Open a verified release with this TEE's key, and take the key if it is the one that was pinned.

    Raises:
        FormatError: The envelope holds no such key.
        IntegrityError: Wrapped to another TEE, changed, or another key than the pinned one.
    """
    try:
        return accept_key(key, unwrap_with_rsa(release.ciphertext, key=receiving_key, algorithm=request.enc))
    except StrongroomError as error:
        raise error.at(Step.RELEASE) from error.__cause__


def _chain(header: dict[str, Any]) -> list[bytes]:
    match header:
        case {"x5c": [*chain]} if chain and all(isinstance(each, str) for each in chain):
            return [from_any_b64(each) for each in chain]
        case _:
            raise FormatError("the vault's answer carries no certificates")


def _host(key: VaultKey) -> str:
    return urlsplit(key.url).hostname or ""


def _demand_thumbprint(header: dict[str, Any], leaf_der: bytes) -> None:
    said = header.get("x5t#S256")
    if said is not None and said != to_b64url(hashlib.sha256(leaf_der).digest()):
        raise VerificationError("the vault's answer names another certificate than it carries")


def _demand_answers(payload: dict[str, Any], *, key: VaultKey, request: ReleaseRequest) -> None:
    asked = {"api-version": request.api_version, "enc": request.enc, "kid": key.kid, "nonce": request.nonce}
    repeated = payload.get("request")
    said = repeated if isinstance(repeated, dict) else {}
    mismatches = differences({name: (value, str(said.get(name))) for name, value in asked.items()})
    if mismatches:
        raise VerificationError(
            "the vault's answer is not one to this request",
            action="Submit again; if it happens again, what answers at the vault's address repeats old answers.",
            mismatches=mismatches,
        )


def _content(payload: dict[str, Any], *, key: VaultKey, request: ReleaseRequest) -> SignedRelease:
    match payload:
        case {
            "response": {
                "key": {
                    "key": {"kid": str(kid), "kty": str(kty), "key_hsm": str(key_hsm)},
                    "release_policy": {"data": str(policy), **more},
                }
            }
        }:
            mismatches = differences({"kid": (key.kid, kid), "kty": (key.kty, kty)})
            if mismatches:
                raise VerificationError("the vault released another key than was asked for", mismatches=mismatches)
            policy_json = from_any_b64(policy)
            if len(policy_json) > LIMITS.policy_text_bytes:
                raise FormatError("the key's release policy is longer than allowed")
            return SignedRelease(
                ciphertext=_ciphertext(key_hsm, enc=request.enc),
                policy=policy_json,
                policy_immutable=more.get("immutable") is True,
            )
        case _:
            raise FormatError("the vault's answer holds no released key, or no release policy")


def _ciphertext(key_hsm: str, *, enc: str) -> bytes:
    match parse_json_object(from_any_b64(key_hsm)):
        case {"schema_version": str(schema), "header": {"alg": "dir", "enc": str(said)}, "ciphertext": str(text)}:
            if schema != _SCHEMA or said != enc:
                raise VerificationError(
                    "the released key is in another envelope than was asked for",
                    mismatches=(Mismatch(name="envelope", expected=f"{_SCHEMA} {enc}", actual=f"{schema} {said}"),),
                )
            return from_any_b64(text)
        case _:
            raise FormatError("the released key is in no envelope of Azure's")
