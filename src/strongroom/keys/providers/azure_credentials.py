"""Who asks a key vault: tokens that somebody else renews in a file, or a workload identity of Kubernetes."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from strongroom.base.errors import ConfigurationError
from strongroom.keys.providers.secret_file import read_secret_text
from strongroom.keys.providers.uri import ServiceAddress

if TYPE_CHECKING:
    from azure.core.credentials import AccessToken, TokenCredential

_ACTION: Final = (
    "Write credential=token-file&token-source=FILE, or"
    " credential=workload-identity&tenant=ID&client=ID&token-source=FILE."
)


class TokenFile:
    """A bearer token in an owner-only file, read anew for each request: whoever renews it replaces the file.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def get_token(self, *_scopes: str, **_options: Any) -> "AccessToken":  # noqa: ANN401 - the SDK's protocol
        """Return the token that stands in the file now, as one that has to be asked for again at once.

        Raises:
            ConfigurationError: The file cannot be read, or is not its owner's alone.
        """
        from azure.core.credentials import AccessToken  # noqa: PLC0415 - an extra

        token = read_secret_text(self._path, what="the vault's token", action="Have it written there, and renewed.")
        return AccessToken(token.reveal().decode("ascii"), 0)


def credential_of(address: ServiceAddress) -> "TokenCredential":
    """Return the credential that an address names.

    Raises:
        ConfigurationError: None, another one, or parts of it are missing or too many; azure-identity is not installed.
    """
    options = address.options
    named = {name for name in ("tenant", "client", "token-source") if name in options}
    if options.get("credential") == "token-file" and named == {"token-source"}:
        return TokenFile(address.file("token-source"))
    if options.get("credential") == "workload-identity" and named == {"tenant", "client", "token-source"}:
        return _workload_identity(address)
    raise ConfigurationError("the master key's address names no complete credential", action=_ACTION)


def _workload_identity(address: ServiceAddress) -> "TokenCredential":
    try:
        from azure.identity import WorkloadIdentityCredential  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigurationError(
            "workload identities need azure-identity", action="Install it: pip install 'strongroom[azure]'"
        ) from error
    return WorkloadIdentityCredential(
        tenant_id=address.options["tenant"],
        client_id=address.options["client"],
        token_file_path=str(address.file("token-source")),
    )
