"""The firmware's event log: what parses, what does not, and where it leads."""

import contextlib
import hashlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.swtpm import BOOT, event_log

from strongroom.attestation.evidence.tcg_log import MAX_LOG_BYTES, parse_event_log, replay
from strongroom.base.errors import FormatError, LimitError

LOG = event_log(BOOT)
HEADER_BYTES = 32 + 37


def extended(value: bytes, *events: bytes) -> bytes:
    for data in events:
        value = hashlib.sha256(value + hashlib.sha256(data).digest()).digest()
    return value


def test_reads_every_event_with_its_sha256_digest() -> None:
    events = parse_event_log(LOG)
    assert [(event.pcr, event.kind, event.data) for event in events] == BOOT
    assert all(event.digest == hashlib.sha256(event.data).digest() for event in events)


def test_replay_extends_what_has_an_action_and_starts_where_the_log_says() -> None:
    values = replay(parse_event_log(LOG), pcrs=(0, 4, 7, 8, 17, 23))
    assert values[0] == extended(bytes(32), b"firmware", bytes(4))
    assert values[4] == extended(bytes(32), b"boot loader", bytes(4))
    assert values[8] == values[23] == bytes(32)
    assert values[17] == b"\xff" * 32


def test_a_later_locality_starts_register_0_elsewhere() -> None:
    log = event_log([(0, 3, b"StartupLocality\0\x03"), (0, 8, b"firmware")])
    assert replay(parse_event_log(log), pcrs=(0,))[0] == extended(bytes(31) + b"\x03", b"firmware")
    assert replay(parse_event_log(log), pcrs=(7,)) == {7: bytes(32)}


@pytest.mark.parametrize("locality", [b"", b"\x01", b"\x03\x03"])
def test_refuses_localities_at_which_no_tpm_starts(locality: bytes) -> None:
    events = parse_event_log(event_log([(0, 3, b"StartupLocality\0" + locality)]))
    with pytest.raises(FormatError, match="locality"):
        replay(events, pcrs=(0,))


def edited(offset: int, value: bytes) -> bytes:
    return LOG[:offset] + value + LOG[offset + len(value) :]


@pytest.mark.parametrize(
    "log",
    [
        b"",
        LOG[:-1],
        edited(4, b"\x08"),  # the header is an event with an action
        edited(32, b"Spec ID Event00"),
        edited(56, struct.pack("<I", 0)),
        edited(56, struct.pack("<I", 9)),
        edited(60, struct.pack("<H", 11)),  # SHA-256 twice
        edited(66, struct.pack("<H", 20)),  # SHA-256 of 20 bytes
        edited(62, struct.pack("<H", 65)),
        edited(HEADER_BYTES + 8, struct.pack("<I", 0)),
        edited(HEADER_BYTES + 8, struct.pack("<I", 3)),
        edited(HEADER_BYTES + 12, struct.pack("<H", 12)),  # an algorithm the header does not name
        LOG + struct.pack("<III", 24, 8, 1) + struct.pack("<H", 11) + bytes(32) + bytes(4),  # register 24
        LOG + struct.pack("<III", 1, 8, 1) + struct.pack("<H", 4) + bytes(20) + bytes(4),  # SHA-1 alone
        LOG + struct.pack("<III", 1, 8, 2) + 2 * (struct.pack("<H", 11) + bytes(32)) + bytes(4),
        LOG + struct.pack("<III", 1, 8, 1) + struct.pack("<H", 11) + bytes(32) + b"\xff\xff\xff\xff",
    ],
)
def test_other_logs_are_format_errors(log: bytes) -> None:
    with pytest.raises(FormatError):
        parse_event_log(log)


def test_refuses_logs_beyond_the_limits() -> None:
    with pytest.raises(LimitError):
        parse_event_log(bytes(MAX_LOG_BYTES + 1))
    with pytest.raises(LimitError, match="events"):
        parse_event_log(event_log([(0, 4, b"")] * 8193))


@given(st.binary(max_size=200))
def test_any_bytes_parse_or_raise_format_error(data: bytes) -> None:
    for log in (data, LOG[:HEADER_BYTES] + data):
        with contextlib.suppress(FormatError):
            replay(parse_event_log(log), pcrs=range(24))


@given(st.integers(0, len(LOG) - 1), st.binary(max_size=4), st.integers(0, 8))
def test_edited_logs_parse_or_raise_format_error(at: int, inserted: bytes, removed: int) -> None:
    with contextlib.suppress(FormatError):
        replay(parse_event_log(LOG[:at] + inserted + LOG[at + removed :]), pcrs=range(24))
