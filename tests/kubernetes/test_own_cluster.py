"""The tests on somebody's own cluster: it is found by KUBECONFIG, and gets images through a registry."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.support.kubernetes.cluster import Cluster, LocalCluster, opened_cluster
from tests.support.kubernetes.images import pod_archive
from typing_extensions import override

from strongroom.base.errors import ConfigurationError


@contextmanager
def as_somebody_elses(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The session's cluster as somebody else's would be: there is its kubeconfig, and nothing else."""
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    said: list[str] = []
    with opened_cluster(say=said.append) as opened:
        assert not isinstance(opened, LocalCluster)
        assert f"cluster: strongroom-e2e at {cluster.site.api}, as KUBECONFIG says" in said
        yield opened
    assert not opened.folder.exists()


@pytest.fixture
def own(local_cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Somebody else's cluster while the test runs."""
    with as_somebody_elses(local_cluster, monkeypatch) as opened:
        yield opened


def test_a_cluster_is_used_by_its_kubeconfig_and_what_was_made_in_it_is_deleted(
    local_cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    with as_somebody_elses(local_cluster, monkeypatch) as own:
        name = own.new_namespace("own")
        assert own.get("namespace", name)["status"]["phase"] == "Active"
        assert own.kubeconfig.stat().st_mode & 0o077 == 0
    assert not local_cluster.exists("namespace", name)


def test_without_a_registry_images_are_refused(own: Cluster) -> None:
    with pytest.raises(ConfigurationError, match="images cannot be brought") as refused:
        own.pod_image()
    assert "STRONGROOM_E2E_REGISTRY" in refused.value.action


def test_images_are_pushed_to_a_registry(own: Cluster) -> None:
    archive = pod_archive(own.box)
    with ThreadingHTTPServer(("127.0.0.1", 0), Registry) as server:
        threading.Thread(target=server.serve_forever).start()
        own.registry = f"127.0.0.1:{server.server_port}/tests"
        try:
            reference = own.import_image(archive.path)
        finally:
            server.shutdown()

    assert reference == f"{own.registry}/strongroom-podbox@{archive.digest}"
    manifest = json.loads(Registry.stored[archive.digest])
    assert {layer["digest"] for layer in manifest["layers"]} <= Registry.stored.keys()
    assert archive.digest == f"sha256:{hashlib.sha256(Registry.stored['e2e']).hexdigest()}"


class Registry(BaseHTTPRequestHandler):
    """As much of a registry as a push needs.

    Source: OCI Distribution Specification 1.1, "Pushing".
    """

    protocol_version = "HTTP/1.1"
    stored: ClassVar[dict[str, bytes]] = {}

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        found = self.stored.get(self._name())
        if found is None:
            self._answer(HTTPStatus.NOT_FOUND)
        else:
            kind = str(json.loads(found)["mediaType"]) if "/manifests/" in self.path else "application/octet-stream"
            self._answer(HTTPStatus.OK, found, **{"Content-Type": kind})

    def do_POST(self) -> None:
        self._answer(HTTPStatus.ACCEPTED, Location=f"{urlsplit(self.path).path}one")

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        asked = parse_qs(urlsplit(self.path).query).get("digest", [digest])
        assert asked == [digest]
        self.stored[digest] = self.stored[self._name()] = content
        self._answer(HTTPStatus.CREATED, Location=self.path)

    def _name(self) -> str:
        return Path(urlsplit(self.path).path).name

    def _answer(self, status: HTTPStatus, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    @override
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""
