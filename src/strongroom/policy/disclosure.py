"""What a refusal tells whom it refuses: what is his own, and never what an owner decided.

A TEE that is refused learns which of its own values do not fit, and of the owners' limits only that one is reached.
What was expected instead is for those who answer for the dataset (`strongroom why`).
"""

from collections.abc import Iterable, Mapping
from typing import Final

from strongroom.base.errors import Mismatch

_OWN: Final = frozenset({"datasets", "member", "x-ms-strongroom-hardware"})
"""Both sides are the asker's own, or what everybody may ask the key service."""
_OWN_PREFIXES: Final = ("version of ", "write of ")
_LIMITS: Final[Mapping[str, tuple[str, str]]] = {
    "runs": ("a run that is left", "none is left"),
    "executors": ("a place for another executor", "none is left"),
    "signatures": ("everybody's who has to sign", "somebody's is missing"),
    "roster": ("an approval that still counts", "one that has ended"),
}
"""What is counted or decided on the owners' side: only that it is so."""
_EXPECTED: Final[Mapping[str, str]] = {
    "time": "a time at which ticket and approval hold",
    "duration": "an end within the approved time",
    "submitter": "one whom an approval names",
    "application": "an approved one",
    "workload": "one that an approval names",
}
_WHAT_WAS_APPROVED: Final = "what was approved"


def disclose(mismatches: Iterable[Mismatch]) -> tuple[Mismatch, ...]:
    """Return mismatches as the refused may see them, each once."""
    return tuple(dict.fromkeys(_disclosed(mismatch) for mismatch in mismatches))


def _disclosed(mismatch: Mismatch) -> Mismatch:
    name = mismatch.name
    if name in _OWN or name.startswith(_OWN_PREFIXES):
        return mismatch
    if name in _LIMITS:
        expected, actual = _LIMITS[name]
        return Mismatch(name=name, expected=expected, actual=actual)
    if name.startswith("approval "):
        return mismatch  # revoked, by whom and when: only of an approval that names the asker, or that his run has
    return Mismatch(name=name, expected=_EXPECTED.get(name, _WHAT_WAS_APPROVED), actual=mismatch.actual)
