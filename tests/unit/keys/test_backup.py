import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom.base.encoding import to_b64url
from strongroom.base.errors import FormatError, LimitError
from strongroom.base.limits import LIMITS
from strongroom.base.secret import SecretBytes
from strongroom.crypto import aead
from strongroom.keys import backup as format_
from strongroom.keys.backup import open_backup, seal_backup
from strongroom.keys.providers.envelope import WrapAlgorithm
from strongroom.keys.providers.local import LocalMasterKey
from strongroom.keys.records import KeyRecord, KeyReleasePolicy
from strongroom.keys.vault_records import BackedUpKey, KeyBackup

MASTER = LocalMasterKey(SecretBytes(bytes(range(32))), algorithm=WrapAlgorithm.FILE_A256GCM)
SECRET = bytes(range(100, 132))


def record(number: int = 1, *, policy: str = "AAAA") -> KeyRecord:
    return KeyRecord(
        name="kept",
        version=f"{number:032x}",
        number=number,
        kty="oct-HSM",
        key_ops=("wrapKey",),
        enabled=True,
        exportable=True,
        created=1,
        updated=1,
        not_before=None,
        expires=None,
        tags={"a": "b"},
        release_policy=KeyReleasePolicy(content_type="application/json", data=policy, immutable=True),
        public_jwk={},
    )


def content(*, policy: str = "AAAA") -> KeyBackup:
    keys = tuple(BackedUpKey(record=record(number, policy=policy), material=to_b64url(SECRET)) for number in (1, 2))
    return KeyBackup(name="kept", keys=keys, rotation=None)


def test_opens_to_what_was_backed_up_and_shows_nothing_of_it() -> None:
    blob = seal_backup(content(), master_key=MASTER)
    assert open_backup(blob, master_key=MASTER) == content()
    assert blob != seal_backup(content(), master_key=MASTER)
    for part in (SECRET, to_b64url(SECRET).encode(), b"kept"):
        assert part not in blob


def test_no_byte_of_it_can_be_changed_or_left_out() -> None:
    blob = seal_backup(content(), master_key=MASTER)
    for at in range(len(blob)):
        changed = blob[:at] + bytes([blob[at] ^ 1]) + blob[at + 1 :]
        with pytest.raises(FormatError):
            open_backup(changed, master_key=MASTER)
    for end in (0, 4, 5, 7, 60, len(blob) - 1):
        with pytest.raises(FormatError):
            open_backup(blob[:end], master_key=MASTER)


def test_the_parts_of_two_backups_do_not_go_together() -> None:
    one, two = (seal_backup(content(policy=policy), master_key=MASTER) for policy in ("AAAA", "BBBB"))
    header = 7 + int.from_bytes(one[5:7], "big")
    with pytest.raises(FormatError):
        open_backup(one[:header] + two[header:], master_key=MASTER)


def test_another_master_key_opens_nothing() -> None:
    blob = seal_backup(content(), master_key=MASTER)
    with pytest.raises(FormatError, match="another master key"):
        open_backup(blob, master_key=LocalMasterKey(SecretBytes(bytes(32)), algorithm=WrapAlgorithm.FILE_A256GCM))


def test_what_the_master_key_wrapped_for_something_else_is_no_backup() -> None:
    key = SecretBytes(bytes(32))
    wrapped = MASTER.wrap(key, context=b"strongroom/1 store key")
    header = b"SRKB\x01" + len(wrapped).to_bytes(2, "big") + wrapped
    sealed = aead.encrypt(key, content().to_json(), context=b"strongroom/1 key backup content" + header)
    with pytest.raises(FormatError):
        open_backup(header + sealed, master_key=MASTER)


def test_refuses_to_make_what_could_not_be_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(format_, "MAX_BACKUP_BYTES", len(content().to_json()) - 1)
    with pytest.raises(LimitError):
        seal_backup(content(), master_key=MASTER)


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda data: b"SRKB\x01" + data))
def test_any_bytes_open_or_raise_format_error(data: bytes) -> None:
    with contextlib.suppress(FormatError):
        open_backup(data, master_key=MASTER)


def test_a_largest_backup_fits_into_the_request_that_restores_it() -> None:
    sealed = format_.MAX_BACKUP_BYTES + 4096
    assert len(to_b64url(bytes(sealed))) + len('{"value":""}') < LIMITS.request_body_bytes
