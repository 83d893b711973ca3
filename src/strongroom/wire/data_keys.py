"""What an owner asks of datasets' keys: rotation, retirement, destruction; and the proof that keys were destroyed."""

from typing import Final, Literal

from pydantic import Field

from strongroom.wire.approvals import MAX_SIGNERS
from strongroom.wire.key_service import LogProof
from strongroom.wire.model import ColumnName, CompactJws, DatasetName, Hex16, Hex32, Message, Timestamp

SHREDDING_TYP: Final = "strongroom-shredding+jws"
SHREDDING_CONSENT_TYP: Final = "strongroom-shredding-consent+jws"


class KeyChoice(Message):
    """Which of a dataset's KEKs: a column's, or the dataset's own."""

    column: ColumnName | None = None


class RetireRequest(KeyChoice):
    """Destroy a version of a KEK that nothing stands under any more."""

    version: Hex16


class KeyStateRequest(KeyChoice):
    """Enable or disable a KEK, in all of its versions."""

    enabled: bool


class ShredRequest(Message):
    """Destroy every KEK of a dataset.

    Attributes:
        confirm: The dataset's name once more.
        consents: Where the dataset has a roster: JWS of `ShreddingConsent`, of as many members as it demands.
    """

    confirm: DatasetName
    consents: tuple[CompactJws, ...] = Field(default=(), max_length=MAX_SIGNERS)


class ShreddingConsent(Message):
    """A member of a dataset's roster agrees that its keys are destroyed. Signed with the member's key.

    Attributes:
        roster: Digest of the roster that holds.
    """

    version: Literal[1] = 1
    key_service: Hex32
    dataset: DatasetName
    roster: Hex32
    issued_at: Timestamp


class DatasetKey(Message):
    """A version of one of a dataset's KEKs, as its owner sees it.

    Attributes:
        key: Its name at the key service.
        column: The column whose key it is; None for the dataset's.
        current: Whether it is the newest version: what new writes are wrapped under.
        in_use: Whether write keys stand under it.
    """

    key: str
    column: ColumnName | None
    version: Hex16
    number: int = Field(ge=1)
    enabled: bool
    current: bool
    in_use: bool
    created_at: Timestamp
    changed_at: Timestamp


class DatasetKeys(Message):
    """Answer: a dataset's KEKs.

    Attributes:
        shredded: Whether they were destroyed; then there are none.
    """

    dataset: DatasetName
    owner: Hex32
    shredded: bool
    keys: tuple[DatasetKey, ...]


class Rewrapped(Message):
    """Answer: so many write keys stand under the newest version now, and whether there are more."""

    rewrapped: int = Field(ge=0)
    remaining: bool


class ShreddedKey(Message):
    """A version of a KEK that was destroyed."""

    key: str
    column: ColumnName | None
    version: Hex16


class Shredding(Message):
    """The key service's word that every key of a dataset was destroyed. Signed with its statement key.

    Attributes:
        keys: Every version that existed then.
        by: Thumbprint of the person who asked for it.
        leaf: SHA-256 of the leaf that says so.
        issued_at: When this statement was signed.
    """

    version: Literal[1] = 1
    key_service: Hex32
    dataset: DatasetName
    keys: tuple[ShreddedKey, ...] = Field(min_length=1)
    by: Hex32
    shredded_at: Timestamp
    leaf: Hex32
    issued_at: Timestamp


class ShreddingProof(Message):
    """What an owner files: the statement (a JWS of `Shredding`), and its leaf in the log."""

    version: Literal[1] = 1
    statement: CompactJws
    proof: LogProof
