"""What is wrong with a pod, in words: why it does not start, why it ended. Pure: from the pod as the API has it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from strongroom.base.workflow import Step
from strongroom.cluster.kubernetes.names import COMPONENT_LABEL, EXECUTOR_ID_LABEL, SUBMITTED_GATE
from strongroom.cluster.kubernetes.template import Manifest

_SIGKILL: Final = 137
_SIGTERM: Final = 143
_LONGEST: Final = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Why a pod does not start, or ended.

    Attributes:
        cause: A sentence.
        action: What to do about it.
        step: The step of the run that it belongs to.
        patience_s: For a pod that waits: how long this may last; None where it is for whoever waits to say.
    """

    cause: str
    action: str
    step: Step
    patience_s: float | None = None


_SIZES: Final = (
    "ask for less (--driver-memory, --executor-memory, --executor-cores, spark.kubernetes.*.request.cores), check node"
    " selectors and tolerations, or have nodes added"
)
_PULL: Final = (
    "check the image's name and digest and that the nodes may pull it (spark.kubernetes.container.image.pullSecrets)"
)
_DEFECT: Final = "see the pod: kubectl describe pod"
_WAITING: Final[Mapping[str, tuple[str, str, float]]] = {
    "ErrImagePull": ("its image cannot be pulled", _PULL, 90),
    "ImagePullBackOff": ("its image cannot be pulled", _PULL, 60),
    "ImageInspectError": ("its image cannot be looked at", _PULL, 60),
    "InvalidImageName": ("the name of its image is none", "name it as NAME@sha256:DIGEST", 0),
    "ErrImageNeverPull": (
        "its image is not on the node, and may not be pulled",
        "bring it there, or leave spark.kubernetes.container.image.pullPolicy out",
        0,
    ),
    "CreateContainerConfigError": ("its container cannot be made", _DEFECT, 60),
    "CreateContainerError": ("its container cannot be made", _DEFECT, 60),
    "RunContainerError": ("its container does not start", "check that the image is Strongroom's", 30),
}
_MEMORY: Final = "raise --{role}-memory, or --conf spark.{role}.memoryOverhead: Python and scratch need memory too"
_POD_REASONS: Final[Mapping[str, tuple[str, str]]] = {
    "Evicted": ("it was evicted from its node", "the node lacks memory or disk: ask for more, so that it is reserved"),
    "Preempting": ("a pod of higher priority took its place", "give the run a priorityClassName in its pod templates"),
    "NodeLost": ("its node was lost", "submit again"),
    "NodeShutdown": ("its node was shut down", "submit again"),
    "Terminated": ("its node was shut down", "submit again"),
    "NodeAffinity": ("its node no longer fits its template", "check node selectors"),
    "DeadlineExceeded": ("it ran longer than its template allows", "raise activeDeadlineSeconds in the pod template"),
    "UnexpectedAdmissionError": ("its node did not take it", "have the node's devices and their plugins checked"),
}
_DISRUPTIONS: Final[Mapping[str, str]] = {
    "EvictionByEvictionAPI": "it was evicted (a node is drained, or somebody asked for it)",
    "PreemptionByScheduler": "a pod of higher priority took its place",
    "DeletionByTaintManager": "its node got a taint that it does not tolerate",
    "DeletionByPodGC": "its node is gone",
    "TerminationByKubelet": "its node ended it",
}


def role_of(pod: Manifest) -> str:
    """Return what a pod of a run is: `driver` or `executor`; the host's word."""
    return str(_labels(pod).get(COMPONENT_LABEL, ""))


def source_of(pod: Manifest) -> str:
    """Return how progress lines name a pod: `driver`, `executor-3`."""
    role = role_of(pod)
    number = _labels(pod).get(EXECUTOR_ID_LABEL)
    return f"{role}-{number}" if role == "executor" and number else role


def phase_of(pod: Manifest) -> str:
    """Return a pod's phase: Pending, Running, Succeeded, Failed, Unknown."""
    return str(_status(pod).get("phase", "Pending"))


def has_ended(pod: Manifest) -> bool:
    """Return whether a pod has ended."""
    return phase_of(pod) in {"Succeeded", "Failed"}


def is_abandoned(pod: Manifest) -> bool:
    """Return whether a pod still waits for its submitter to make everything else."""
    gates = pod.get("spec", {}).get("schedulingGates") or []
    return any(gate.get("name") == SUBMITTED_GATE for gate in gates)


def termination_message(pod: Manifest) -> str:
    """Return what the agent left as its last word; empty if nothing."""
    return str(_terminated(pod).get("message", "")).strip()[:_LONGEST]


def exit_code_of(pod: Manifest) -> int | None:
    """Return the exit status of a pod's Spark container, once it has one."""
    code = _terminated(pod).get("exitCode")
    return code if isinstance(code, int) else None


def why_waiting(pod: Manifest, *, events: Iterable[Manifest] = ()) -> Fault | None:
    """Return why a pod has not started, where there is more to say than that it is being started.

    Args:
        pod: The pod.
        events: The API's events about it, oldest first; only they tell of volumes.
    """
    source, step = source_of(pod), Step.EXECUTORS
    for condition in _conditions(pod):
        if condition.get("type") == "PodScheduled" and condition.get("reason") == "Unschedulable":
            return Fault(cause=f"no node can take the {source}'s pod: {_said(condition)}", action=_SIZES, step=step)
    for status in _containers(pod):
        waiting = (status.get("state") or {}).get("waiting") or {}
        if (known := _WAITING.get(str(waiting.get("reason")))) is not None:
            what, action, patience_s = known
            return Fault(
                cause=f"the {source}'s pod waits: {what}: {_said(waiting)}",
                action=action,
                step=step,
                patience_s=patience_s,
            )
    failed = [
        each for each in events if each.get("reason") in {"FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox"}
    ]
    if failed:
        return Fault(cause=f"the {source}'s pod waits: {_said(failed[-1])}", action=_DEFECT, step=step)
    return None


def why_ended(pod: Manifest) -> Fault | None:
    """Return why a pod ended badly; None if it did not end, or ended well."""
    done_to_it = (_starved(pod), _ended_by_its_node(pod), _disturbed(pod))
    if (fault := next((each for each in done_to_it if each is not None), None)) is not None:
        return fault
    if pod.get("metadata", {}).get("deletionTimestamp"):
        return None  # somebody asked it to end: Spark does with executors that it needs no more
    if not has_ended(pod) and exit_code_of(pod) is None:
        return None
    return _refused(pod) or _never_started(pod) or _badly_ended(pod)


def _starved(pod: Manifest) -> Fault | None:
    if _terminated(pod).get("reason") != "OOMKilled":
        return None
    return Fault(
        cause=f"the {source_of(pod)}'s pod was ended: it used more memory than its limit{_limit(pod)}",
        action=_MEMORY.format(role=role_of(pod)),
        step=Step.COMPUTE,
    )


def _ended_by_its_node(pod: Manifest) -> Fault | None:
    known = _POD_REASONS.get(str(_status(pod).get("reason", "")))
    if known is None:
        return None
    cause, action = known
    said = _colon(_said(_status(pod)))
    return Fault(cause=f"the {source_of(pod)}'s pod ended: {cause}{said}", action=action, step=Step.COMPUTE)


def _disturbed(pod: Manifest) -> Fault | None:
    for condition in _conditions(pod):
        if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True":
            cause = _DISRUPTIONS.get(str(condition.get("reason")), "the cluster disturbed it")
            return Fault(cause=f"the {source_of(pod)}'s pod ended: {cause}", action="submit again", step=Step.COMPUTE)
    return None


def _refused(pod: Manifest) -> Fault | None:
    said, source = termination_message(pod), source_of(pod)
    match exit_code_of(pod):
        case 70:  # the agent refused; the sentence is in its log, too
            words = said or "it refused, and did not say why"
            return Fault(
                cause=f"the {source}'s agent: {words}", action="see its log: strongroom runs logs", step=Step.ATTEST
            )
        case 64:  # the agent was started wrongly
            return Fault(
                cause=f"the {source}'s agent cannot read what it was handed{_colon(said)}",
                action="use one version of Strongroom on this machine and in the image",
                step=Step.EXECUTORS,
            )
        case _:
            return None


def _never_started(pod: Manifest) -> Fault | None:
    ended = _terminated(pod)
    if ended.get("reason") not in {"ContainerCannotRun", "StartError"}:
        return None
    return Fault(
        cause=f"the {source_of(pod)}'s container does not start: {_said(ended)}",
        action="check that the image is Strongroom's",
        step=Step.EXECUTORS,
    )


def _badly_ended(pod: Manifest) -> Fault | None:
    code, source = exit_code_of(pod), source_of(pod)
    if code in {_SIGKILL, _SIGTERM}:
        cause, action = f"the {source}'s pod was ended from outside", "see who deletes pods here"
    elif code:
        cause, action = f"the {source}'s pod ended with status {code}", _DEFECT
    elif phase_of(pod) == "Failed":
        said = _said(_status(pod)) or "no reason is given"
        cause, action = f"the {source}'s pod failed: {said}", _DEFECT
    else:
        return None
    return Fault(cause=cause, action=action, step=Step.COMPUTE)


def _status(pod: Manifest) -> Manifest:
    found = pod.get("status")
    return found if isinstance(found, dict) else {}


def _labels(pod: Manifest) -> Mapping[str, Any]:
    found = pod.get("metadata", {}).get("labels")
    return found if isinstance(found, dict) else {}


def _conditions(pod: Manifest) -> list[Manifest]:
    return [each for each in _status(pod).get("conditions") or [] if isinstance(each, dict)]


def _containers(pod: Manifest) -> list[Manifest]:
    return [each for each in _status(pod).get("containerStatuses") or [] if isinstance(each, dict)]


def _terminated(pod: Manifest) -> Manifest:
    for status in _containers(pod):
        found = (status.get("state") or {}).get("terminated")
        if isinstance(found, dict):
            return found
    return {}


def _limit(pod: Manifest) -> str:
    for container in pod.get("spec", {}).get("containers") or []:
        limit = (container.get("resources") or {}).get("limits", {}).get("memory")
        if limit:
            return f" of {limit}"
    return ""


def _said(thing: Manifest) -> str:
    return " ".join(str(thing.get("message") or thing.get("reason") or "").split())[:_LONGEST]


def _colon(text: str) -> str:
    return f": {text}" if text else ""
