"""What Azure's services say when they do not do what they were asked: a code, and words for people.

Source: Azure REST API guidelines, "Error condition responses".
"""

from dataclasses import dataclass
from typing import Final

from strongroom.base.encoding import parse_json_object
from strongroom.base.errors import FormatError
from strongroom.clients.https import Answered

_SHOWN: Final = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class AzureFault:
    """An answer that is an error.

    Attributes:
        code: Azure's name for it; empty where the answer has none.
        said: Code and message as far as they can be shown; the status where there is neither.
    """

    code: str
    said: str


def read_fault(answer: Answered) -> AzureFault:
    """Read an answer that is no success; whatever it holds, it can be shown."""
    try:
        found = parse_json_object(answer.body)
    except FormatError:
        found = {}
    match found:
        case {"error": {"code": str(code), "message": str(message), **more}}:
            match more:
                case {"innererror": {"code": str(inner)}}:
                    said = f"{code} ({inner}): {message}"
                case _:
                    said = f"{code}: {message}"
            return AzureFault(code=code, said="".join(each if each.isprintable() else " " for each in said)[:_SHOWN])
        case _:
            return AzureFault(code="", said=f"status {answer.status}")
