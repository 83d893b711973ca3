"""What a target of fuzzing is: a parser, good input for it, and the errors that it may raise."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from strongroom.base.errors import FormatError, StrongroomError


@dataclass(frozen=True, kw_only=True)
class Target:
    """A parser.

    Attributes:
        name: What people and the command line call it.
        parse: Takes any bytes.
        samples: Good input, to be edited.
        refusals: The errors that bad input may raise; every other exception is a finding.
        write: Gives a parsed value's bytes; what they parse to must be the same value.
        exact: These bytes are the very input, but for zeros behind it.
        has_good_input: False: the samples are refused too, late: good input takes more, or is good only once.
    """

    name: str
    parse: Callable[[bytes], Any]
    samples: Callable[[], Sequence[bytes]]
    refusals: tuple[type[StrongroomError], ...] = (FormatError,)
    write: Callable[[Any], bytes] | None = None
    exact: bool = False
    has_good_input: bool = True

    def check(self, data: bytes) -> bool:
        """Parse; return whether the bytes were accepted. Raises what is a finding."""
        try:
            value = self.parse(data)
        except self.refusals as error:
            error.message.encode()  # what goes to a peer must be text
            return False
        if self.write is not None:
            again = self.write(value)
            assert self.parse(again) == value
            if self.exact:
                assert data == again + bytes(len(data) - len(again))
        return True


def text_of(data: bytes) -> str:
    """Return any bytes as text; what is not UTF-8 becomes lone surrogates, as JSON texts can hold them."""
    return data.decode("utf-8", errors="surrogateescape")


def of_text(parse: Callable[[str], Any]) -> Callable[[bytes], Any]:
    return lambda data: parse(text_of(data))
