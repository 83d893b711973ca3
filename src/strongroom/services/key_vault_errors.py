"""Errors in Key Vault's shape, with the codes that its clients look at.

Source: Azure Key Vault REST API, "Authentication, requests and responses", error responses.
"""

import uuid
from typing import Final
from urllib.parse import urlsplit

from strongroom.base.encoding import Json, canonical_json, parse_json_object
from strongroom.base.errors import AuthenticationError, ConflictError, NotFoundError, RefusedError, StrongroomError
from strongroom.crypto.random import random_id
from strongroom.services.errors import Reply, azure_error

SERVICE_VERSION: Final = "strongroom/1"
_UNAUTHORIZED: Final = 401


class KeyRefusedError(RefusedError):
    """A key's state does not permit the operation.

    Args:
        message: One sentence.
        inner_code: Azure's name for the reason, such as `KeyDisabled`.
        action: What the person should do next.
    """

    def __init__(self, message: str, *, inner_code: str, action: str = "") -> None:
        super().__init__(message, action=action)
        self.inner_code = inner_code


class KeyConflictError(ConflictError):
    """The name is in use.

    Args:
        message: One sentence.
        inner_code: Azure's name for the reason, such as `ObjectIsDeletedButRecoverable`.
        action: What the person should do next.
    """

    def __init__(self, message: str, *, inner_code: str, action: str = "") -> None:
        super().__init__(message, action=action)
        self.inner_code = inner_code


def vault_headers() -> dict[str, str]:
    """Return the headers of every answer: its own id, by which clients and people name it."""
    return {
        "x-ms-request-id": str(uuid.UUID(hex=random_id())),
        "x-ms-keyvault-service-version": SERVICE_VERSION,
    }


def vault_error(error: StrongroomError, *, challenge: str) -> Reply:
    """Answer with an error in Key Vault's shape; one that asks for a token carries the challenge."""
    reply, headers = azure_error(error), vault_headers()
    content = parse_json_object(reply.body)
    if isinstance(error, NotFoundError):
        content["error"] = {"code": "KeyNotFound", "message": error.message}
    if isinstance(error, KeyRefusedError | KeyConflictError):
        content["error"]["innererror"] = {"code": error.inner_code}
    if error.action:
        content["error"]["message"] += f" → {error.action}"
    if isinstance(error, AuthenticationError) and reply.status == _UNAUTHORIZED:
        headers["www-authenticate"] = challenge
    body: Json = content
    return Reply(body=canonical_json(body), status=reply.status, headers=headers)


def bearer_challenge(url: str, *, tenant: str) -> str:
    """Return the bearer challenge. Clients demand that the vault's host lies below the resource's.

    Source: azure-keyvault, `ChallengeAuthPolicy`.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    below = host.partition(".")[2]
    resource = below if below and not host.replace(".", "").isdigit() else host
    port = f":{parts.port}" if parts.port else ""
    return f'Bearer authorization="{url}/{tenant}", resource="https://{resource}{port}"'
