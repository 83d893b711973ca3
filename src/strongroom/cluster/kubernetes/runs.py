"""Runs that were submitted to a cluster earlier: which there are, how they stand, what they left in their logs."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

from strongroom.base.errors import ConflictError, FormatError, NotFoundError
from strongroom.cluster.kubernetes.client import KubernetesClient
from strongroom.cluster.kubernetes.diagnosis import (
    has_ended,
    is_abandoned,
    phase_of,
    role_of,
    source_of,
    termination_message,
    why_ended,
    why_waiting,
)
from strongroom.cluster.kubernetes.names import (
    APPLICATION_ANNOTATION,
    COMPONENT_LABEL,
    DRIVER_CONTAINER,
    NAME_ANNOTATION,
    PART_OF,
    RUN_ID_ANNOTATION,
    RUN_LABEL,
    STEP_LABEL,
    RunNames,
)
from strongroom.cluster.kubernetes.state import FinishedRun, RunState
from strongroom.cluster.kubernetes.template import Manifest
from strongroom.wire.events import Event, parse_event

_SHOWN: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOnCluster:
    """A run, as its driver's pod tells. It is the cluster's word.

    Attributes:
        run: The beginning of the run's id, as labels have it.
        run_id: The whole id; as the pod's annotation says.
        state: waiting, running, succeeded, failed, stopping, or abandoned.
        step: The step that its submitter saw last; None if nobody looked.
        executors: How many executors' pods run now.
        why: Why it waits or failed; None if there is nothing to say.
    """

    run: str
    run_id: str
    application: str
    application_digest: str
    state: str
    step: str | None
    executors: int
    submitted_at: str
    why: str | None

    def record(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)


def list_runs(client: KubernetesClient) -> list[RunOnCluster]:
    """Return the runs in a namespace, the newest first."""
    pods = client.find("pods", labels=PART_OF)
    drivers = [pod for pod in pods if role_of(pod) == "driver" and _run_of(pod)]
    found = [_run(driver, [pod for pod in pods if _run_of(pod) == _run_of(driver)]) for driver in drivers]
    return sorted(found, key=lambda run: run.submitted_at, reverse=True)


def find_run(client: KubernetesClient, text: str) -> RunNames:
    """Return the run whose id begins with a text.

    Raises:
        NotFoundError: There is none in the namespace.
        ConflictError: There are several.
    """
    wanted = text.removesuffix("…").lower()
    runs = list_runs(client)
    found = {run.run_id: run for run in runs if wanted and run.run_id.startswith(wanted)}
    if not found:
        known = ", ".join(f"{run.run}…" for run in runs[:_SHOWN]) or "none"
        raise NotFoundError(
            f"there is no run {text} in namespace {client.namespace}",
            action=f"name another namespace, or the beginning of one that is there: {known}",
        )
    if len(found) > 1:
        raise ConflictError(f"{text} is the beginning of {len(found)} runs", action="give more of its characters")
    return RunNames(run_id=next(iter(found)))


def show_run(client: KubernetesClient, names: RunNames) -> dict[str, Any]:
    """Return what the cluster knows of a run: its pods, and why they wait or ended."""
    pods = client.find("pods", labels={RUN_LABEL: names.short})
    driver = next((pod for pod in pods if pod["metadata"]["name"] == names.driver_pod), None)
    if driver is None:
        raise NotFoundError(f"the driver's pod of run {names.short} is gone", action="see: strongroom runs list")
    objects = client.find("configmaps", labels={RUN_LABEL: names.short})
    return {
        **_run(driver, pods).record(),
        "namespace": client.namespace,
        "pods": [_pod(pod) for pod in sorted(pods, key=lambda each: str(each["metadata"]["name"]))],
        "config_maps": sorted(str(each["metadata"]["name"]) for each in objects),
    }


def events_of(client: KubernetesClient, pod: Manifest) -> Iterator[Event]:
    """Yield the events in a pod's log until now; other lines are passed over."""
    name = str(pod["metadata"]["name"])
    log = client.log(name, container=str(pod["spec"]["containers"][0].get("name", DRIVER_CONTAINER)), follow=False)
    try:
        for line in log:
            try:
                yield parse_event(line.text)
            except FormatError:
                continue
    finally:
        log.stream.release()


def pods_of(client: KubernetesClient, names: RunNames) -> list[tuple[str, Manifest]]:
    """Return a run's pods and how progress lines name them, the driver first."""
    pods = client.find("pods", labels={RUN_LABEL: names.short})
    return sorted(((source_of(pod), pod) for pod in pods), key=lambda each: (each[0] != "driver", each[0]))


def fetch_run(client: KubernetesClient, names: RunNames) -> FinishedRun:
    """Return what a run left in its driver's log: how it ended, receipt and sealed output.

    Raises:
        NotFoundError: The driver's pod is gone, and its log with it.
        ConflictError: The run has not ended.
        IntegrityError: The log does not hold it whole.
        StrongroomError: The run failed; why.
    """
    pod = client.get("pods", names.driver_pod)
    if pod is None:
        raise NotFoundError(
            f"the driver's pod of run {names.short} is gone, and its log with it",
            action="what the run archived lies on its storage (strongroom submit --archive)",
        )
    state = RunState(names=names, pending_s=0)
    for _ in state.saw_pod(pod, now_s=0):
        pass
    for event in events_of(client, pod):
        state.saw_event(names.driver_pod, event)
    if has_ended(pod):
        state.saw_end_of_log(names.driver_pod)
    found = state.result()
    if found is None:
        raise ConflictError(
            f"run {names.short} has not ended", action=f"follow it: strongroom runs logs --follow {names.short}"
        )
    return found


def _run(driver: Manifest, pods: list[Manifest]) -> RunOnCluster:
    annotations = driver["metadata"].get("annotations") or {}
    labels = driver["metadata"].get("labels") or {}
    fault = why_ended(driver) or (why_waiting(driver) if phase_of(driver) == "Pending" else None)
    return RunOnCluster(
        run=_run_of(driver),
        run_id=str(annotations.get(RUN_ID_ANNOTATION, _run_of(driver))),
        application=str(annotations.get(NAME_ANNOTATION, "")),
        application_digest=str(annotations.get(APPLICATION_ANNOTATION, "")),
        state=_state(driver),
        step=labels.get(STEP_LABEL),
        executors=sum(role_of(pod) == "executor" and phase_of(pod) == "Running" for pod in pods),
        submitted_at=str(driver["metadata"].get("creationTimestamp", "")),
        why=None if fault is None else fault.cause,
    )


def _state(driver: Manifest) -> str:
    if is_abandoned(driver):
        return "abandoned"
    if driver["metadata"].get("deletionTimestamp"):
        return "stopping"
    phases = {"Pending": "waiting", "Running": "running", "Succeeded": "succeeded", "Failed": "failed"}
    return phases.get(phase_of(driver), phase_of(driver).lower())


def _pod(pod: Manifest) -> dict[str, Any]:
    fault = why_ended(pod) or (why_waiting(pod) if phase_of(pod) == "Pending" else None)
    return {
        "name": pod["metadata"]["name"],
        "role": (pod["metadata"].get("labels") or {}).get(COMPONENT_LABEL),
        "phase": phase_of(pod),
        "node": pod["spec"].get("nodeName"),
        "why": None if fault is None else fault.cause,
        "last_words": termination_message(pod) or None,
    }


def _run_of(pod: Manifest) -> str:
    return str((pod["metadata"].get("labels") or {}).get(RUN_LABEL, ""))
