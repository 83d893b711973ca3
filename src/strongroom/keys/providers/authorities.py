"""Which certificate authorities vouch for a service that holds the master key."""

import hashlib
import ssl

from strongroom.base.errors import ConfigurationError
from strongroom.keys.providers.uri import ServiceAddress

_ACTION = "Name a file of PEM certificates (ca=FILE), and its SHA-256 (ca-sha256=HEX)."


def authorities_pem(address: ServiceAddress) -> str | None:
    """Return the certificates of the authorities that an address names; None for those this machine trusts.

    With `ca-sha256` the address itself says which bytes the file holds: whoever can change the file cannot put
    another authority in.

    Raises:
        ConfigurationError: The file cannot be read, or is not the one that the address says.
    """
    if "ca" not in address.options:
        if "ca-sha256" in address.options:
            raise ConfigurationError("the master key's address has ca-sha256 without ca", action=_ACTION)
        return None
    path = address.file("ca")
    try:
        content = path.read_bytes()
        text = content.decode("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the certificate authorities {path} cannot be read", action=_ACTION) from error
    pinned = address.options.get("ca-sha256")
    if pinned is not None and hashlib.sha256(content).hexdigest() != pinned:
        raise ConfigurationError(
            f"the certificate authorities {path} are not those that the master key's address pins", action=_ACTION
        )
    return text


def tls_context(address: ServiceAddress) -> ssl.SSLContext:
    """Return TLS settings that accept exactly the authorities of an address, and check the host's name.

    Raises:
        ConfigurationError: There are no certificates in the file.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    pem = authorities_pem(address)
    if pem is None:
        context.load_default_certs()
        return context
    try:
        context.load_verify_locations(cadata=pem)
    except (ssl.SSLError, ValueError) as error:
        raise ConfigurationError("the certificate authorities are no PEM certificates", action=_ACTION) from error
    return context
