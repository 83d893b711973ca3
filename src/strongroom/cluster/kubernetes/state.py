"""What is known of a run from its pods and their logs, and what follows from it. Pure: it is told, and asked.

The log is the host's to write: what stands there is believed for progress alone. Receipts are verified for themselves.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from strongroom.base.errors import EngineError, IntegrityError, StrongroomError
from strongroom.base.workflow import Step
from strongroom.cluster.failures import error_of, is_refusal
from strongroom.cluster.kubernetes.diagnosis import (
    Fault,
    has_ended,
    phase_of,
    role_of,
    source_of,
    termination_message,
    why_ended,
    why_waiting,
)
from strongroom.cluster.kubernetes.names import RunNames
from strongroom.cluster.kubernetes.template import Manifest
from strongroom.wire.events import Delivered, Event, Failed, Finished, delivered_file

_FETCH: Final = "fetch them again: strongroom runs fetch; what the run archived lies on its storage (--archive)"


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedRun:
    """How a run ended, as its driver's agent told.

    Attributes:
        finished: Its last event.
        files: What was delivered, by name: the receipt, and the sealed output where there is one.
        replaced_executors: How many executors' pods were lost and replaced.
    """

    finished: Finished
    files: dict[str, bytes]
    replaced_executors: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Something about a pod that a person should read while the run goes on."""

    source: str
    text: str


@dataclass(slots=True, kw_only=True)
class _Seen:
    """A pod and what was made of it."""

    pod: Manifest
    first_seen_s: float
    waits_for: str = ""
    runs: bool = False
    lost: bool = False


@dataclass(slots=True, kw_only=True)
class RunState:
    """One run, as far as it was told.

    Attributes:
        names: The run's names.
        pending_s: How long pods may wait for a node or their volumes; 0 for ever.
        executors: How many executors the run keeps; None where that goes up and down.
    """

    names: RunNames
    pending_s: float
    executors: int | None = None
    _pods: dict[str, _Seen] = field(default_factory=dict)
    _gone: set[str] = field(default_factory=set)
    _read_to_end: set[str] = field(default_factory=set)
    _parts: dict[str, dict[int, Delivered]] = field(default_factory=dict)
    _finished: Finished | None = None
    _failed: dict[str, Failed] = field(default_factory=dict)
    _faults: dict[str, tuple[Fault, float]] = field(default_factory=dict)
    _lost: int = 0
    _any_executor_ran: bool = False

    # --- it is told -------------------------------------------------------------------------------------------------

    def saw_pod(self, pod: Manifest, *, now_s: float, events: Iterable[Manifest] = ()) -> Iterator[Note]:
        """Take in a pod as it is now; yield what is new about it."""
        name = str(pod["metadata"]["name"])
        seen = self._pods.setdefault(name, _Seen(pod=pod, first_seen_s=now_s))
        seen.pod = pod
        if phase_of(pod) == "Running" and not seen.runs:
            seen.runs = True
            self._faults.pop(name, None)
            self._any_executor_ran |= role_of(pod) == "executor"
            yield Note(source=source_of(pod), text=f"pod runs on {pod.get('spec', {}).get('nodeName', 'a node')}")
        if phase_of(pod) == "Pending":
            yield from self._waits(name, seen, why_waiting(pod, events=events), now_s=now_s)
        if role_of(pod) == "executor" and not seen.lost and (fault := why_ended(pod)) is not None:
            yield from self._lose(seen, fault)

    def saw_no_more(self, name: str) -> Iterator[Note]:
        """Take in that a pod was deleted."""
        seen = self._pods.get(name)
        self._gone.add(name)
        self._faults.pop(name, None)
        if seen is None or role_of(seen.pod) != "executor" or seen.lost:
            return
        if (fault := why_ended(seen.pod)) is not None:
            yield from self._lose(seen, fault)

    def saw_event(self, pod_name: str, event: Event) -> None:
        """Take in an event of a pod's agent."""
        match event:
            case Delivered() if pod_name == self.names.driver_pod and event.name in self._expected_files():
                self._parts.setdefault(event.name, {}).setdefault(event.number, event)
            case Finished() if pod_name == self.names.driver_pod:
                self._finished = event
            case Failed():
                self._failed[pod_name] = event
            case _:
                pass

    def saw_end_of_log(self, pod_name: str) -> None:
        """Take in that there is nothing more to read of a pod's log."""
        self._read_to_end.add(pod_name)

    # --- it is asked ------------------------------------------------------------------------------------------------

    @property
    def driver(self) -> Manifest | None:
        """The driver's pod, as it was seen last."""
        seen = self._pods.get(self.names.driver_pod)
        return None if seen is None else seen.pod

    def pods(self) -> list[Manifest]:
        """Return every pod that there still is."""
        return [seen.pod for name, seen in self._pods.items() if name not in self._gone]

    def waiting_pods(self) -> list[str]:
        """Return the names of the pods that have not started."""
        return [each["metadata"]["name"] for each in self.pods() if phase_of(each) == "Pending"]

    def result(self) -> FinishedRun | None:
        """Return how the run ended, if its driver told and delivered everything.

        Raises:
            IntegrityError: What was delivered is not whole, and nothing more will come.
            StrongroomError: The driver gave up, or its pod ended without a word.
        """
        if self._finished is not None:
            return self._delivered(self._finished)
        name = self.names.driver_pod
        pod_ended = name in self._gone or (self.driver is not None and has_ended(self.driver))
        if not pod_ended or name not in self._read_to_end:
            return None
        raise self._why_the_driver_ended()

    def hopeless(self, *, now_s: float) -> StrongroomError | None:
        """Return why it is no use to wait any longer: a refused executor, a pod that cannot start.

        An executor is one that the driver asked for: others with the run's labels are passed over.
        """
        for name, failure in self._failed.items():
            seen = self._pods.get(name)
            if seen is not None and self._is_our_executor(seen.pod) and is_refusal(failure):
                return error_of(failure, source=source_of(seen.pod))
        for name, (fault, since_s) in self._faults.items():
            patience_s = self.pending_s if fault.patience_s is None else fault.patience_s
            may_wait = patience_s == 0 and fault.patience_s is None
            decides = name == self.names.driver_pod or not self._any_executor_ran
            if decides and not may_wait and now_s - since_s >= patience_s:
                return _error_of_fault(fault)
        return None

    def _expected_files(self) -> tuple[str, str]:
        return f"{self.names.run_id}.receipt.json", f"{self.names.run_id}.output.jwe"

    def _delivered(self, finished: Finished) -> FinishedRun | None:
        receipt, output = self._expected_files()
        if finished.receipt != receipt or finished.output not in {None, output}:
            raise IntegrityError("the driver's log names files of another run", step=Step.WRITE)
        wanted = [name for name in (finished.receipt, finished.output) if name is not None]
        whole = all(self._is_whole(name) for name in wanted)
        if not whole and self.names.driver_pod not in self._read_to_end:
            return None
        if not whole:
            raise IntegrityError(
                "the run ended, but its log does not hold receipt and output whole", action=_FETCH, step=Step.WRITE
            )
        files = {name: delivered_file(list(self._parts[name].values())) for name in wanted}
        return FinishedRun(finished=finished, files=files, replaced_executors=self._replaced())

    def _replaced(self) -> int:
        if self.executors is None:
            return self._lost
        return max(0, sum(map(self._is_our_executor, (seen.pod for seen in self._pods.values()))) - self.executors)

    def _is_whole(self, name: str) -> bool:
        parts = self._parts.get(name, {})
        return bool(parts) and len(parts) == next(iter(parts.values())).of

    def _why_the_driver_ended(self) -> StrongroomError:
        name = self.names.driver_pod
        failure, pod = self._failed.get(name), self.driver
        fault = None if pod is None else why_ended(pod)
        if fault is not None and fault.step is Step.COMPUTE and (failure is None or not is_refusal(failure)):
            return _error_of_fault(fault)  # what the cluster did to the pod explains what the agent saw of it
        if failure is not None:
            return error_of(failure, source="driver")
        if fault is not None:
            return _error_of_fault(fault)
        if name in self._gone or (pod is not None and pod["metadata"].get("deletionTimestamp")):
            return EngineError(
                "the driver's pod was deleted while the run went on",
                action="see who deletes pods in this namespace, and submit again",
                step=Step.COMPUTE,
            )
        said = termination_message(pod) if pod is not None else ""
        return EngineError(
            f"the driver's pod ended, and its log does not say how{f': {said}' if said else ''}",
            action="its log may have been rotated away; what the run archived lies on its storage (--archive)",
            step=Step.WRITE,
        )

    def _waits(self, name: str, seen: _Seen, fault: Fault | None, *, now_s: float) -> Iterator[Note]:
        if fault is None:
            self._faults.pop(name, None)
            seen.waits_for = ""
            return
        since_s = self._faults[name][1] if name in self._faults else now_s
        self._faults[name] = (fault, since_s)
        if fault.cause != seen.waits_for:
            seen.waits_for = fault.cause
            yield Note(source=source_of(seen.pod), text=fault.cause)

    def _lose(self, seen: _Seen, fault: Fault) -> Iterator[Note]:
        seen.lost = True
        if self._finished is None and not self._driver_has_ended():
            self._lost += 1
            yield Note(source=source_of(seen.pod), text=f"{fault.cause}; the driver may ask for another one")

    def _driver_has_ended(self) -> bool:
        return self.names.driver_pod in self._gone or (self.driver is not None and has_ended(self.driver))

    def _is_our_executor(self, pod: Manifest) -> bool:
        uid = None if self.driver is None else self.driver["metadata"].get("uid")
        owners = pod["metadata"].get("ownerReferences") or []
        return role_of(pod) == "executor" and uid is not None and any(each.get("uid") == uid for each in owners)


def _error_of_fault(fault: Fault) -> EngineError:
    return EngineError(fault.cause, action=fault.action, step=fault.step)
