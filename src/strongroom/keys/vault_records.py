"""What the store keeps of Key Vault's contract beside the keys themselves."""

from typing import Literal

from pydantic import Field

from strongroom.keys.records import KeyRecord
from strongroom.wire.model import B64Url, Hex16, Hex32, Message


class LifetimeAction(Message):
    """An action of a rotation policy; durations are ISO 8601's."""

    type: Literal["Rotate", "Notify"]
    time_after_create: str | None
    time_before_expiry: str | None


class RotationRule(Message):
    """A key's rotation policy.

    Attributes:
        expiry_time: How long a version lives that rotation makes; None for ever.
    """

    actions: tuple[LifetimeAction, ...]
    expiry_time: str | None


class RotationRecord(Message):
    """A key's rotation policy, as it is kept.

    Attributes:
        created, updated: When the policy was set first and last, in Unix seconds.
        notified: The version whose owner was told that it expires.
        due_at: When its next action is due, in Unix seconds.
    """

    name: str
    rule: RotationRule
    created: int
    updated: int
    notified: Hex16 | None
    due_at: int


class DeletionRecord(Message):
    """A deleted key that can be recovered.

    Attributes:
        deleted, purged_at: Unix time in seconds: when it was deleted, and when it will be gone.
    """

    name: str
    deleted: int
    purged_at: int


class PinnedPolicy(Message):
    """What is remembered of a version whose release policy is immutable, also after the key is gone.

    Attributes:
        policy: SHA-256 of the policy's exact bytes.
    """

    version: Hex16
    policy: Hex32


class BackedUpKey(Message):
    """A version of a key in a backup; `material` is base64url of the secret."""

    record: KeyRecord
    material: B64Url


class KeyBackup(Message):
    """What a backup holds: a key whole, all of its versions, oldest first."""

    version: Literal[1] = 1
    name: str
    keys: tuple[BackedUpKey, ...] = Field(min_length=1)
    rotation: RotationRecord | None
