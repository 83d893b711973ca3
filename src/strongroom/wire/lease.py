"""Renewing a lease: a member of a run asks whether the run still stands, before it gives out another batch of keys."""

from typing import Final, Literal

from strongroom.wire.model import Hex32, Message, Timestamp

RENEW_TYP: Final = "strongroom-renew+jws"
RENEWAL_TYP: Final = "strongroom-renewal+jws"


class RenewRequest(Message):
    """A member asks whether its run still stands. Sent as a JWS of the TEE's signing key.

    Attributes:
        nonce: Random; the answer names it, so that no earlier answer passes for this one.
    """

    version: Literal[1] = 1
    run: Hex32
    issued_at: Timestamp
    nonce: Hex32


class Renewal(Message):
    """Answer to `RenewRequest`: at this moment nothing speaks against more keys and a commit."""

    version: Literal[1] = 1
    key_service: Hex32
    run: Hex32
    tee_key: Hex32
    nonce: Hex32
