"""The firmware's event log, and the register values that it leads to.

Source: TCG PC Client Platform Firmware Profile, 10.2 (TCG_PCR_EVENT2, TCG_EfiSpecIdEvent), 10.4.5.3 (StartupLocality).
"""

import hashlib
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from strongroom.attestation.evidence.reader import ByteReader
from strongroom.attestation.evidence.tpm import ALG_SHA256, REGISTERS
from strongroom.base.errors import FormatError, LimitError

MAX_LOG_BYTES: Final = 1 << 20
_MAX_EVENTS: Final = 8192
_MAX_ALGORITHMS: Final = 8
_MAX_DIGEST_BYTES: Final = 64
_EV_NO_ACTION: Final = 3
_HEADER: Final = struct.Struct("<II20sI")
_EVENT: Final = struct.Struct("<III")
_SIGNATURE: Final = b"Spec ID Event03\0"
_LOCALITY: Final = b"StartupLocality\0"
_LOCALITIES: Final = (0, 3, 4)
_SHA256_BYTES: Final = 32
_DYNAMIC_REGISTERS: Final = range(17, 23)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedEvent:
    """One event.

    Attributes:
        pcr: The register it went to.
        kind: TCG_EVENTTYPE.
        digest: What the register of the SHA-256 bank was extended with.
        data: What the firmware says the event was; nothing vouches for it.
    """

    pcr: int
    kind: int
    digest: bytes
    data: bytes


def parse_event_log(log_bytes: bytes) -> tuple[LoggedEvent, ...]:
    """Read a log in the form with several hash algorithms.

    Args:
        log_bytes: As `/sys/kernel/security/tpm0/binary_bios_measurements` has it.

    Returns:
        The events behind the header, in order.

    Raises:
        FormatError: Another form, no SHA-256 digests, or truncated.
        LimitError: Larger than `MAX_LOG_BYTES`, or too many events.
    """
    if len(log_bytes) > MAX_LOG_BYTES:
        raise LimitError("the event log is larger than allowed")
    reader = ByteReader(log_bytes, what="the event log")
    sizes = _read_header(reader)
    events: list[LoggedEvent] = []
    while not reader.at_end:
        if len(events) == _MAX_EVENTS:
            raise LimitError("the event log has more events than allowed")
        events.append(_read_event(reader, sizes))
    return tuple(events)


def replay(events: Iterable[LoggedEvent], *, pcrs: Sequence[int]) -> dict[int, bytes]:
    """Return the values that registers of the SHA-256 bank have after these events.

    Args:
        events: From `parse_event_log`.
        pcrs: The registers' numbers.

    Raises:
        FormatError: The log names a locality at which no TPM starts.
    """
    values = {pcr: (b"\xff" if pcr in _DYNAMIC_REGISTERS else b"\0") * _SHA256_BYTES for pcr in pcrs}
    for event in events:
        if event.kind == _EV_NO_ACTION:
            if event.pcr == 0 and event.data.startswith(_LOCALITY) and 0 in values:
                values[0] = _start_of_register_0(event.data[len(_LOCALITY) :])
        elif event.pcr in values:
            values[event.pcr] = hashlib.sha256(values[event.pcr] + event.digest).digest()
    return values


def _start_of_register_0(locality: bytes) -> bytes:
    if len(locality) != 1 or locality[0] not in _LOCALITIES:
        raise FormatError("the event log names a locality at which no TPM starts")
    return locality.rjust(_SHA256_BYTES, b"\0")


def _read_header(reader: ByteReader) -> dict[int, int]:
    """Return the size of a digest by algorithm."""
    _pcr, kind, _digest, length = _HEADER.unpack(reader.take(_HEADER.size))
    body = ByteReader(reader.take(length), what="the event log's header")
    if kind != _EV_NO_ACTION or body.take(len(_SIGNATURE)) != _SIGNATURE:
        raise FormatError("the event log is not in the form with several hash algorithms")
    body.take(8)  # platform class, version, errata, size of a UINTN
    count = _little_endian(body, 4)
    if not 0 < count <= _MAX_ALGORITHMS:
        raise FormatError("the event log has no hash algorithm, or too many")
    pairs = [(_little_endian(body, 2), _little_endian(body, 2)) for _ in range(count)]
    body.take(body.big_endian(1))  # the vendor's own
    body.finish()
    sizes = dict(pairs)
    if len(sizes) != count or max(sizes.values()) > _MAX_DIGEST_BYTES or sizes.get(ALG_SHA256) != _SHA256_BYTES:
        raise FormatError("the event log has no SHA-256 digests")
    return sizes


def _read_event(reader: ByteReader, sizes: dict[int, int]) -> LoggedEvent:
    pcr, kind, count = _EVENT.unpack(reader.take(_EVENT.size))
    if pcr >= REGISTERS and kind != _EV_NO_ACTION:
        raise FormatError("the event log names a register that no TPM has")
    if not 0 < count <= len(sizes):
        raise FormatError("an event has no digest, or too many")
    digests: dict[int, bytes] = {}
    for _ in range(count):
        algorithm = _little_endian(reader, 2)
        if algorithm not in sizes or algorithm in digests:
            raise FormatError("an event has a digest of an algorithm that the log's header does not name, or has two")
        digests[algorithm] = reader.take(sizes[algorithm])
    data = reader.take(_little_endian(reader, 4))
    if ALG_SHA256 not in digests:
        raise FormatError("an event has no SHA-256 digest")
    return LoggedEvent(pcr=pcr, kind=kind, digest=digests[ALG_SHA256], data=data)


def _little_endian(reader: ByteReader, size_bytes: int) -> int:
    return int.from_bytes(reader.take(size_bytes), "little")
