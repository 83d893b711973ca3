"""Following a run: its pods by a watch, their logs by streams, each in a thread; one place that draws conclusions.

The API server may be away for a while, and streams may break at any point: everything is read again from where it
ended, and no line counts twice.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeAlias

from strongroom.base.errors import (
    AuthenticationError,
    ConfigurationError,
    ConflictError,
    FormatError,
    NotFoundError,
    RefusedError,
    StrongroomError,
    UnavailableError,
)
from strongroom.base.workflow import Step
from strongroom.cluster.kubernetes.client import KubernetesClient, LogLine, Stream
from strongroom.cluster.kubernetes.diagnosis import has_ended, phase_of, role_of, source_of
from strongroom.cluster.kubernetes.names import (
    DRIVER_CONTAINER,
    EXECUTOR_CONTAINER,
    RUN_LABEL,
    STEP_LABEL,
    RunNames,
)
from strongroom.cluster.kubernetes.state import FinishedRun, Note, RunState
from strongroom.cluster.kubernetes.template import Manifest
from strongroom.wire.events import Event, StepDone, parse_event

_TICK_S: Final = 0.5
_LOOK_S: Final = 10.0
"""How often the events of pods that wait are looked at: they tell of volumes."""
_RETRY_S: Final = 0.5
_RETRY_MOST_S: Final = 5.0
_PATIENCE_S: Final = 600.0
"""How long the cluster's API may be away."""
_REFUSAL_S: Final = 60.0
"""How long it may refuse what it allowed before: one that starts refuses until it has read roles and accounts."""
_JOIN_S: Final = 2.0
_TRIES: Final = 10
_MOST_LOGS: Final = 32
"""So many executors' logs are followed at once: a person reads no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pod:
    pod: Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class _Gone:
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    pod_name: str
    source: str
    event: Event


@dataclass(frozen=True, slots=True, kw_only=True)
class _LogEnded:
    pod_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Broken:
    error: BaseException


_Message: TypeAlias = _Pod | _Gone | _Told | _LogEnded | _Broken


class RunFollower:
    """Follows one run to its end.

    Args:
        client: The cluster, in the run's namespace.
        names: The run's names.
        executors: How many executors it keeps; None where that goes up and down.
        on_event: Called with `driver` or `executor-N`, and each event of that agent.
        on_note: Called with what a person should read about pods.
        pending_s: How long pods may wait for a node or their volumes; 0 for ever.
        marks: Whether to write the run's step on the driver's pod, for `kubectl get pods -L strongroom.step`.

    Attributes:
        gave_up: Whether `follow` ended because waiting was of no use, while the run's pods are still there.
    """

    def __init__(
        self,
        client: KubernetesClient,
        names: RunNames,
        *,
        executors: int | None,
        on_event: Callable[[str, Event], None],
        on_note: Callable[[Note], None],
        pending_s: float,
        marks: bool,
    ) -> None:
        self._client = client
        self._names = names
        self._on_event = on_event
        self._on_note = on_note
        self._marks = marks
        self._state = RunState(names=names, pending_s=pending_s, executors=executors)
        self._queue: queue.SimpleQueue[_Message] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._streams: set[Stream] = set()
        self._followed: set[str] = set()
        self._followed_executors = 0
        self._looked_s = 0.0
        self._threads: list[threading.Thread] = []
        self.gave_up = False

    def follow(self) -> FinishedRun:
        """Follow the run until its driver told how it ended.

        Raises:
            UnavailableError: The cluster's API was away for too long; the run may go on.
            StrongroomError: The run failed, or waiting for it is of no use.
        """
        self._start(self._watch_pods, name="pods")
        try:
            while True:
                self._take_in()
                if (result := self._state.result()) is not None:
                    return result
                if (error := self._state.hopeless(now_s=time.monotonic())) is not None:
                    self.gave_up = True
                    raise error
        finally:
            self._stop()

    # --- conclusions, in the caller's thread ------------------------------------------------------------------------

    def _take_in(self) -> None:
        """Take in everything that was told; wait a moment if it was nothing."""
        try:
            message = self._queue.get(timeout=_TICK_S)
            while True:
                self._heed(message)
                message = self._queue.get_nowait()
        except queue.Empty:
            self._look_at_waiting_pods()

    def _heed(self, message: _Message) -> None:
        match message:
            case _Pod(pod=pod):
                self._say(self._state.saw_pod(pod, now_s=time.monotonic()))
                self._follow_log(pod)
            case _Gone(name=name):
                self._say(self._state.saw_no_more(name))
                if name not in self._followed:
                    self._state.saw_end_of_log(name)
            case _Told(pod_name=name, source=source, event=event):
                self._state.saw_event(name, event)
                self._on_event(source, event)
                self._mark(name, event)
            case _LogEnded(pod_name=name):
                self._state.saw_end_of_log(name)
            case _Broken(error=error):
                raise error

    def _say(self, notes: Iterator[Note]) -> None:
        for note in notes:
            self._on_note(note)

    def _look_at_waiting_pods(self) -> None:
        now_s = time.monotonic()
        if now_s - self._looked_s < _LOOK_S:
            return
        self._looked_s = now_s
        for pod in self._state.pods():
            name = str(pod["metadata"]["name"])
            if phase_of(pod) != "Pending":
                continue
            with suppress(StrongroomError):  # the watch will tell; whoever may not read events hears of less
                told = self._client.find("events", fields=f"involvedObject.name={name}")
                self._say(self._state.saw_pod(pod, now_s=now_s, events=told))

    def _mark(self, pod_name: str, event: Event) -> None:
        if self._marks and pod_name == self._names.driver_pod and isinstance(event, StepDone):
            with suppress(StrongroomError):  # it only helps those who look with kubectl
                self._client.patch("pods", pod_name, {"metadata": {"labels": {STEP_LABEL: event.step}}})

    def _follow_log(self, pod: Manifest) -> None:
        """Follow a pod's log, once it has one."""
        name, role = str(pod["metadata"]["name"]), role_of(pod)
        if name in self._followed or (phase_of(pod) not in {"Running", "Succeeded", "Failed"}):
            return
        if role == "executor":
            if self._followed_executors >= _MOST_LOGS:
                return
            self._followed_executors += 1
        self._followed.add(name)
        self._start(lambda: self._read_log(pod), name=name)

    # --- observers, each in a thread --------------------------------------------------------------------------------

    def _start(self, work: Callable[[], None], *, name: str) -> None:
        def run() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - it is raised again where it is waited for
                self._queue.put(_Broken(error=error))

        thread = threading.Thread(target=run, name=f"follow {name}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _stop(self) -> None:
        self._stopped.set()
        with self._lock:
            for stream in self._streams:
                stream.close()
        for thread in self._threads:
            thread.join(_JOIN_S)

    def _opened(self, stream: Stream) -> Stream:
        with self._lock:
            self._streams.add(stream)
            if self._stopped.is_set():
                stream.close()
        return stream

    def _ended(self, stream: Stream) -> None:
        with self._lock:
            self._streams.discard(stream)
        stream.release()

    def _watch_pods(self) -> None:
        """List the run's pods, watch them from there, and again; as long as the API is not away for too long."""
        labels = {RUN_LABEL: self._names.short}
        known: set[str] = set()
        patience = _Patience(let_in=False)
        while not self._stopped.is_set():
            try:
                pods, version = self._client.find_at("pods", labels=labels)
                patience.restore()
                found = {str(pod["metadata"]["name"]) for pod in pods}
                for name in known - found:
                    self._queue.put(_Gone(name=name))
                for pod in pods:
                    self._queue.put(_Pod(pod=pod))
                known = found
                watch = self._client.watch("pods", labels=labels, since=version)
                self._opened(watch.stream)
                try:
                    for change in watch:
                        name = str(change.object["metadata"]["name"])
                        if change.kind == "DELETED":
                            known.discard(name)
                            self._queue.put(_Pod(pod=change.object))  # how it was last: why it ended stands there
                            self._queue.put(_Gone(name=name))
                        else:
                            known.add(name)
                            self._queue.put(_Pod(pod=change.object))
                finally:
                    self._ended(watch.stream)
            except (AuthenticationError, RefusedError, UnavailableError, ConflictError, FormatError) as error:
                patience.spend(error, stopped=self._stopped)

    def _read_log(self, pod: Manifest) -> None:
        """Read a pod's log to its end, over broken connections; tell its events once each."""
        name, source = str(pod["metadata"]["name"]), source_of(pod)
        place, patience, ended, failures = _Place(), _Patience(let_in=True), False, 0
        while not self._stopped.is_set():
            try:
                ended = self._log_has_ended(name)  # before reading, so that its last words are read
                log = self._client.log(name, container=_container_of(pod), follow=not ended, since=place.since)
                patience.restore()
                place.rewind()
                self._opened(log.stream)
                try:
                    for line in log:
                        if place.is_new(line):
                            self._tell(name, source, line.text)
                finally:
                    self._ended(log.stream)
                if ended:
                    break
                self._stopped.wait(_RETRY_S)  # its container ended, and its pod says so in a moment
            except NotFoundError:
                break
            except ConfigurationError:  # its container has not started yet, or left no log
                if ended:
                    break
                self._stopped.wait(_RETRY_S)
            except (AuthenticationError, RefusedError, UnavailableError) as error:  # broken, or silent for a while
                failures += 1
                if ended and failures > _TRIES:
                    break  # its node is gone, and its log with it
                patience.spend(error, stopped=self._stopped)
        self._queue.put(_LogEnded(pod_name=name))

    def _log_has_ended(self, name: str) -> bool:
        pod = self._client.get("pods", name)
        if pod is None:
            raise NotFoundError(f"there is no pod {name}")
        return has_ended(pod)

    def _tell(self, pod_name: str, source: str, text: str) -> None:
        with suppress(FormatError):  # a line that is none of the agent's
            self._queue.put(_Told(pod_name=pod_name, source=source, event=parse_event(text)))


class _Place:
    """How far a log was read. Lines are told apart by their time, and within one time by their number."""

    def __init__(self) -> None:
        self.since: str | None = None
        self._at_since = 0
        self._again = 0

    def is_new(self, line: LogLine) -> bool:
        """Return whether a line was not read before; and note that it was read."""
        if self.since is None or line.time > self.since:
            self.since, self._at_since, self._again = line.time, 1, 1
            return True
        if line.time < self.since:
            return False
        self._again += 1
        if self._again <= self._at_since:
            return False
        self._at_since = self._again
        return True

    def rewind(self) -> None:
        """Note that reading begins again."""
        self._again = 0


class _Patience:
    """How long the API may be away, and how long to wait before it is asked again.

    Args:
        let_in: Whether it answered this person before.
    """

    def __init__(self, *, let_in: bool) -> None:
        self._let_in = let_in
        self._since_s: float | None = None
        self._wait_s = _RETRY_S

    def restore(self) -> None:
        """Note that it answers."""
        self._let_in, self._since_s, self._wait_s = True, None, _RETRY_S

    def spend(self, error: StrongroomError, *, stopped: threading.Event) -> None:
        """Wait before the next try.

        Raises:
            UnavailableError: It was away for too long.
            AuthenticationError, RefusedError: It never let this person in, or did not again for too long.
        """
        now_s = time.monotonic()
        self._since_s = now_s if self._since_s is None else self._since_s
        is_refusal = isinstance(error, (AuthenticationError, RefusedError))
        if is_refusal and (not self._let_in or now_s - self._since_s > _REFUSAL_S):
            raise error
        if now_s - self._since_s > _PATIENCE_S:
            raise UnavailableError(
                f"{error.message}; it was away for {_PATIENCE_S:.0f} s, and the run may go on without this command",
                action="when it answers again: strongroom runs show, strongroom runs fetch",
                step=Step.COMPUTE,
            ) from error
        stopped.wait(self._wait_s)
        self._wait_s = min(self._wait_s * 2, _RETRY_MOST_S)


def _container_of(pod: Manifest) -> str:
    containers = pod.get("spec", {}).get("containers") or [{}]
    default = DRIVER_CONTAINER if role_of(pod) == "driver" else EXECUTOR_CONTAINER
    return str(containers[0].get("name", default))
