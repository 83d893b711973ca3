"""Client of a witness: has a log's checkpoints cosigned, and asks which one the witness cosigned last.

Source: C2SP tlog-witness (https://c2sp.org/tlog-witness).
"""

import hashlib
import re
from typing import Final

from strongroom.base.errors import FormatError, InconsistentLogError, UnavailableError, VerificationError
from strongroom.clients.pinned import ServiceHttp
from strongroom.log.cosignature import verify_cosignatures
from strongroom.log.note import COSIGNATURE, NoteKey, key_id, parse_signature
from strongroom.log.witness import AddCheckpoint, OtherSizeError

_OK: Final = 200
_ABSENT: Final = 404
_CONFLICT: Final = 409
_UNPROCESSABLE: Final = 422
_SIZE: Final = re.compile(rb"(0|[1-9][0-9]{0,18})\n")
_MAX_ANSWER_BYTES: Final = 64 << 10


class WitnessClient:
    """One witness. Trust in it rests on its cosignatures alone: TLS only keeps others from answering in its place.

    Args:
        url: Its address (the protocol's submission and monitoring prefix).
        key: Its verification key.
        certificate_pem: The only issuer of its TLS certificate that is accepted; None for those this machine trusts.
        timeout_s: How long connecting, and each wait for further bytes, may take, in seconds.
    """

    def __init__(self, url: str, *, key: NoteKey, certificate_pem: str | None, timeout_s: float) -> None:
        self.key = key
        self._http = ServiceHttp(
            url, authorities_pem=certificate_pem, service=f"the witness {key.name}", read_s=timeout_s
        )

    def add_checkpoint(self, request: AddCheckpoint) -> str:
        """Have a checkpoint cosigned.

        Returns:
            The witness's signature line, verified.

        Raises:
            OtherSizeError: The witness cosigned another size last.
            InconsistentLogError: The witness says that the checkpoint does not extend that one.
            VerificationError: What it answered is not its cosignature.
            UnavailableError: It does not answer, or refuses.
        """
        status, body = self._ask("POST", "/add-checkpoint", request.to_bytes())
        if status == _OK:
            return self._own_line(request.note, body)
        if status == _CONFLICT and (matched := _SIZE.fullmatch(body)):
            raise OtherSizeError(int(matched[1]))
        if status == _UNPROCESSABLE:
            raise InconsistentLogError(
                f"the witness {self.key.name} says that the log does not extend what it cosigned last",
                action="Compare the log with the witness's checkpoint: one of the two was changed.",
            )
        raise UnavailableError(
            f"the witness {self.key.name} answered with status {status}",
            action="Ask the witness's operator whether it knows this log's key.",
        )

    def latest(self, origin: str) -> str | None:
        """Return the last checkpoint of a log that the witness cosigned; None if it never did, or does not say.

        Raises:
            VerificationError: What it answered does not carry its cosignature.
            UnavailableError: It does not answer.
        """
        status, body = self._ask("GET", f"/{hashlib.sha256(origin.encode()).hexdigest()}/checkpoint", None)
        if status == _ABSENT:
            return None
        if status != _OK:
            raise UnavailableError(f"the witness {self.key.name} answered with status {status}")
        note = _text(body)
        if not verify_cosignatures(note, witnesses=[self.key]):
            raise VerificationError(f"the witness {self.key.name} shows a checkpoint that it did not cosign")
        return note

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _ask(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        try:
            answer = self._http.request(method, path, body=body, content_type="text/plain; charset=utf-8")
        except UnavailableError as error:
            raise UnavailableError(
                f"the witness {self.key.name} does not answer", action="Look at the network, and ask its operator."
            ) from error
        if len(answer.body) > _MAX_ANSWER_BYTES:
            raise VerificationError(f"the answer of the witness {self.key.name} is too large")
        return answer.status, answer.body

    def _own_line(self, note: str, body: bytes) -> str:
        own = key_id(self.key.name, self.key.key, kind=COSIGNATURE)
        for line in _text(body).split("\n"):
            try:
                signature = parse_signature(line)
            except FormatError:
                continue  # a kind of line that we do not know
            if (signature.name, signature.key_id) == (self.key.name, own):
                verify_cosignatures(f"{note}{line}\n", witnesses=[self.key])
                return f"{line}\n"
        raise VerificationError(f"the witness {self.key.name} answered without its cosignature")


def _text(body: bytes) -> str:
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise VerificationError("a witness answered with something else than text") from error
