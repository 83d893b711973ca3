"""The simulated platform's Unix socket, seen from the process that it quotes.

One connection a request: the platform recognises the process by its connection, so none is kept open that a child
could inherit.
"""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from typing_extensions import override

from strongroom.attestation.attester.device import CONFIG_ID_BYTES, REPORT_DATA_BYTES, QuoteDevice
from strongroom.base.encoding import from_any_b64, parse_json_object
from strongroom.base.errors import FormatError, StrongroomError, UnavailableError, error_for_code
from strongroom.base.limits import LIMITS

_TIMEOUT_S: Final = 120.0
_ACTION: Final = "Start the simulated platform (`strongroom up`), and check the path of its socket."


class SimulatedSgxDevice(QuoteDevice):
    """A simulated SGX platform.

    Args:
        socket_path: The platform's socket.
    """

    def __init__(self, socket_path: Path) -> None:
        self._socket_path = socket_path

    @override
    def launch(self, config_id: bytes) -> None:
        """Bind this process to its measurement and this configuration (see `QuoteDevice`)."""
        _require_size(config_id, CONFIG_ID_BYTES)
        ask_platform(self._socket_path, {"op": "launch", "config_id": config_id.hex()})

    @override
    def quote(self, report_data: bytes) -> bytes:
        """Return a quote of this process (see `QuoteDevice`)."""
        _require_size(report_data, REPORT_DATA_BYTES)
        reply = ask_platform(self._socket_path, {"op": "quote", "report_data": report_data.hex()})
        return from_any_b64(str(reply.get("quote_b64", "")))


def ask_platform(socket_path: Path, request: dict[str, str]) -> dict[str, Any]:
    """Send one request to the simulated platform and return its reply.

    Raises:
        UnavailableError: The platform does not answer.
        FormatError: The reply is not what the protocol says.
        StrongroomError: The platform's refusal, as the error it names.
    """
    try:
        with (
            short_address(socket_path) as address,
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection,
        ):
            connection.settimeout(_TIMEOUT_S)
            connection.connect(address)
            connection.sendall(json.dumps(request).encode() + b"\n")
            with connection.makefile("rb") as stream:
                line = stream.readline(LIMITS.evidence_bytes * 2)
    except OSError as error:
        raise UnavailableError("the simulated SGX platform does not answer", action=_ACTION) from error
    if not line.endswith(b"\n"):
        raise UnavailableError("the simulated SGX platform closed the connection", action=_ACTION)
    reply = parse_json_object(line)
    match reply:
        case {"error": {"code": str(code), "message": str(message), "action": str(action)}}:
            raise _refusal(code, message, action)
        case _:
            return reply


@contextmanager
def short_address(socket_path: Path) -> Iterator[str]:
    """Yield an address of a Unix socket that fits the kernel's 108 bytes however deep its folder lies.

    Raises:
        OSError: The folder does not exist.
    """
    folder = os.open(socket_path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{socket_path.name}"
    finally:
        os.close(folder)


def _refusal(code: str, message: str, action: str) -> StrongroomError:
    return error_for_code(code)(message, action=action)


def _require_size(value: bytes, size_bytes: int) -> None:
    if len(value) != size_bytes:
        raise FormatError(f"{size_bytes} bytes were expected")
