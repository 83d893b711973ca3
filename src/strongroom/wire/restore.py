"""An owner's word that a key service's restored state is meant."""

from typing import Final, Literal

from pydantic import Field

from strongroom.wire.model import CompactJws, Hex16, Hex32, Message, Timestamp

RESTORE_ACCEPTANCE_TYP: Final = "strongroom-restore-acceptance+jws"


class PendingRestore(Message):
    """What a key service says of its newest restore, as long as no owner has accepted it.

    Attributes:
        restore: The restore's name, made for it alone; null where nothing waits for an owner.
        log_size: The log's size.
        checkpoint: The log's newest checkpoint, signed.
    """

    restore: Hex16 | None
    log_size: int = Field(ge=0)
    checkpoint: str


class RestoreAcceptance(Message):
    """Payload of the statement that an owner signs: this one restore is meant, and so much is given up.

    Attributes:
        restore: The restore's name.
        lost_size: The size of the newest checkpoint that anybody saw before; what it has beyond the backup is lost.
    """

    version: Literal[1] = 1
    key_service: Hex32
    restore: Hex16
    lost_size: int = Field(ge=0)
    issued_at: Timestamp


class RestoreAcceptanceUpload(Message):
    """The signed statement, as it travels."""

    statement: CompactJws
