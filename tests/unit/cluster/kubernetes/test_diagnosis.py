from typing import Any

import pytest

from strongroom.base.workflow import Step
from strongroom.cluster.kubernetes.diagnosis import (
    exit_code_of,
    has_ended,
    is_abandoned,
    source_of,
    termination_message,
    why_ended,
    why_waiting,
)
from strongroom.cluster.kubernetes.names import SUBMITTED_GATE


def pod(role: str = "driver", *, metadata: dict[str, Any] | None = None, **status: Any) -> dict[str, Any]:
    """A pod with this status."""
    labels = {"app.kubernetes.io/component": role}
    if role == "executor":
        labels["spark-exec-id"] = "3"
    container = {"name": "spark", "resources": {"limits": {"memory": "1408Mi"}}}
    return {
        "metadata": {"name": f"strongroom-{role}", "labels": labels, **(metadata or {})},
        "spec": {"containers": [container]},
        "status": status,
    }


def waiting(reason: str, message: str = "the API's words") -> list[dict[str, Any]]:
    return [{"name": "spark", "state": {"waiting": {"reason": reason, "message": message}}}]


def terminated(code: int, reason: str = "Error", message: str = "") -> list[dict[str, Any]]:
    return [{"name": "spark", "state": {"terminated": {"exitCode": code, "reason": reason, "message": message}}}]


def test_pods_are_named_as_progress_lines_name_them() -> None:
    assert source_of(pod()) == "driver"
    assert source_of(pod("executor")) == "executor-3"


def test_a_pod_that_is_just_being_started_has_no_fault() -> None:
    assert why_waiting(pod(phase="Pending")) is None
    assert why_waiting(pod(phase="Pending", containerStatuses=waiting("ContainerCreating"))) is None
    assert why_waiting(pod(phase="Pending", conditions=[{"type": "PodScheduled", "status": "True"}])) is None


def test_a_pod_that_no_node_can_take_says_what_is_missing() -> None:
    condition = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/1 nodes are available: 1 Insufficient memory.",
    }
    fault = why_waiting(pod(phase="Pending", conditions=[condition]))

    assert fault is not None
    assert fault.cause == "no node can take the driver's pod: 0/1 nodes are available: 1 Insufficient memory."
    assert "--driver-memory" in fault.action
    assert fault.patience_s is None  # a node may come


@pytest.mark.parametrize(
    ("reason", "says", "patient"),
    [
        ("ErrImagePull", "cannot be pulled", True),
        ("ImagePullBackOff", "cannot be pulled", True),
        ("InvalidImageName", "name of its image", False),
        ("ErrImageNeverPull", "not on the node", False),
        ("CreateContainerConfigError", "cannot be made", True),
        ("RunContainerError", "does not start", True),
    ],
)
def test_a_container_that_cannot_start_says_why(reason: str, says: str, *, patient: bool) -> None:
    fault = why_waiting(pod("executor", phase="Pending", containerStatuses=waiting(reason)))

    assert fault is not None
    assert says in fault.cause
    assert "executor-3" in fault.cause
    assert "the API's words" in fault.cause
    assert fault.action
    assert (fault.patience_s or 0) > 0 if patient else fault.patience_s == 0


def test_only_the_events_tell_of_volumes() -> None:
    events = [
        {"reason": "Scheduled", "message": "assigned"},
        {"reason": "FailedMount", "message": 'MountVolume.SetUp failed: configmap "x" not found'},
    ]
    fault = why_waiting(pod(phase="Pending"), events=events)

    assert fault is not None
    assert 'configmap "x" not found' in fault.cause


def test_a_pod_that_ended_well_has_no_fault() -> None:
    ended = pod(phase="Succeeded", containerStatuses=terminated(0, "Completed"))

    assert why_ended(ended) is None
    assert has_ended(ended)
    assert exit_code_of(ended) == 0


@pytest.mark.parametrize(
    ("ended", "says", "does", "step"),
    [
        (
            pod(phase="Failed", containerStatuses=terminated(137, "OOMKilled")),
            "more memory than its limit of 1408Mi",
            "--driver-memory",
            Step.COMPUTE,
        ),
        (
            pod("executor", phase="Failed", containerStatuses=terminated(70, "OOMKilled")),
            "more memory than its limit",
            "spark.executor.memoryOverhead",
            Step.COMPUTE,
        ),
        (
            pod(phase="Failed", reason="Evicted", message="The node was low on resource: memory."),
            "evicted from its node: The node was low on resource: memory.",
            "ask for more",
            Step.COMPUTE,
        ),
        (
            pod(
                phase="Failed",
                conditions=[{"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}],
                containerStatuses=terminated(143),
            ),
            "it was evicted",
            "submit again",
            Step.COMPUTE,
        ),
        (
            pod(
                phase="Failed",
                conditions=[{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}],
            ),
            "higher priority",
            "submit again",
            Step.COMPUTE,
        ),
        (
            pod(phase="Failed", containerStatuses=terminated(70, message="the approval was revoked. Ask its owner.")),
            "the driver's agent: the approval was revoked. Ask its owner.",
            "runs logs",
            Step.ATTEST,
        ),
        (pod(phase="Failed", containerStatuses=terminated(64)), "cannot read", "one version", Step.EXECUTORS),
        (
            pod(phase="Failed", containerStatuses=terminated(128, "StartError", "exec: no such file")),
            "does not start: exec: no such file",
            "image is Strongroom's",
            Step.EXECUTORS,
        ),
        (pod(phase="Failed", containerStatuses=terminated(137)), "from outside", "who deletes", Step.COMPUTE),
        (pod(phase="Failed", containerStatuses=terminated(3)), "status 3", "describe", Step.COMPUTE),
        (pod(phase="Failed", reason="NodeLost"), "node was lost", "again", Step.COMPUTE),
        (pod(phase="Failed", reason="OutOfcpu", message="no room"), "failed: no room", "describe", Step.COMPUTE),
    ],
)
def test_a_pod_that_ended_badly_says_why_and_what_to_do(
    ended: dict[str, Any], says: str, does: str, step: Step
) -> None:
    fault = why_ended(ended)

    assert fault is not None
    assert says in fault.cause
    assert does in fault.action
    assert fault.step is step


def test_a_pod_that_runs_has_not_ended() -> None:
    running = pod(phase="Running", containerStatuses=[{"name": "spark", "state": {"running": {}}}])

    assert why_ended(running) is None
    assert not has_ended(running)
    assert exit_code_of(running) is None


def test_a_pod_that_spark_lets_go_is_no_loss() -> None:
    let_go = pod(
        "executor",
        metadata={"deletionTimestamp": "2026-11-27T06:00:00Z"},
        phase="Failed",
        containerStatuses=terminated(143),
    )

    assert why_ended(let_go) is None


def test_what_a_pod_says_is_cut_to_a_line_that_can_be_read() -> None:
    said = pod(phase="Failed", containerStatuses=terminated(70, message="x" * 5000))

    assert len(termination_message(said)) == 600


def test_a_gated_pod_is_recognised() -> None:
    gated = pod(phase="Pending")
    gated["spec"]["schedulingGates"] = [{"name": "kueue.x-k8s.io/admission"}, {"name": SUBMITTED_GATE}]

    assert is_abandoned(gated)
    gated["spec"]["schedulingGates"].pop()
    assert not is_abandoned(gated)


@pytest.mark.parametrize("broken", [{"metadata": {}}, {"metadata": {"labels": None}, "spec": {}, "status": None}])
def test_whatever_the_api_says_is_no_reason_to_fail(broken: dict[str, Any]) -> None:
    assert why_waiting(broken) is None
    assert why_ended(broken) is None
    assert source_of(broken) == ""
