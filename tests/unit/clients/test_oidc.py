"""What stands at an issuer's address: configurations and keys that are not such, or somebody else's.

Signing in at a real provider is in tests/attacks/test_sign_in.py and tests/workflow/test_sign_in.py.
"""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.vendor_server import Answer, SettableClock, Vendors, VendorServer, serving

from strongroom.base.errors import (
    ConfigurationError,
    FormatError,
    LimitError,
    NotFoundError,
    StrongroomError,
    UnavailableError,
    VerificationError,
)
from strongroom.clients.oidc import Issuer, SignIn
from strongroom.wire.sign_in import SignInIssuer

DISCOVERY = "/.well-known/openid-configuration"
VENDORS = Vendors.new(SettableClock())
CLOCK = SettableClock()


@pytest.fixture
def server() -> Iterator[VendorServer]:
    with serving(replace(VENDORS, edit={})) as server:
        yield server


def issuer(server: VendorServer) -> Issuer:
    return Issuer(server.url, authorities_pem=server.authority_pem)


def publish(server: VendorServer, keys: Any = None, **changed: Any) -> None:
    """Publish a configuration, and keys."""
    said = {"issuer": server.url, "jwks_uri": f"{server.url}/jwks", **changed}
    present = {name: value for name, value in said.items() if value is not None}
    server.vendors.edit[DISCOVERY] = lambda _: Answer(json.dumps(present).encode())
    body = json.dumps(keys).encode()
    server.vendors.edit["/jwks"] = lambda _: Answer(body)


def test_keys_are_those_of_the_discovered_place(server: VendorServer) -> None:
    publish(server, {"keys": [{"kty": "EC"}, {"kty": "oct", "k": "x"}]})

    assert [key["kty"] for key in issuer(server).published_keys()] == ["EC", "oct"]
    assert server.requests == [DISCOVERY, "/jwks"]


@pytest.mark.parametrize("name", ["", "/", "/realm", ":1"])
def test_refuses_the_configuration_of_another_issuer(server: VendorServer, name: str) -> None:
    publish(server, {"keys": []}, issuer=server.url + name if name else None)
    with pytest.raises(VerificationError, match="of another issuer"):
        issuer(server).published_keys()


@pytest.mark.parametrize(
    "place", [None, 1, "", "jwks", "http://127.0.0.1/jwks", "file:///etc/passwd", "https:///jwks", ["https://a.test"]]
)
def test_refuses_keys_at_a_place_that_is_not_an_https_address(server: VendorServer, place: Any) -> None:
    publish(server, {"keys": []}, jwks_uri=place)
    with pytest.raises((FormatError, ConfigurationError)):
        issuer(server).published_keys()


@pytest.mark.parametrize("keys", [None, [], {}, {"keys": None}, {"keys": {}}, {"keys": ["x"]}, {"keys": [[]]}])
def test_refuses_what_is_no_key_set(server: VendorServer, keys: Any) -> None:
    publish(server, keys)
    with pytest.raises(FormatError):
        issuer(server).published_keys()


def test_refuses_a_name_that_stands_twice(server: VendorServer) -> None:
    publish(server, {"keys": []})
    body = f'{{"issuer":"{server.url}","jwks_uri":"{server.url}/jwks","jwks_uri":"{server.url}/other"}}'
    server.vendors.edit[DISCOVERY] = lambda _: Answer(body.encode())
    with pytest.raises(FormatError):
        issuer(server).published_keys()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Answer(b"", status=404), NotFoundError),
        (Answer(b"", {"Location": "/elsewhere"}, status=302), UnavailableError),
        (Answer(b"", status=500), UnavailableError),
        (Answer(b" " * (64 << 20)), LimitError),
    ],
    ids=["absent", "redirect", "fault", "large"],
)
def test_an_answer_that_is_none_is_a_clear_error(
    server: VendorServer, answer: Answer, error: type[StrongroomError]
) -> None:
    server.vendors.edit[DISCOVERY] = lambda _: answer
    with pytest.raises(error):
        issuer(server).published_keys()
    assert "/elsewhere" not in server.requests


def test_refuses_a_server_of_another_authority(server: VendorServer) -> None:
    publish(server, {"keys": []})
    with serving(VENDORS) as other, pytest.raises(VerificationError, match="is not the issuer"):
        Issuer(server.url, authorities_pem=other.authority_pem).published_keys()
    assert server.requests == []


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1", "https://", "https://a.test/?x=1", "https://user@a.test", "a.test"]
)
def test_refuses_an_issuer_that_is_not_a_plain_https_address(url: str) -> None:
    with pytest.raises(ConfigurationError):
        Issuer(url, authorities_pem=None)


def test_says_what_an_issuer_cannot_do(server: VendorServer) -> None:
    publish(server)
    offer = SignInIssuer(
        issuer=server.url, client="c", audience="https://a.test", scopes=(), authorities_pem=server.authority_pem
    )
    session = SignIn(offer, clock=CLOCK)

    assert not session.has_device_code
    with pytest.raises(ConfigurationError, match="nobody signs in with a browser"):
        session.begin("http://127.0.0.1/signed-in")
    with pytest.raises(ConfigurationError, match="no sign-in on another device"):
        session.begin_on_device()


@given(body=st.binary(max_size=200))
@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_answer_is_keys_or_a_clear_error(server: VendorServer, body: bytes) -> None:
    for path in (DISCOVERY, "/jwks"):
        publish(server, {"keys": []})
        server.vendors.edit[path] = lambda _: Answer(body)
        with contextlib.suppress(StrongroomError):
            issuer(server).published_keys()
