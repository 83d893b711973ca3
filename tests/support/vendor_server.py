"""Intel's PCS and AMD's KDS as a real HTTPS server on 127.0.0.1, which can be made slow, broken or a liar."""

import http.server
import json
import os
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from tests.support.amd import amd_bench
from tests.support.platform import NOW

from strongroom.attestation.endorsements.dcap import Tee
from strongroom.attestation.evidence.snp_report import TcbVersion
from strongroom.attestation.verifier import TrustedRoot, TrustedRoots
from strongroom.clients.https import Https
from strongroom.crypto import x509
from strongroom.crypto.keys import SigningKey
from strongroom.simulation.amd import SimulatedAmd
from strongroom.simulation.platform import SimulatedPlatform

Headers = dict[str, str]


@dataclass
class SettableClock:
    """A clock that tests turn."""

    time: datetime = NOW

    def now(self) -> datetime:
        return self.time

    def advance(self, **by: float) -> None:
        self.time += timedelta(**by)


@dataclass
class Answer:
    """An answer; every field is one edit away from a fault."""

    body: bytes
    headers: Headers = field(default_factory=dict)
    status: int = 200


def pcs_document(name: str, text: str, signature: str) -> bytes:
    return f'{{"{name}":{text},"signature":"{signature}"}}'.encode()


@dataclass(kw_only=True)
class Vendors:
    """What the simulated vendors publish, signed anew for each request.

    Attributes:
        edit: By the beginning of a path: changes the answer.
        signed: By "tcb", "qe" or "crl": changes a document before it is signed.
    """

    platform: SimulatedPlatform
    amd: SimulatedAmd
    clock: Any
    edit: dict[str, Callable[[Answer], Answer]] = field(default_factory=dict)
    signed: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = field(default_factory=dict)
    crl_number: int = 5
    crl_age: timedelta = timedelta(days=1)
    crl_lifetime: timedelta = timedelta(days=30)

    @classmethod
    def new(cls, clock: SettableClock) -> "Vendors":
        platform = SimulatedPlatform.create(now=NOW)
        return cls(platform=platform, amd=amd_bench().amd, clock=clock)

    @property
    def roots(self) -> TrustedRoots:
        return TrustedRoots(
            roots=tuple(
                TrustedRoot(certificate_der=root, simulated=True)
                for root in (self.platform.root_der, self.amd.root_der)
            )
        )

    @property
    def roots_pem(self) -> str:
        return x509.to_pem(self.platform.root_der) + x509.to_pem(self.amd.root_der)

    @property
    def fmspc(self) -> str:
        return self.platform.fmspc.hex()

    def answer(self, target: str) -> Answer:
        found = self._answer(urlsplit(target).path, urlsplit(target).query)
        for start, edit in self.edit.items():
            if target.startswith(start):
                found = edit(found)
        return found

    def _answer(self, path: str, query: str) -> Answer:  # noqa: PLR0911 - one for each address
        asked = dict(part.split("=") for part in query.split("&") if part)
        match path.strip("/").split("/"):
            case ["sgx", "certification", "v4", "pckcrl"] if asked == {"ca": "platform", "encoding": "der"}:
                chain = quote(self._chain("pck-ca", "root"))
                return Answer(self._crl("pck-ca"), {"SGX-PCK-CRL-Issuer-Chain": chain})
            case ["sgx", "certification", "v4", "rootcacrl"]:
                return Answer(self._crl("root").hex().encode())
            case ["sgx" | "tdx" as tee, "certification", "v4", "tcb"]:
                if asked.pop("fmspc", "") != self.fmspc.upper():
                    return Answer(b"", status=404)
                return self._signed(tee, "tcb", asked)
            case ["sgx" | "tdx" as tee, "certification", "v4", "qe", "identity"]:
                return self._signed(tee, "qe", asked)
            case ["vcek" | "vlek" as kind, "v1", "Milan", "cert_chain"]:
                certificates = self.amd.certificates
                return Answer(
                    (
                        x509.to_pem(certificates["ask" if kind == "vcek" else "asvk"])
                        + x509.to_pem(certificates["ark"])
                    ).encode()
                )
            case ["vcek" | "vlek", "v1", "Milan", "crl"]:
                return Answer(self._amd_crl())
            case ["vcek", "v1", "Milan", chip] if chip == self.amd.chip_id.hex():
                tcb = TcbVersion(
                    boot_loader=int(asked["blSPL"]),
                    tee=int(asked["teeSPL"]),
                    snp=int(asked["snpSPL"]),
                    microcode=int(asked["ucodeSPL"]),
                )
                return Answer(self.amd.endorsement_certificate("VCEK", now=NOW, tcb=tcb))
        return Answer(b"", status=404)

    def _signed(self, tee: str, kind: str, asked: dict[str, str]) -> Answer:
        kind_of_tee: Tee = "TDX" if tee == "tdx" else "SGX"
        whole = self.platform.endorsements(now=self.clock.now(), tee=kind_of_tee)
        document = json.loads(whole.tcb_info if kind == "tcb" else whole.qe_identity)
        if asked == {"update": "early"}:
            document["tcbEvaluationDataNumber"] += 1
        elif "tcbEvaluationDataNumber" in asked:
            document["tcbEvaluationDataNumber"] = int(asked["tcbEvaluationDataNumber"])
        document = self.signed.get(kind, lambda same: same)(document)
        text = json.dumps(document, indent=1)  # as spread out as no other serialiser would write it again
        signature = self.platform.keys["tcb-signing"].sign(text.encode()).hex()
        chain = quote(self._chain("tcb-signing", "root"))
        if kind == "tcb":
            return Answer(pcs_document("tcbInfo", text, signature), {"TCB-Info-Issuer-Chain": chain})
        return Answer(pcs_document("enclaveIdentity", text, signature), {"SGX-Enclave-Identity-Issuer-Chain": chain})

    def _chain(self, *roles: str) -> str:
        return "".join(x509.to_pem(self.platform.certificates[role]) for role in roles)

    def _crl(self, role: str) -> bytes:
        return self._list(self.platform.certificates[role], self.platform.keys[role])

    def _amd_crl(self) -> bytes:
        return self._list(self.amd.root_der, self.amd.keys["ark"], pss=True)

    def _list(self, issuer: bytes, key: SigningKey, *, pss: bool = False) -> bytes:
        issued = self.clock.now() - self.crl_age
        return x509.issue_crl(
            issuer_der=issuer,
            issuer_key=key,
            revoked_der=(),
            number=self.crl_number,
            last_update=issued,
            next_update=issued + self.crl_lifetime,
            pss=pss,
        )


class VendorServer:
    """The server.

    Attributes:
        requests: The paths that were asked for.
        delay_s: How long each answer is held back.
        raw: If set: what is written to the connection instead of an answer, byte by byte with `drip_s` between them.
    """

    def __init__(self, vendors: Vendors, *, name: str = "127.0.0.1", port: int = 0) -> None:
        self.vendors = vendors
        self.requests: list[str] = []
        self.headers: list[Headers] = []
        self.delay_s = 0.0
        self.raw: bytes | None = None
        self.drip_s = 0.0
        self.release = threading.Event()
        self.hold = False
        key = SigningKey.generate("ES256")
        start, end = datetime(2020, 1, 1, tzinfo=NOW.tzinfo), datetime(2040, 1, 1, tzinfo=NOW.tzinfo)
        authority = x509.new_identity(common_name="vendor", key=key, not_before=start, not_after=end)
        leaf_key = SigningKey.generate("ES256")
        leaf = x509.issue_leaf(
            issuer_cert=authority,
            issuer_key=key,
            subject_public_key=leaf_key.verifying_key,
            common_name="vendor",
            sans=[name],
            usage=x509.LeafUsage.TLS,
            not_before=start,
            not_after=end,
        )
        self.authority_pem = x509.to_pem(authority)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        descriptor = os.memfd_create("tls")
        os.write(descriptor, x509.to_pem(leaf).encode() + leaf_key.to_pem().reveal())
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
        os.close(descriptor)
        self._server = _Server(("127.0.0.1", port), _handler(self))
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self._server.server_address[1]
        self.url = f"https://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def https(self, **options: Any) -> Https:
        return Https(self.url, service="the vendor", **{"authorities_pem": self.authority_pem, **options})

    def stop(self) -> None:
        self.release.set()
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Peers hang up in these tests."""


def _handler(server: VendorServer) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            server.requests.append(self.path)
            server.headers.append({name.lower(): value for name, value in self.headers.items()})
            if server.hold:
                server.release.wait(30)
            time.sleep(server.delay_s)
            if server.raw is not None:
                self.close_connection = True
                for byte in server.raw:
                    self.wfile.write(bytes([byte]))
                    if server.drip_s:
                        time.sleep(server.drip_s)
                return
            found = server.vendors.answer(self.path)
            self.send_response(found.status)
            for name, value in {"Content-Length": str(len(found.body)), **found.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(found.body)

        def log_message(self, *_: object) -> None:
            """Be quiet."""

    return Handler


@contextmanager
def serving(vendors: Vendors, **options: Any) -> Iterator[VendorServer]:
    server = VendorServer(vendors, **options)
    try:
        yield server
    finally:
        server.stop()


def with_body(body: bytes) -> Callable[[Answer], Answer]:
    return lambda answer: replace(answer, body=body)


def write_folder(vendors: Vendors, folder: Path) -> Path:
    """Write the documents as a simulated platform writes its folder of endorsements."""
    folder.mkdir()
    for tee, suffix in (("SGX", ""), ("TDX", "-tdx")):
        kind: Tee = "TDX" if tee == "TDX" else "SGX"
        content = vendors.platform.endorsements(now=vendors.clock.now(), tee=kind).to_json()
        (folder / f"{vendors.fmspc}{suffix}.json").write_bytes(content)
    crl = vendors.answer("/vcek/v1/Milan/crl").body
    (folder / f"{x509.spki_sha256(vendors.amd.root_der)}.crl").write_bytes(crl)
    return folder
