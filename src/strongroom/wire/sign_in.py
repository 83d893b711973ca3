"""How people sign in at a service by OIDC, and what the service knows of whoever did."""

from pydantic import Field

from strongroom.wire.model import Hex32, Message, Url


class SignInIssuer(Message):
    """An issuer at which people may sign in.

    Attributes:
        issuer: Its address.
        client: The public client as which the command line signs people in.
        audience: The resource for which a token is asked (RFC 8707); it stands for this service alone.
        scopes: What is asked for beside `openid offline_access`.
        authorities_pem: Whose certificates are accepted there; None for the authorities that the machine trusts.
    """

    issuer: Url
    client: str
    audience: str
    scopes: tuple[str, ...]
    authorities_pem: str | None


class SignInOffer(Message):
    """Answer to `GET /strongroom/v1/sign-in`; no issuer: people have keys only."""

    issuers: tuple[SignInIssuer, ...]


class WhoYouAre(Message):
    """Answer to `GET /strongroom/v1/me`.

    Attributes:
        name: How the service calls the caller.
        identity: What records and the log call him.
        roles: What he may do in this call.
        key: Thumbprint of his registered key; None: he signs nothing.
    """

    name: str
    identity: Hex32
    roles: tuple[str, ...] = Field(max_length=8)
    key: Hex32 | None
