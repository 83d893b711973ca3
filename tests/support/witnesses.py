"""Witnesses as real processes on 127.0.0.1, and servers that answer as a witness should not."""

import json
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.support.service_processes import CLOCK, RunningService, start

from strongroom.cli.installation import free_port
from strongroom.clients.witness import WitnessClient
from strongroom.crypto.keys import SigningKey
from strongroom.log.cosignature import witness_key
from strongroom.log.note import COSIGNATURE, verification_key
from strongroom.services.identity import open_identity


@dataclass(kw_only=True)
class RunningWitness:
    """A witness's process."""

    name: str
    folder: Path
    logs: tuple[str, ...]
    port: int
    service: RunningService

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def key(self) -> str:
        """Its verification key line."""
        return str(self.service.ready["key"])

    @property
    def settings(self) -> dict[str, Any]:
        """What a key service's configuration says of it."""
        return {"key": self.key, "url": self.url, "certificate_pem": self.service.certificate_pem}

    def client(self) -> WitnessClient:
        return WitnessClient(
            self.url, key=witness_key(self.key), certificate_pem=self.service.certificate_pem, timeout_s=10
        )

    def start(self) -> None:
        self.service = _start(self.name, self.folder, self.logs, self.port)

    def kill(self) -> None:
        self.service.process.kill()
        self.service.process.wait()
        if self.service.process.stdout is not None:
            self.service.process.stdout.close()


def _start(name: str, folder: Path, logs: Sequence[str], port: int) -> RunningService:
    folder.mkdir(exist_ok=True)
    config, url = folder / "config.json", f"https://127.0.0.1:{port}"
    settings = {"name": name, "url": url, "host": "127.0.0.1", "port": port, "state": f"{folder}/state"}
    config.write_text(json.dumps({**settings, "logs": list(logs)}))
    return start("witness", config, url=url, state=folder / "state")


@contextmanager
def witness(folder: Path, *logs: str, name: str = "witness.example/w1") -> Iterator[RunningWitness]:
    """A witness of these logs (verification key lines)."""
    port = free_port()
    made = RunningWitness(name=name, folder=folder, logs=logs, port=port, service=_start(name, folder, logs, port))
    try:
        yield made
    finally:
        made.service.stop()


@dataclass(kw_only=True)
class FalseWitness:
    """A server with a witness's name and key, whose answers a test chooses.

    Attributes:
        answer: Given the method, the path and the body, the status and the body of the answer.
        asked: How often it was asked.
    """

    url: str
    certificate_pem: str
    name: str
    signing: SigningKey
    answer: Callable[[str, str, bytes], tuple[int, bytes]]
    asked: int = 0

    @property
    def key(self) -> str:
        return verification_key(self.name, self.signing.verifying_key, kind=COSIGNATURE)

    @property
    def settings(self) -> dict[str, Any]:
        return {"key": self.key, "url": self.url, "certificate_pem": self.certificate_pem}


@contextmanager
def false_witness(
    folder: Path,
    answer: Callable[[str, str, bytes], tuple[int, bytes]] = lambda _method, _path, _body: (500, b""),
    *,
    name: str = "witness.example/false",
) -> Iterator[FalseWitness]:
    """Serve a false witness."""
    identity = open_identity(folder, common_name="false", sans=["127.0.0.1"], now=CLOCK.now())
    chain, key = folder / "chain.pem", folder / "tls.key"
    chain.write_text(identity.tls_chain_pem)
    key.write_bytes(identity.tls.key.to_pem().reveal())
    made: FalseWitness

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            made.asked += 1
            status, content = made.answer(self.command, self.path, body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = handle_any  # noqa: N815 - the library's names

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    made = FalseWitness(
        url=f"https://127.0.0.1:{server.server_address[1]}",
        certificate_pem=identity.certificate_pem,
        name=name,
        signing=SigningKey.generate("Ed25519"),
        answer=answer,
    )
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
