"""Secrets that do not print, pickle or compare in variable time."""

import hmac
from typing import Final, NoReturn, final

from typing_extensions import override


@final
class SecretBytes:
    """Bytes that must not appear in a log, a traceback, a pickle or a configuration.

    `reveal()` is the only way to the value: search for it to find every use.
    """

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value: Final = bytes(value)

    def reveal(self) -> bytes:
        """Return the bytes themselves."""
        return self._value

    def __len__(self) -> int:
        return len(self._value)

    @override
    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretBytes) and hmac.compare_digest(self._value, other._value)

    @override
    def __hash__(self) -> int:
        msg = "secrets are not hashable"
        raise TypeError(msg)

    @override
    def __repr__(self) -> str:
        return f"SecretBytes({len(self._value)} bytes)"

    __str__ = __repr__

    @override
    def __reduce__(self) -> NoReturn:
        msg = "secrets are not pickled"
        raise TypeError(msg)
