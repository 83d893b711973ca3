"""The client against a real server on 127.0.0.1 that misbehaves."""

import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest
from tests.support.vendor_server import Answer, SettableClock, Vendors, VendorServer, serving, with_body

from strongroom.base.errors import (
    ConfigurationError,
    LimitError,
    NotFoundError,
    UnavailableError,
    VerificationError,
)
from strongroom.clients.https import Fetched, Https

PATH = "/vcek/v1/Milan/crl"
VENDORS = Vendors.new(SettableClock())


@pytest.fixture
def server() -> Iterator[VendorServer]:
    with serving(replace(VENDORS, edit={})) as server:
        yield server


def test_fetches_a_document_with_its_headers(server: VendorServer) -> None:
    server.vendors.edit["/"] = lambda _: Answer(b"body", {"Age": "7", "X-Twice": "first"})
    fetched = server.https().get("/anything?a=b", headers={"Metadata": "true"})
    assert (fetched.body, fetched.age_s, fetched.headers["x-twice"]) == (b"body", 7, "first")
    assert server.requests == ["/anything?a=b"]
    assert server.headers[0]["metadata"] == "true"


def test_paths_lie_below_the_servers_own(server: VendorServer) -> None:
    server.vendors.edit["/"] = lambda _: Answer(b"")
    below = Https(f"{server.url}/cache/", service="x", authorities_pem=server.authority_pem)
    below.get("/a")
    below.get("")
    server.https().get("")
    assert server.requests == ["/cache/a", "/cache", "/"]


@pytest.mark.parametrize("age", ["", "-1", "x", "1e3", "9" * 20, "٣"])
def test_an_age_that_is_none_counts_as_zero(age: str) -> None:
    assert Fetched(body=b"", headers={"age": age}).age_s == 0


def test_refuses_a_certificate_for_another_name() -> None:
    with serving(VENDORS, name="kdsintf.amd.com") as server, pytest.raises(VerificationError, match="not the vendor"):
        server.https().get(PATH)
    assert server.requests == []


def test_refuses_a_certificate_of_another_authority(server: VendorServer) -> None:
    with serving(VENDORS) as other, pytest.raises(VerificationError):
        server.https(authorities_pem=other.authority_pem).get(PATH)
    with pytest.raises(VerificationError):
        server.https(authorities_pem=None).get(PATH)
    assert server.requests == []


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_follows_no_redirect(server: VendorServer, status: int) -> None:
    server.vendors.edit[PATH] = lambda _: Answer(b"", {"Location": f"{server.url}/elsewhere"}, status)
    with pytest.raises(UnavailableError, match=str(status)):
        server.https().get(PATH)
    assert server.requests == [PATH]


def test_refuses_a_body_that_is_too_large_whether_it_says_so_or_not(server: VendorServer) -> None:
    server.vendors.edit[PATH] = with_body(b"x" * 1001)
    with pytest.raises(LimitError):
        server.https().get(PATH, max_bytes=1000)
    assert len(server.https().get(PATH, max_bytes=1001).body) == 1001
    server.raw = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b"x" * 1001
    with pytest.raises(LimitError):
        server.https().get(PATH, max_bytes=1000)


@pytest.mark.parametrize("status", [400, 404, 410])
def test_what_does_not_exist_is_not_found(server: VendorServer, status: int) -> None:
    server.vendors.edit[PATH] = lambda _: Answer(b"", {}, status)
    with pytest.raises(NotFoundError):
        server.https().get(PATH)


@pytest.mark.parametrize("status", [204, 401, 403, 429, 500, 503])
def test_any_other_status_is_unavailable(server: VendorServer, status: int) -> None:
    server.vendors.edit[PATH] = lambda _: Answer(b"", {"Retry-After": "33"}, status)
    with pytest.raises(UnavailableError, match=f"{status} and wants to be asked again in 33 s"):
        server.https().get(PATH)


def test_a_server_that_is_down_is_unavailable(server: VendorServer) -> None:
    server.stop()
    with pytest.raises(UnavailableError, match="does not answer"):
        server.https().get(PATH)


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n" + b"x" * 1000,
        b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 1000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 1000,
    ],
    ids=["a slow body", "slow headers", "slow chunks"],
)
def test_an_answer_that_drips_is_cut_off(server: VendorServer, raw: bytes) -> None:
    server.raw, server.drip_s = raw, 0.02
    with pytest.raises(UnavailableError, match=r"longer than 0\.3 s"):
        server.https(total_s=0.3).get(PATH)


def test_a_body_without_length_that_is_cut_off_does_not_pass_for_a_whole_one(server: VendorServer) -> None:
    server.raw, server.drip_s = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b"x" * 1000, 0.01
    with pytest.raises(UnavailableError, match="longer than"):
        server.https(total_s=0.8).get(PATH)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x00\x01\x02",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nab",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000,
    ],
    ids=["nothing", "no HTTP", "no status", "short", "half a chunk", "no chunk", "an endless header"],
)
def test_what_is_no_answer_is_unavailable(server: VendorServer, raw: bytes) -> None:
    server.raw = raw
    with pytest.raises(UnavailableError):
        server.https().get(PATH)


def test_a_server_that_accepts_and_says_nothing_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        # The handshake has a bound of its own, as every connection's first step has.
        with pytest.raises(UnavailableError):
            Https(f"https://127.0.0.1:{port}", service="x", connect_s=0.2).get(PATH)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1",
        "ftp://127.0.0.1",
        "https://",
        "https://user@host",
        "https://host?x=1",
        "https://host#x",
        "https://host:port",
        "",
    ],
)
def test_refuses_what_is_no_https_address(url: str) -> None:
    with pytest.raises(ConfigurationError):
        Https(url, service="x")


def test_refuses_an_authority_that_is_no_certificate() -> None:
    for pem in ("", "x", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "ä"):
        with pytest.raises(ConfigurationError):
            Https("https://host", service="x", authorities_pem=pem)
