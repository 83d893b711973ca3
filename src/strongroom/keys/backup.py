"""Backups of single keys: bytes that only a key service with the same master key opens.

`"SRKB" | version (1 byte, 0x01) | length of the wrapped key (2, big-endian) | wrapped key | sealed value of aead`. The
wrapped key is a key of this one backup under the master key. What is sealed names the key and all of its versions with
their release policies, so that nothing of it can be changed, taken out or given another name.
"""

from typing import Final

from strongroom.base.encoding import parse_canonical_json
from strongroom.base.errors import FormatError, IntegrityError, LimitError
from strongroom.crypto import aead
from strongroom.crypto.random import random_secret
from strongroom.keys.providers import MasterKey
from strongroom.keys.vault_records import KeyBackup

MAX_VERSIONS: Final = 500
"""As many versions a key may have to be backed up, as in Azure Key Vault."""
MAX_BACKUP_BYTES: Final = 2_800_000
"""No backup is larger: in base64, it fits into the request that restores it."""
_HEADER: Final = b"SRKB\x01"
_LENGTH_BYTES: Final = 2
_KEY_CONTEXT: Final = b"strongroom/1 key backup"
_CONTENT_CONTEXT: Final = b"strongroom/1 key backup content"


def seal_backup(backup: KeyBackup, *, master_key: MasterKey) -> bytes:
    """Return a backup's bytes.

    Args:
        backup: What it holds.
        master_key: Whoever has it opens the backup.

    Raises:
        LimitError: It would be too large to be restored.
        UnavailableError: The master key's provider does not answer.
    """
    content = backup.to_json()
    if len(content) > MAX_BACKUP_BYTES:
        raise LimitError("the key has too many versions, or too long release policies, for one backup")
    key = random_secret()
    wrapped = master_key.wrap(key, context=_KEY_CONTEXT)
    header = _HEADER + len(wrapped).to_bytes(_LENGTH_BYTES, "big") + wrapped
    return header + aead.encrypt(key, content, context=_CONTENT_CONTEXT + header)


def open_backup(blob: bytes, *, master_key: MasterKey) -> KeyBackup:
    """Open what `seal_backup` made.

    Raises:
        FormatError: Not a backup, of another master key, or changed; not said which.
        UnavailableError: The master key's provider does not answer.
    """
    start = len(_HEADER) + _LENGTH_BYTES
    end = start + int.from_bytes(blob[len(_HEADER) : start], "big")
    if blob[: len(_HEADER)] != _HEADER or len(blob) < end:
        raise FormatError("not a backup of a key")
    try:
        key = master_key.unwrap(blob[start:end], context=_KEY_CONTEXT)
        content = aead.decrypt(key, blob[end:], context=_CONTENT_CONTEXT + blob[:end])
    except (IntegrityError, FormatError) as error:
        raise FormatError(
            "the backup was changed, or is of a key service with another master key",
            action="Restore it at a key service with the master key it was made with.",
        ) from error
    return KeyBackup.from_object(parse_canonical_json(content.reveal()))
