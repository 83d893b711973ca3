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

from strongroom.attestation.attester.device import REPORT_DATA_BYTES, Quote, QuoteDevice, require_size
from strongroom.attestation.evidence.fields import launch_value
from strongroom.base.encoding import from_any_b64, parse_json_object
from strongroom.base.errors import FormatError, StrongroomError, UnavailableError, error_for_code
from strongroom.base.limits import LIMITS
from strongroom.wire.model import TeeKind

_TIMEOUT_S: Final = 600.0
"""The first measurement reads hundreds of megabytes, on a busy machine for minutes; a platform that ends closes."""
_ACTION: Final = "Start the simulated platform (`strongroom up`), and check the path of its socket."


class SimulatedDevice(QuoteDevice):
    """A simulated platform.

    Args:
        socket_path: The platform's socket.
        kind: The kind of TEE that this process shall be.
    """

    def __init__(self, socket_path: Path, *, kind: TeeKind = "sgx") -> None:
        self._socket_path = socket_path
        self._kind: TeeKind = kind

    @override
    def launch(self, config_id: bytes) -> None:
        """Bind this process to its measurement and this configuration (see `QuoteDevice`)."""
        value = launch_value(self._kind, config_id)
        ask_platform(self._socket_path, {"op": "launch", "tee": self._kind, "value": value.hex()})

    @override
    def quote(self, report_data: bytes) -> Quote:
        """Return a quote of this process (see `QuoteDevice`)."""
        require_size(report_data, REPORT_DATA_BYTES)
        match ask_platform(self._socket_path, {"op": "quote", "report_data": report_data.hex()}):
            case {"quote_b64": str(quote), "certificate_chain": str() | None as chain, **more} if not more:
                return Quote(kind=self._kind, data=from_any_b64(quote), certificate_chain=chain)
            case _:
                raise FormatError("the simulated platform's answer holds no quote")


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
        raise UnavailableError("the simulated platform does not answer", action=_ACTION) from error
    if not line.endswith(b"\n"):
        raise UnavailableError("the simulated platform closed the connection", action=_ACTION)
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
