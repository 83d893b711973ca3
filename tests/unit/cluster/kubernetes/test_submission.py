"""A run's objects: all or none. The submission client is Spark's own; the API server is in this process."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.kubernetes.api_server import ApiServer, Refusal
from tests.support.kubernetes.rendering import RUN_ID, rendered

from strongroom.base.clock import SystemClock
from strongroom.base.errors import EngineError, RefusedError, StrongroomError
from strongroom.cluster.kubernetes.access import Access
from strongroom.cluster.kubernetes.client import KubernetesClient
from strongroom.cluster.kubernetes.names import SUBMITTED_GATE, RunNames
from strongroom.cluster.kubernetes.submission import start_run
from strongroom.engine.runtime import runtime_of_this_installation

NAMES = RunNames(run_id=RUN_ID)
OURS = [NAMES.config_map, NAMES.package_config_map(0), NAMES.package_config_map(1)]


def access_to(api: ApiServer) -> Access:
    from kubernetes.client import Configuration  # noqa: PLC0415 - slow to load

    return Access(server=api.url, configuration=Configuration(), spark={}, environment={"PATH": os.environ["PATH"]})


def start(api: ApiServer, client: KubernetesClient) -> dict[str, Any]:
    return start_run(
        rendered(),
        client=client,
        access=access_to(api),
        runtime=runtime_of_this_installation(),
        clock=SystemClock(),
        tell=lambda _text: None,
    )


def gates_of(pod: dict[str, Any]) -> list[str]:
    return [gate["name"] for gate in pod["spec"].get("schedulingGates") or []]


def test_the_pod_is_let_go_when_everything_else_is_there_and_belongs_to_it(
    api: ApiServer, client: KubernetesClient
) -> None:
    seen: list[tuple[str, list[str]]] = []

    def watch(kind: str, made: dict[str, Any]) -> None:
        driver = api.objects.get(("pods", NAMES.driver_pod), {"spec": {}})
        seen.append((f"{kind} {made['metadata']['name']}", gates_of(driver)))

    api.on_create = watch
    pod = start(api, client)

    assert gates_of(pod) == []
    assert seen[0][0] == f"pods {NAMES.driver_pod}", "something was made before the pod that owns it"
    assert all(gates == [SUBMITTED_GATE] for _, gates in seen)
    assert set(OURS) < set(api.names("configmaps"))
    for (kind, _), each in api.objects.items():
        if kind != "pods":
            assert [owner["uid"] for owner in each["metadata"]["ownerReferences"]] == [pod["metadata"]["uid"]], kind


def test_spark_makes_the_pod_as_it_was_rendered(api: ApiServer, client: KubernetesClient) -> None:
    pod = start(api, client)

    (container,) = pod["spec"]["containers"]
    assert container["command"] == ["/usr/local/bin/strongroom-agent", "--pod"]
    assert container["args"][0] == "driver"
    assert container["image"].endswith("@sha256:" + "5" * 64)
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["resources"]["limits"]["memory"] == "1945Mi"
    assert pod["spec"]["restartPolicy"] == "Never"
    assert pod["spec"]["serviceAccountName"] == "strongroom-driver"
    assert [each for each in pod["spec"]["volumes"] if "emptyDir" in each] == [
        {"name": "spark-local-dir-1", "emptyDir": {"medium": "Memory"}}
    ]
    assert pod["metadata"]["labels"]["strongroom.run"] == NAMES.short
    assert pod["metadata"]["labels"]["spark-role"] == "driver"
    assert not any("secretKeyRef" in str(each) for each in container["env"])


@pytest.mark.parametrize(
    ("refused", "says"),
    [
        (("POST", "pods"), "cannot create pods"),
        (("POST", "configmaps"), "cannot create configmaps"),
        (("PATCH", "pods"), "cannot patch pods"),
    ],
)
def test_what_fails_in_the_middle_leaves_nothing(
    api: ApiServer, client: KubernetesClient, refused: tuple[str, str], says: str
) -> None:
    api.refusals[refused] = Refusal(status=403, message=f"user ana {says}")

    with pytest.raises(StrongroomError, match=says) as caught:
        start(api, client)

    assert isinstance(caught.value, EngineError | RefusedError)
    assert caught.value.action
    assert api.objects == {}


def test_a_run_of_the_same_name_is_left_alone_only_if_it_is_another(api: ApiServer, client: KubernetesClient) -> None:
    """A run's id is random: what is there under its names is somebody's attempt to be taken for it."""
    api.put("pods", {"metadata": {"name": NAMES.driver_pod}, "spec": {}})

    with pytest.raises(EngineError, match="already exists"):
        start(api, client)


SUBMITTER = """
import sys
from pathlib import Path
from kubernetes.client import Configuration
from tests.support.kubernetes.api_server import NAMESPACE
from tests.support.kubernetes.rendering import rendered
from strongroom.base.clock import SystemClock
from strongroom.cluster.kubernetes.access import Access
from strongroom.cluster.kubernetes.client import KubernetesClient
from strongroom.cluster.kubernetes.submission import start_run
from strongroom.engine.runtime import runtime_of_this_installation
access = Access(server=sys.argv[1], configuration=Configuration(), spark={}, environment={"PATH": "/usr/bin:/bin"})
start_run(rendered(), client=KubernetesClient(access, namespace=NAMESPACE), access=access,
          runtime=runtime_of_this_installation(), clock=SystemClock(), tell=lambda text: None)
"""


@pytest.mark.parametrize("at", ["pods", "configmaps"])
def test_a_submitter_that_is_killed_leaves_at_most_a_pod_that_never_starts(
    api: ApiServer, client: KubernetesClient, repo_root: Path, at: str
) -> None:
    """Killed when the pod has just been made, and when the first of our own objects has."""
    process: subprocess.Popen[bytes] | None = None

    def kill(kind: str, made: dict[str, Any]) -> None:
        ours = made["metadata"]["name"] in (NAMES.driver_pod, NAMES.config_map)
        if kind == at and ours and process is not None:
            process.send_signal(signal.SIGKILL)
            process.wait()

    api.on_create = kill
    process = subprocess.Popen([sys.executable, "-c", SUBMITTER, api.url], cwd=repo_root)
    try:
        assert process.wait(120) == -signal.SIGKILL
    finally:
        process.kill()
        process.wait()
    _until_quiet(lambda: len(api.requests))

    pod = api.objects["pods", NAMES.driver_pod]
    assert gates_of(pod) == [SUBMITTED_GATE]
    for (kind, _), each in api.objects.items():
        assert kind == "pods" or each["metadata"]["ownerReferences"][0]["uid"] == pod["metadata"]["uid"]
    assert client.delete("pods", NAMES.driver_pod)
    assert api.objects == {}


def test_an_interrupted_submission_leaves_nothing(api: ApiServer, repo_root: Path) -> None:
    process: subprocess.Popen[bytes] | None = None

    def interrupt(kind: str, _made: dict[str, Any]) -> None:
        if kind == "pods" and process is not None:
            process.send_signal(signal.SIGINT)

    api.on_create = interrupt
    process = subprocess.Popen([sys.executable, "-c", SUBMITTER, api.url], cwd=repo_root, stderr=subprocess.DEVNULL)
    try:
        assert process.wait(120) != 0
    finally:
        process.kill()
        process.wait()

    assert api.objects == {}


def _until_quiet(count: Callable[[], int]) -> None:
    """Wait until nothing asks any more."""
    before = -1
    while count() != before:
        before = count()
        time.sleep(0.5)
