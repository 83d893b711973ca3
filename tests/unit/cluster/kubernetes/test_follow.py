import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.support.kubernetes.api_server import ApiServer, Refusal

from strongroom.base.errors import EngineError, RefusedError, StrongroomError, UnavailableError
from strongroom.cluster.kubernetes import follow as following
from strongroom.cluster.kubernetes.client import KubernetesClient, LogLine
from strongroom.cluster.kubernetes.follow import RunFollower
from strongroom.cluster.kubernetes.names import RunNames
from strongroom.cluster.kubernetes.state import FinishedRun, Note
from strongroom.wire.events import Event, Failed, Finished, StepDone, delivered_parts

RUN_ID = "0123456789abcdef" * 2
NAMES = RunNames(run_id=RUN_ID)
RECEIPT = f"{RUN_ID}.receipt.json"
STEP = StepDone(step="attest", detail="evidence verified", elapsed_ms=12)


class Followed:
    """A follower in a thread of its own, and what it told."""

    def __init__(self, client: KubernetesClient, *, pending_s: float = 300, marks: bool = False) -> None:
        self.events: list[tuple[str, Event]] = []
        self.notes: list[Note] = []
        self.result: FinishedRun | StrongroomError | None = None
        self.follower = RunFollower(
            client,
            NAMES,
            executors=None,
            on_event=lambda source, event: self.events.append((source, event)),
            on_note=self.notes.append,
            pending_s=pending_s,
            marks=marks,
        )
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self.follower.follow()
        except StrongroomError as error:
            self.result = error

    def end(self) -> FinishedRun | StrongroomError:
        """Wait for its end."""
        self._thread.join(30)
        assert not self._thread.is_alive()
        assert self.result is not None
        return self.result

    def steps(self) -> list[tuple[str, str]]:
        return [(source, event.detail) for source, event in self.events if isinstance(event, StepDone)]


def put_pod(api: ApiServer, phase: str = "Running", *, role: str = "driver", number: int = 1, **status: Any) -> str:
    name = NAMES.driver_pod if role == "driver" else f"exec-{number}"
    labels = {"strongroom.run": NAMES.short, "app.kubernetes.io/component": role, "spark-exec-id": str(number)}
    driver = api.objects.get(("pods", NAMES.driver_pod), {}).get("metadata", {})
    owners = [{"name": NAMES.driver_pod, "uid": driver.get("uid")}] if role == "executor" else []
    metadata = {"name": name, "labels": labels, "ownerReferences": owners}
    spec = {"nodeName": "node-1", "containers": [{"name": f"spark-kubernetes-{role}"}]}
    api.put("pods", {"metadata": metadata, "spec": spec, "status": {"phase": phase, **status}})
    return name


def finished_lines(status: int = 0) -> list[str]:
    parts = [part.to_json().decode() for part in delivered_parts(RECEIPT, b"receipt" * 20_000)]
    return [*parts, Finished(status=status, receipt=RECEIPT, output=None, lines=0).to_json().decode()]


def until(is_so: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def followed(client: KubernetesClient) -> Iterator[Followed]:
    yield (found := Followed(client))
    found.end()


def test_tells_what_driver_and_executors_do_and_brings_the_receipt(api: ApiServer, client: KubernetesClient) -> None:
    followed = Followed(client, marks=True)
    driver = put_pod(api, "Pending")
    put_pod(api, "Running")
    api.say(driver, STEP.to_json().decode(), "not an event", "{}")
    executor = put_pod(api, role="executor", number=7)
    api.say(executor, STEP.to_json().decode())
    until(lambda: len(followed.steps()) == 2)
    api.say(driver, *finished_lines())

    result = followed.end()

    assert isinstance(result, FinishedRun)
    assert result.files == {RECEIPT: b"receipt" * 20_000}
    assert set(followed.steps()) == {("driver", "evidence verified"), ("executor-7", "evidence verified")}
    assert {(note.source, note.text) for note in followed.notes} == {
        ("driver", "pod runs on node-1"),
        ("executor-7", "pod runs on node-1"),
    }
    assert api.objects["pods", driver]["metadata"]["labels"]["strongroom.step"] == "attest"


def test_reads_on_where_broken_streams_ended_and_tells_nothing_twice(api: ApiServer, client: KubernetesClient) -> None:
    followed = Followed(client)
    driver = put_pod(api)
    for number in range(4):
        api.say(driver, StepDone(step="compute", detail=f"part {number}", elapsed_ms=1).to_json().decode())
        until(lambda number=number: len(followed.steps()) == number + 1)
        api.break_streams()
    api.say(driver, *finished_lines())

    assert isinstance(followed.end(), FinishedRun)
    assert followed.steps() == [("driver", f"part {number}") for number in range(4)]


def test_an_api_server_that_is_away_for_a_while_costs_nothing(api: ApiServer, client: KubernetesClient) -> None:
    followed = Followed(client)
    driver = put_pod(api)
    api.say(driver, STEP.to_json().decode())
    until(followed.steps)
    api.away = True
    time.sleep(0.3)
    executor = put_pod(api, role="executor", number=2)
    api.say(executor, STEP.to_json().decode())
    api.say(driver, *finished_lines())
    put_pod(api, "Succeeded")
    api.away = False

    assert isinstance(followed.end(), FinishedRun)
    assert ("driver", "evidence verified") in followed.steps()


@pytest.mark.parametrize("status", [401, 403])
def test_an_api_server_that_starts_and_does_not_know_its_roles_yet_costs_nothing(
    api: ApiServer, client: KubernetesClient, status: int
) -> None:
    followed = Followed(client)
    driver = put_pod(api)
    api.say(driver, STEP.to_json().decode())
    until(followed.steps)
    api.refusals["GET", "pods"] = api.refusals["GET", "log"] = Refusal(status=status, message="not read yet")
    api.break_streams()
    time.sleep(0.3)
    api.refusals.clear()
    api.say(driver, *finished_lines())
    put_pod(api, "Succeeded")

    assert isinstance(followed.end(), FinishedRun)
    assert followed.steps() == [("driver", "evidence verified")]


def test_a_right_that_was_taken_away_ends_the_following(
    api: ApiServer, client: KubernetesClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "_REFUSAL_S", 0.2)
    followed = Followed(client)
    put_pod(api)
    until(lambda: followed.notes)
    api.refusals["GET", "pods"] = Refusal(status=403, message="cannot list pods")
    api.break_streams()

    error = followed.end()
    assert isinstance(error, RefusedError)
    assert "cannot list pods" in error.message


def test_gives_up_on_an_api_server_that_stays_away_and_says_the_run_may_go_on(
    api: ApiServer, client: KubernetesClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "_PATIENCE_S", 0.2)
    followed = Followed(client)
    put_pod(api)
    until(lambda: followed.notes)
    api.away = True

    error = followed.end()
    assert isinstance(error, UnavailableError)
    assert "the run may go on" in error.message
    assert not followed.follower.gave_up


def test_a_driver_that_refuses_says_why(api: ApiServer, client: KubernetesClient) -> None:
    followed = Followed(client)
    driver = put_pod(api)
    failed = Failed(step="release", code="refused", message="no approval", action="ask for one")
    api.say(driver, failed.to_json().decode())
    state = {"terminated": {"exitCode": 70, "reason": "Error", "message": "no approval. ask for one"}}
    put_pod(api, "Failed", containerStatuses=[{"state": state}])

    error = followed.end()
    assert isinstance(error, RefusedError)
    assert (error.message, error.action) == ("no approval", "ask for one")


def test_a_driver_without_a_log_still_says_why_it_ended(api: ApiServer, client: KubernetesClient) -> None:
    api.refusals["GET", "log"] = Refusal(status=400, message="container not found")
    followed = Followed(client)
    put_pod(api, "Failed", reason="Evicted", message="low on memory")

    error = followed.end()
    assert isinstance(error, EngineError)
    assert "evicted from its node: low on memory" in error.message


def test_a_driver_that_was_deleted_says_so(api: ApiServer, client: KubernetesClient) -> None:
    followed = Followed(client)
    driver = put_pod(api)
    until(lambda: followed.notes)
    api.remove("pods", driver)

    error = followed.end()
    assert isinstance(error, EngineError)
    assert "deleted while the run went on" in error.message


def test_a_pod_that_cannot_start_ends_the_waiting_while_it_is_there(api: ApiServer, client: KubernetesClient) -> None:
    followed = Followed(client)
    waiting = {"waiting": {"reason": "ErrImageNeverPull", "message": "not present with pull policy of Never"}}
    put_pod(api, "Pending", containerStatuses=[{"state": waiting}])

    error = followed.end()
    assert isinstance(error, EngineError)
    assert "not present with pull policy of Never" in error.message
    assert followed.follower.gave_up


def test_volumes_that_cannot_be_mounted_are_told(
    api: ApiServer, client: KubernetesClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "_LOOK_S", 0.1)
    followed = Followed(client)
    driver = put_pod(api, "Pending")
    api.put(
        "events",
        {
            "metadata": {"name": "e"},
            "involvedObject": {"name": driver},
            "reason": "FailedMount",
            "message": "no volume",
        },
    )
    until(lambda: followed.notes)
    put_pod(api)
    api.say(driver, *finished_lines())

    assert isinstance(followed.end(), FinishedRun)
    assert followed.notes[0].text == "the driver's pod waits: no volume"


def test_who_may_not_watch_pods_hears_so(api: ApiServer, client: KubernetesClient) -> None:
    api.refusals["GET", "pods"] = Refusal(status=403, message="cannot list pods")

    error = Followed(client).end()
    assert isinstance(error, RefusedError)
    assert "cannot list pods" in error.message


def test_lines_of_one_moment_are_told_apart_by_their_number() -> None:
    place = following._Place()
    first = [LogLine(time="t1", text="a"), LogLine(time="t2", text="b"), LogLine(time="t2", text="c")]
    assert [place.is_new(line) for line in first] == [True, True, True]

    place.rewind()
    again = [*first, LogLine(time="t2", text="d"), LogLine(time="t3", text="e")]
    assert [place.is_new(line) for line in again] == [False, False, False, True, True]
