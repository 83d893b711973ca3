"""Errors as HTTP answers, in one place: our own shape, and Azure's.

Our shape: `{"error": {"code", "message", "action", "step", "mismatches": [{"name", "expected", "actual"}]}}`.
Azure's: `{"error": {"code", "message", "innererror": {"code"}}}`; attestation and key vault share it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from strongroom.base.encoding import Json, canonical_json
from strongroom.base.errors import (
    AuthenticationError,
    ConfigurationError,
    ConflictError,
    FormatError,
    LimitError,
    NotFoundError,
    RateError,
    RefusedError,
    StrongroomError,
    UnavailableError,
    VerificationError,
)

JSON_TYPE: Final = "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An HTTP answer."""

    body: bytes
    status: int = 200
    content_type: str = JSON_TYPE
    headers: dict[str, str] = field(default_factory=dict)


ErrorShape: TypeAlias = Callable[[StrongroomError], Reply]

_STATUS: Final[tuple[tuple[type[StrongroomError], int, str], ...]] = (
    (FormatError, 400, "BadParameter"),
    (AuthenticationError, 401, "Unauthorized"),
    (VerificationError, 403, "Forbidden"),
    (RefusedError, 403, "Forbidden"),
    (NotFoundError, 404, "NotFound"),
    (ConflictError, 409, "Conflict"),
    (RateError, 429, "TooManyRequests"),
    (LimitError, 413, "RequestTooLarge"),
    (UnavailableError, 503, "ServiceUnavailable"),
    (ConfigurationError, 500, "InternalError"),
)


def status_of(error: StrongroomError) -> int:
    """Return the HTTP status of an error; 500 for what is nobody's fault but ours."""
    return next((status for kind, status, _ in _STATUS if isinstance(error, kind)), 500)


def strongroom_error(error: StrongroomError) -> Reply:
    """Answer with an error in our own shape; clients rebuild the same error from it."""
    body: Json = {
        "error": {
            "code": error.code,
            "message": error.message,
            "action": error.action,
            "step": error.step.slug if error.step else None,
            "mismatches": [{"name": m.name, "expected": m.expected, "actual": m.actual} for m in error.mismatches],
        }
    }
    return Reply(body=canonical_json(body), status=status_of(error))


def azure_error(error: StrongroomError) -> Reply:
    """Answer with an error in Azure's shape.

    Source: Azure REST API guidelines, error condition responses; Azure Key Vault and Azure Attestation REST APIs.
    """
    code = next((name for kind, _, name in _STATUS if isinstance(error, kind)), "InternalError")
    details = "".join(f" {mismatch}." for mismatch in error.mismatches)
    message = f"{error.message}{'.' if details else ''}{details}"
    body: Json = {"error": {"code": code, "message": message, "innererror": {"code": error.code}}}
    return Reply(body=canonical_json(body), status=status_of(error))
