"""Nonces of the key service: made without remembering them, recorded when they are used.

A nonce is base64url of `random (16) | expiry, Unix seconds (8, big-endian) | HMAC-SHA256 of the two (32)`.
"""

import hashlib
import hmac
from datetime import datetime
from typing import Final

from strongroom.base.encoding import from_b64url, to_b64url
from strongroom.base.errors import FormatError, RefusedError
from strongroom.base.limits import LIMITS
from strongroom.base.secret import SecretBytes
from strongroom.crypto.random import random_bytes

_RANDOM_BYTES: Final = 16
_BODY_BYTES: Final = _RANDOM_BYTES + 8
_TAG_BYTES: Final = 32


def make_nonce(key: SecretBytes, *, now: datetime) -> tuple[str, int]:
    """Return a fresh nonce and the Unix second in which it expires."""
    expires_at = int(now.timestamp()) + LIMITS.nonce_lifetime_s
    body = random_bytes(_RANDOM_BYTES) + expires_at.to_bytes(8, "big")
    return to_b64url(body + _tag(key, body)), expires_at


def verify_nonce(key: SecretBytes, nonce: str, *, now: datetime) -> int:
    """Check that a nonce was made with this key and has not expired.

    The caller MUST still record its use, and refuse a second one.

    Returns:
        The Unix second in which it expires.

    Raises:
        RefusedError: Not made with this key, or expired.
    """
    refusal = RefusedError(
        "the nonce is not this key service's, or has expired", action="Ask for a new one and attest again."
    )
    try:
        data = from_b64url(nonce)
    except FormatError as error:
        raise refusal from error
    body, tag = data[:_BODY_BYTES], data[_BODY_BYTES:]
    if len(data) != _BODY_BYTES + _TAG_BYTES or not hmac.compare_digest(tag, _tag(key, body)):
        raise refusal
    expires_at = int.from_bytes(body[_RANDOM_BYTES:], "big")
    if now.timestamp() >= expires_at:
        raise refusal
    return expires_at


def _tag(key: SecretBytes, body: bytes) -> bytes:
    return hmac.digest(key.reveal(), body, hashlib.sha256)
