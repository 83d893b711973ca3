"""Access tokens of Microsoft Entra for a machine: what Azure's vaults ask for before they answer at all.

A token is the operator's to give and says nothing about the data: it only decides whether a vault answers.

Source: Microsoft identity platform, "OAuth 2.0 client credentials flow", third case (federated credential);
Azure, "How to use managed identities for Azure resources on an Azure VM to acquire an access token"; RFC 7523.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeAlias
from urllib.parse import urlencode, urlsplit

from strongroom.base.encoding import parse_json_object
from strongroom.base.errors import AuthenticationError, ConfigurationError, FormatError, UnavailableError
from strongroom.base.limits import LIMITS
from strongroom.base.secret import SecretBytes
from strongroom.base.workflow import Step
from strongroom.clients.https import Answered, Https
from strongroom.wire.vault_key import ManagedIdentity, WorkloadIdentity

AccessToken: TypeAlias = Callable[[], SecretBytes]
"""Asks for a new bearer token."""
_ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_METADATA_PATH: Final = "/metadata/identity/oauth2/token"
_METADATA_VERSION: Final = "2018-02-01"
_SHOWN: Final = 100
_FIRST_SERVER_ERROR: Final = 500
_TOO_MANY: Final = 429


def access_token(credential: WorkloadIdentity | ManagedIdentity, *, resource: str) -> AccessToken:
    """Return what asks for tokens of a machine's identity.

    Args:
        credential: Which identity, and who gives the tokens.
        resource: For whom the tokens are, such as `https://vault.azure.net`.

    Returns:
        A function that asks for a new token each time. It raises `AuthenticationError` where there is no such identity,
        `ConfigurationError` where the projected token cannot be read, `UnavailableError` where nobody answers.

    Raises:
        ConfigurationError: An address or certificate is none.
    """
    match credential:
        case WorkloadIdentity():
            parts = urlsplit(credential.token_url)
            entra = Https(
                f"{parts.scheme}://{parts.netloc}", service="Entra", authorities_pem=credential.authorities_pem
            )
            return lambda: _exchange(entra, parts.path, credential, resource)
        case ManagedIdentity():
            metadata = Https(credential.url, service="the metadata service", insecure_plain_http=True)
            return lambda: _ask_metadata(metadata, credential, resource)


def _exchange(entra: Https, path: str, credential: WorkloadIdentity, resource: str) -> SecretBytes:
    """Exchange the projected token, read anew each time: Kubernetes replaces it."""
    form = {
        "grant_type": "client_credentials",
        "client_id": credential.client_id,
        "scope": f"{resource.removesuffix('/')}/.default",
        "client_assertion_type": _ASSERTION_TYPE,
        "client_assertion": _projected_token(Path(credential.token_file)),
    }
    headers = {"content-type": "application/x-www-form-urlencoded"}
    answer = entra.request("POST", path, body=urlencode(form).encode(), headers=headers, max_bytes=LIMITS.token_bytes)
    return _token(answer, giver="Entra")


def _ask_metadata(metadata: Https, credential: ManagedIdentity, resource: str) -> SecretBytes:
    asked = {"api-version": _METADATA_VERSION, "resource": resource}
    if credential.client_id is not None:
        asked["client_id"] = credential.client_id
    answer = metadata.request(
        "GET", f"{_METADATA_PATH}?{urlencode(asked)}", headers={"Metadata": "true"}, max_bytes=LIMITS.token_bytes
    )
    return _token(answer, giver="the metadata service")


def _projected_token(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(LIMITS.token_bytes + 1)
    except OSError as error:
        raise ConfigurationError(
            f"the federated token {path} cannot be read: {error.strerror}",
            action="Give the service account a projected token (azure.workload.identity/use: true).",
            step=Step.RELEASE,
        ) from error
    text = data.decode("ascii", errors="replace").strip()
    if not text or len(data) > LIMITS.token_bytes:
        raise ConfigurationError(f"the federated token {path} is empty, or too long", step=Step.RELEASE)
    return text


def _token(answer: Answered, *, giver: str) -> SecretBytes:
    if answer.status == _TOO_MANY or answer.status >= _FIRST_SERVER_ERROR:
        raise UnavailableError(
            f"{giver} answered with status {answer.status}", action="Submit again later.", step=Step.RELEASE
        )
    fields = _fields(answer.body)
    if not answer.is_success:
        reason = str(fields.get("error", f"status {answer.status}"))[:_SHOWN]
        raise AuthenticationError(
            f"{giver} gives this machine no token: {reason}",
            action="Check the client id, and the federated credential or the identity of this machine.",
        )
    match fields:
        case {"access_token": str(token), "token_type": str(kind)} if (
            token and kind.lower() == "bearer" and token.isascii() and token.isprintable() and " " not in token
        ):
            return SecretBytes(token.encode("ascii"))
        case _:
            raise FormatError(f"the answer of {giver} holds no bearer token", step=Step.RELEASE)


def _fields(body: bytes) -> Mapping[str, object]:
    try:
        return parse_json_object(body)
    except FormatError:
        return {}
