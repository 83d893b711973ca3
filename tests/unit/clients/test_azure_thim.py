import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.amd import amd_bench

from strongroom.base.errors import FormatError, NotFoundError, UnavailableError
from strongroom.clients.azure_thim import ThimClient
from strongroom.crypto import x509

PATH = "/metadata/THIM/amd/certification"
CERTIFICATES = amd_bench().amd.certificates
GOOD = {
    "vcekCert": x509.to_pem(CERTIFICATES["VCEK"]),
    "tcbm": "DB18000000000004",
    "certificateChain": x509.to_pem(CERTIFICATES["ask"]) + x509.to_pem(CERTIFICATES["ark"]),
    "cacheControl": "86400",
}


@pytest.fixture
def host() -> Iterator[Callable[[bytes], ThimClient]]:
    answer = b""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path == PATH and self.headers["Metadata"] == "true"
            self.send_response(200 if known else 400)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Be quiet."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}).start()

        def answering(body: bytes) -> ThimClient:
            nonlocal answer
            answer = body
            return ThimClient(f"http://127.0.0.1:{server.server_address[1]}")

        yield answering
        server.shutdown()


def test_gives_the_chain_of_this_machines_chip(host: Callable[[bytes], ThimClient]) -> None:
    chain = x509.parse_pem_chain(host(json.dumps(GOOD).encode()).certificate_chain().encode())
    assert chain == tuple(CERTIFICATES[role] for role in ("VCEK", "ask", "ark"))


def test_reads_a_real_answer(host: Callable[[bytes], ThimClient], shared: Path) -> None:
    real = (shared / "vectors" / "snp" / "aci_thim.json").read_bytes()
    chain = x509.parse_pem_chain(host(real).certificate_chain().encode())
    assert [x509.common_name(each) for each in chain] == ["SEV-VCEK", "SEV-Milan", "ARK-Milan"]


@pytest.mark.parametrize(
    "change",
    [
        {"vcekCert": ""},
        {"vcekCert": 1},
        {"vcekCert": "\ud800"},
        {"certificateChain": "\ud800"},
        {"certificateChain": None},
        {"certificateChain": GOOD["vcekCert"]},
        {"vcekCert": GOOD["certificateChain"]},
    ],
)
def test_an_answer_without_the_three_certificates_is_a_format_error(
    host: Callable[[bytes], ThimClient], change: dict[str, Any]
) -> None:
    with pytest.raises(FormatError):
        host(json.dumps({**GOOD, **change}).encode()).certificate_chain()


def test_elsewhere_than_on_azure_nothing_answers() -> None:
    with pytest.raises(UnavailableError):
        ThimClient("http://127.0.0.1:9").certificate_chain()


def test_a_host_without_the_cache_has_no_document(host: Callable[[bytes], ThimClient]) -> None:
    client = host(b"")
    client._server._prefix = "/elsewhere"
    with pytest.raises(NotFoundError):
        client.certificate_chain()
