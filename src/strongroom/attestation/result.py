"""Attestation results: the signed word of an attestation service, and what a relying party makes of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from strongroom.base.encoding import Json, parse_json_object
from strongroom.base.errors import FormatError, Mismatch, VerificationError
from strongroom.base.limits import LIMITS
from strongroom.base.workflow import Step
from strongroom.crypto.jose import verify_jws
from strongroom.crypto.keys import VerifyingKey

RESULT_TYP: Final = "JWT"
_ALGORITHM: Final = "RS256"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestationResult:
    """A verified attestation result; made by `verify_result`. It frees nothing until a release policy holds.

    Attributes:
        token: The JWT itself, as it goes into logs and receipts.
        issuer: Whose word it is (`iss`).
        claims: Everything it says, the runtime data included.
        policy_hash: Name of the evidence policy that appraised the evidence.
        runtime: The runtime data that the evidence binds (`x-ms-runtime`).
        expires_at: `exp`, seconds since 1970.
    """

    token: str
    issuer: str
    claims: Mapping[str, Json]
    policy_hash: str
    runtime: Mapping[str, Json]
    expires_at: int


def verify_result(token: str, *, issuer: str, verifying_key: VerifyingKey, now: datetime) -> AttestationResult:
    """Verify an attestation result.

    1. Check the signature with the one known key and with RS256, whatever the token's header says of keys.
    2. Compare the issuer.
    3. Compare `nbf` and `exp` with `now`.
    4. Read the policy hash and the runtime data.
    The caller MUST still compare the claims with a release policy, and the nonce in the runtime data with its own.

    Args:
        token: The compact JWT.
        issuer: The attestation service that must have issued it, spelled as in `iss`.
        verifying_key: That service's signing key, from a pinned certificate; never from the token.
        now: The relying party's time.

    Returns:
        The result.

    Raises:
        FormatError: Not a JWT with these claims.
        VerificationError: Of another key, algorithm, type or issuer; expired or not yet valid.

    Source: RFC 7519, section 4.1; Azure Attestation REST, `AttestationResult`.
    """
    if verifying_key.algorithm != _ALGORITHM:  # 1
        raise VerificationError("attestation results are signed with RS256", step=Step.RELEASE)
    payload = verify_jws(token, key=verifying_key, typ=RESULT_TYP).payload
    claims = parse_json_object(payload)
    if claims.get("iss") != issuer:  # 2
        raise VerificationError(
            "the attestation result is of another issuer",
            step=Step.RELEASE,
            mismatches=(Mismatch(name="iss", expected=issuer, actual=str(claims.get("iss"))),),
        )
    moment, expires_at = now.timestamp(), _seconds(claims, "exp")  # 3
    if moment < _seconds(claims, "nbf") - LIMITS.clock_skew_s or moment >= expires_at:
        raise VerificationError(
            "the attestation result has expired, or is not valid yet",
            action="attest again; check the clocks of both machines",
            step=Step.RELEASE,
        )
    match claims:  # 4
        case {"x-ms-policy-hash": str(policy_hash), "x-ms-runtime": {} as runtime}:
            return AttestationResult(
                token=token,
                issuer=issuer,
                claims=claims,
                policy_hash=policy_hash,
                runtime=runtime,
                expires_at=expires_at,
            )
        case _:
            raise FormatError("the attestation result names no policy, or carries no runtime data")


def _seconds(claims: Mapping[str, Any], name: str) -> int:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise FormatError(f"the attestation result has no whole number in {name}")
    return value
