import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.kubernetes.api_server import NAMESPACE, ApiServer, Refusal

from strongroom.base.errors import (
    AuthenticationError,
    ConfigurationError,
    ConflictError,
    FormatError,
    LimitError,
    NotFoundError,
    RefusedError,
    StrongroomError,
    UnavailableError,
)
from strongroom.cluster.kubernetes import client as module
from strongroom.cluster.kubernetes.access import Access
from strongroom.cluster.kubernetes.client import STRATEGIC, KubernetesClient

LABELS = {"strongroom.run": "0123"}


def config_map(name: str, **labels: str) -> dict[str, object]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels or LABELS}}


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """Answer one request with these bytes, whatever it asks for; yield the address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join(10)


@contextmanager
def client_of(server: str) -> Iterator[KubernetesClient]:
    from kubernetes.client import Configuration  # noqa: PLC0415 - slow to load

    access = Access(server=server, configuration=Configuration(), spark={}, environment={})
    client = KubernetesClient(access, namespace=NAMESPACE)
    yield client
    client.close()


def test_creates_finds_changes_and_deletes_objects(client: KubernetesClient) -> None:
    made = client.create("configmaps", config_map("a"))
    client.create("configmaps", config_map("b", other="x"))

    assert client.get("configmaps", "a") == made
    assert client.get("configmaps", "c") is None
    assert [each["metadata"]["name"] for each in client.find("configmaps", labels=LABELS)] == ["a"]
    changed = client.patch("configmaps", "a", {"metadata": {"labels": {"more": "y"}}})
    assert changed["metadata"]["labels"] == {**LABELS, "more": "y"}
    assert client.delete("configmaps", "a") is True
    assert client.delete("configmaps", "a") is False
    assert client.delete_all("configmaps", labels={"other": "x"}) == 1


def test_takes_one_gate_away_and_leaves_the_others(api: ApiServer, client: KubernetesClient) -> None:
    gates = [{"name": "strongroom.run/submitted"}, {"name": "kueue"}]
    api.put("pods", {"metadata": {"name": "p"}, "spec": {"schedulingGates": gates}})

    patch = {"spec": {"schedulingGates": [{"name": "strongroom.run/submitted", "$patch": "delete"}]}}
    changed = client.patch("pods", "p", patch, how=STRATEGIC)

    assert changed["spec"]["schedulingGates"] == [{"name": "kueue"}]


def test_deletes_only_the_very_object_that_is_meant(client: KubernetesClient) -> None:
    made = client.create("pods", {"metadata": {"name": "p"}})

    with pytest.raises(ConflictError):
        client.delete("pods", "p", uid="another")
    assert client.delete("pods", "p", uid=made["metadata"]["uid"])


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, ConfigurationError),
        (401, AuthenticationError),
        (403, RefusedError),
        (404, NotFoundError),
        (409, ConflictError),
        (410, ConflictError),
        (422, ConfigurationError),
        (429, UnavailableError),
        (500, UnavailableError),
        (503, UnavailableError),
    ],
)
def test_the_apis_refusals_are_our_errors_in_its_words(
    api: ApiServer, client: KubernetesClient, status: int, kind: type[StrongroomError]
) -> None:
    api.refusals["POST", "configmaps"] = Refusal(status=status, message="user ana cannot create configmaps")

    with pytest.raises(kind, match="user ana cannot create configmaps"):
        client.create("configmaps", config_map("a"))


def test_an_api_that_is_away_is_unavailable(api: ApiServer, client: KubernetesClient) -> None:
    api.away = True

    with pytest.raises(UnavailableError, match="does not answer"):
        client.find("pods")


def test_follows_a_watch_from_where_a_list_ended(api: ApiServer, client: KubernetesClient) -> None:
    api.put("pods", {"metadata": {"name": "old", "labels": LABELS}})
    pods, version = client.find_at("pods", labels=LABELS)
    watch = client.watch("pods", labels=LABELS, since=version)
    api.put("pods", {"metadata": {"name": "new", "labels": LABELS}})
    api.put("pods", {"metadata": {"name": "other", "labels": {"strongroom.run": "other"}}})
    api.remove("pods", "new")

    changes = iter(watch)
    told = [next(changes), next(changes)]
    watch.stream.close()
    watch.stream.release()

    assert [pod["metadata"]["name"] for pod in pods] == ["old"]
    assert [(each.kind, each.object["metadata"]["name"]) for each in told] == [("ADDED", "new"), ("DELETED", "new")]


def test_reads_a_log_line_by_line_while_it_is_written(api: ApiServer, client: KubernetesClient) -> None:
    api.put("pods", {"metadata": {"name": "p"}, "status": {"phase": "Running"}})
    api.say("p", "one", "zwölf")
    log = client.log("p", container="x", follow=True)
    lines = iter(log)
    first = [next(lines), next(lines)]
    api.say("p", "three")
    api.put("pods", {"metadata": {"name": "p"}, "status": {"phase": "Succeeded"}})

    assert [line.text for line in [*first, *lines]] == ["one", "zwölf", "three"]
    assert first[0].time < first[1].time
    log.stream.release()


def test_a_stream_is_closed_from_another_thread_whatever_it_waits_for(api: ApiServer, client: KubernetesClient) -> None:
    api.put("pods", {"metadata": {"name": "p"}, "status": {"phase": "Running"}})
    log = client.log("p", container="x", follow=True)
    ended = threading.Event()

    def read() -> None:
        try:
            list(log)
        except UnavailableError:
            pass
        finally:
            log.stream.release()
            ended.set()

    thread = threading.Thread(target=read)
    thread.start()
    time.sleep(0.1)
    log.stream.close()

    assert ended.wait(5)
    thread.join()


def test_a_stream_may_be_closed_when_its_reader_has_ended_and_given_it_up(
    api: ApiServer, client: KubernetesClient
) -> None:
    api.put("pods", {"metadata": {"name": "p"}, "status": {"phase": "Succeeded"}})
    api.say("p", "one")
    log = client.log("p", container="x", follow=True)
    assert [line.text for line in log] == ["one"]
    log.stream.close()
    log.stream.release()
    log.stream.close()

    broken = client.log("p", container="x", follow=True)
    next(iter(broken))
    broken.stream.release()
    broken.stream.close()


def test_a_broken_stream_is_unavailable(api: ApiServer, client: KubernetesClient) -> None:
    api.put("pods", {"metadata": {"name": "p"}, "status": {"phase": "Running"}})
    log = client.log("p", container="x", follow=True)
    api.break_streams()

    with pytest.raises(UnavailableError):
        list(log)
    log.stream.release()


def test_reads_a_token_anew_for_every_request(api: ApiServer, tmp_path: Path) -> None:
    from kubernetes.client import Configuration  # noqa: PLC0415 - slow to load

    file = tmp_path / "token"
    file.write_text("first\n")
    access = Access(server=api.url, configuration=Configuration(), spark={}, environment={}, token_file=file)
    client = KubernetesClient(access, namespace=NAMESPACE)

    assert client._headers()["Authorization"] == "Bearer first"
    file.write_text("second\n")
    assert client._headers()["Authorization"] == "Bearer second"
    file.unlink()
    with pytest.raises(ConfigurationError, match="token file"):
        client.find("pods")
    client.close()


def test_no_certificate_of_another_authority_is_believed(api: ApiServer) -> None:
    """The API's address answers without TLS here, so the handshake fails: nothing is sent before it."""
    from kubernetes.client import Configuration  # noqa: PLC0415 - slow to load

    access = Access(
        server=api.url.replace("http://", "https://"), configuration=Configuration(), spark={}, environment={}
    )
    client = KubernetesClient(access, namespace=NAMESPACE)
    with pytest.raises((UnavailableError, StrongroomError)):
        client.find("pods")
    assert api.requests == []
    assert client._pool.connection_pool_kw["cert_reqs"] in {ssl.CERT_REQUIRED, "CERT_REQUIRED"}
    client.close()


def test_goes_nowhere_else_with_credentials_when_told_to(api: ApiServer) -> None:
    """A whole answer stands there: who followed would take it for the cluster's."""
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/p"
    api.put("pods", {"metadata": {"name": "p"}})
    moved = f"HTTP/1.1 307 Moved\r\nLocation: {api.url}{path}\r\nContent-Length: 0\r\n\r\n"
    with answering(moved.encode()) as server, client_of(server) as client, pytest.raises(FormatError):
        client.get("pods", "p")
    assert api.requests == []


@pytest.mark.parametrize("name", ["../configmaps/a", "a?watch=true", "a#b", "a/log"])
def test_a_name_is_one_part_of_a_path(api: ApiServer, client: KubernetesClient, name: str) -> None:
    """Names of pods are what the API says they are."""
    client.create("configmaps", config_map("a"))
    client.create("pods", {"metadata": {"name": "a"}})

    assert client.get("pods", name) is None
    assert client.delete("pods", name) is False
    assert {kind for kind, _ in api.objects} == {"configmaps", "pods"}


def test_an_answer_that_is_too_large_is_not_read(client: KubernetesClient, monkeypatch: pytest.MonkeyPatch) -> None:
    client.create("configmaps", config_map("a"))
    monkeypatch.setattr(module, "_MAX_BYTES", 20)

    with pytest.raises(LimitError, match="too large"):
        client.get("configmaps", "a")


def test_a_line_without_an_end_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_LINE_BYTES", 1000)
    endless = b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n" + b"x" * 2000
    with answering(endless) as server, client_of(server) as client:
        log = client.log("p", container="x", follow=True)
        with pytest.raises(LimitError, match="line"):
            list(log)
        log.stream.release()
