"""Errors as Azure Attestation answers them: its codes, its header, and our own error inside (`innererror`).

Source: Azure Attestation REST API, `CloudError`; Azure Attestation, "Troubleshooting guide".
"""

from typing import Final

from strongroom.base.encoding import Json, canonical_json, parse_json_object
from strongroom.base.errors import (
    AuthenticationError,
    ConflictError,
    FormatError,
    LimitError,
    NotFoundError,
    RateError,
    RefusedError,
    RoleError,
    StrongroomError,
    UnavailableError,
    VerificationError,
)
from strongroom.services.errors import Reply, strongroom_error

_AZURE: Final[tuple[tuple[type[StrongroomError], int, str], ...]] = (
    (RoleError, 403, "Forbidden"),
    (RefusedError, 400, "PolicyEvaluationError"),
    (FormatError, 400, "InvalidParameter"),
    (VerificationError, 400, "InvalidParameter"),
    (AuthenticationError, 401, "Unauthorized"),
    (NotFoundError, 404, "NotFound"),
    (ConflictError, 409, "Conflict"),
    (RateError, 429, "TooManyRequests"),
    (LimitError, 413, "RequestTooLarge"),
    (UnavailableError, 503, "ServiceUnavailable"),
)


def attestation_error(error: StrongroomError) -> Reply:
    """Answer as Azure Attestation does; our own code, action and mismatches ride in `innererror`."""
    status, code = next(
        ((status, code) for kind, status, code in _AZURE if isinstance(error, kind)), (500, "InternalError")
    )
    return _shaped(error, status=status, code=code)


def policy_error(error: StrongroomError) -> Reply:
    """Answer likewise a call that sets or resets a policy: what is malformed is the policy."""
    if isinstance(error, FormatError):
        return _shaped(error, status=400, code="PolicyParsingError")
    return attestation_error(error)


def management_error(error: StrongroomError) -> Reply:
    """Answer likewise a call about policy certificates: a refusal is no policy's word."""
    if isinstance(error, RefusedError):
        return _shaped(error, status=403, code="Forbidden")
    return attestation_error(error)


def _shaped(error: StrongroomError, *, status: int, code: str) -> Reply:
    inner = parse_json_object(strongroom_error(error).body)["error"]
    body: Json = {"error": {"code": code, "message": error.message, "innererror": inner}}
    return Reply(body=canonical_json(body), status=status, headers={"x-ms-error-code": code})
