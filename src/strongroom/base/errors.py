"""The one error tree.

    StrongroomError
    ├── FormatError            bytes or text that are not what they claim to be
    ├── VerificationError      a signature, chain, digest or proof does not hold
    │   ├── UntrustedRootError the chain is sound but ends at a root nobody configured
    │   ├── DisagreementError  two verifiers of the same evidence disagree: one of them is wrong
    │   └── InconsistentLogError  a log contradicts what it said before: it was forked, rewritten or rolled back
    ├── RefusedError           well formed and verified, but a policy says no (carries the mismatches)
    │   └── RoleError          a known person, who has none of the roles that this needs
    ├── AuthenticationError    the caller did not prove who they are
    ├── NotFoundError          the named thing does not exist
    ├── ConflictError          somebody else was faster, or the thing exists already
    ├── LimitError             larger, longer or more often than allowed
    │   └── RateError          more often than allowed: it will be allowed later
    ├── IntegrityError         stored data is not what was written
    ├── ConfigurationError     this installation or this command is not set up right
    ├── UnavailableError       a service or a device does not answer
    └── EngineError            the engine could not start, or ended badly

Each error has a stable code, a sentence that is safe to show a peer, the step it happened in (where
known) and what the person should do next.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from strongroom.base.workflow import Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """One thing that differed: what it is called, what was expected, what was found."""

    name: str
    expected: str
    actual: str

    def __post_init__(self) -> None:
        for field in ("name", "expected", "actual"):
            object.__setattr__(self, field, _utf8(getattr(self, field)))

    @override
    def __str__(self) -> str:
        return f"{self.name}: expected {self.expected}, found {self.actual}"


def differences(values: Mapping[str, tuple[str, str]]) -> tuple[Mismatch, ...]:
    """Return a mismatch for every name whose two values, the expected and the actual one, differ."""
    return tuple(
        Mismatch(name=name, expected=expected, actual=actual)
        for name, (expected, actual) in values.items()
        if expected != actual
    )


def _utf8(text: str) -> str:
    """Return the text with lone surrogates spelled out: JSON strings can hold them, answers and logs cannot."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


class StrongroomError(Exception):
    """Base of every error this project raises on purpose.

    Args:
        message: One sentence, safe to show a peer; never a secret.
        action: What the person should do next.
        step: The step of the run, where it is known.
        mismatches: Every difference that led here, not only the first.
    """

    code: ClassVar[str] = "error"

    def __init__(
        self,
        message: str,
        *,
        action: str = "",
        step: Step | None = None,
        mismatches: tuple[Mismatch, ...] = (),
    ) -> None:
        super().__init__(_utf8(message))
        self.message = _utf8(message)
        self.action = _utf8(action)
        self.step = step
        self.mismatches = mismatches

    def at(self, step: Step) -> "StrongroomError":
        """Return this error with its step set, unless it already has one."""
        if self.step is None:
            self.step = step
        return self


class FormatError(StrongroomError):
    """Bytes or text that are not what they claim to be."""

    code = "format"


class VerificationError(StrongroomError):
    """A signature, chain, digest or proof does not hold."""

    code = "verification"


class UntrustedRootError(VerificationError):
    """The chain is sound but ends at a root that is not configured here."""

    code = "untrusted-root"


class DisagreementError(VerificationError):
    """Two verifiers disagree about the same evidence: one of them is wrong. Whoever runs them must look into it."""

    code = "verifiers-disagree"


class InconsistentLogError(VerificationError):
    """A log contradicts what it said before: it was forked, rewritten or rolled back."""

    code = "log-inconsistent"


class RefusedError(StrongroomError):
    """A policy says no."""

    code = "refused"


class RoleError(RefusedError):
    """The person has none of the roles that this needs."""

    code = "role"


class AuthenticationError(StrongroomError):
    """The caller did not prove who they are."""

    code = "unauthenticated"


class NotFoundError(StrongroomError):
    """The named thing does not exist."""

    code = "not-found"


class ConflictError(StrongroomError):
    """Somebody else was faster, or the thing exists already."""

    code = "conflict"


class LimitError(StrongroomError):
    """Larger, longer or more often than allowed."""

    code = "limit"


class RateError(LimitError):
    """More often than allowed; later it is allowed again."""

    code = "rate"


class IntegrityError(StrongroomError):
    """Stored data is not what was written."""

    code = "integrity"


class ConfigurationError(StrongroomError):
    """This installation or this command is not set up right."""

    code = "configuration"


class UnavailableError(StrongroomError):
    """A service or a device does not answer."""

    code = "unavailable"


class EngineError(StrongroomError):
    """The engine could not start, or ended badly."""

    code = "engine"


def error_for_code(code: str) -> type[StrongroomError]:
    """Return the error class with this code; `StrongroomError` for an unknown one."""
    pending = [StrongroomError]
    while pending:
        error = pending.pop()
        if error.code == code:
            return error
        pending += error.__subclasses__()
    return StrongroomError
