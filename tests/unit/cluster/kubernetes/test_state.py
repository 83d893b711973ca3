from typing import Any

import pytest

from strongroom.base.errors import EngineError, IntegrityError, RefusedError
from strongroom.base.workflow import Step
from strongroom.cluster.kubernetes.names import RunNames
from strongroom.cluster.kubernetes.state import RunState
from strongroom.wire.events import Delivered, Failed, Finished, delivered_parts

RUN_ID = "0123456789abcdef" * 2
NAMES = RunNames(run_id=RUN_ID)
DRIVER = NAMES.driver_pod
RECEIPT, OUTPUT = f"{RUN_ID}.receipt.json", f"{RUN_ID}.output.jwe"
UID = "uid-of-the-driver"


def pod(
    name: str = DRIVER, *, role: str = "driver", number: int = 1, owner: str = UID, **status: Any
) -> dict[str, Any]:
    labels = {"app.kubernetes.io/component": role, "spark-exec-id": str(number)}
    owners = [{"kind": "Pod", "name": DRIVER, "uid": owner}] if role == "executor" else []
    uid = UID if role == "driver" else f"uid-{name}"
    return {
        "metadata": {"name": name, "uid": uid, "labels": labels, "ownerReferences": owners},
        "spec": {"nodeName": "node-1", "containers": [{"name": "spark"}]},
        "status": {"phase": "Running", **status},
    }


def executor(number: int, *, owner: str = UID, **status: Any) -> dict[str, Any]:
    return pod(f"exec-{number}", role="executor", number=number, owner=owner, **status)


def ended(code: int, reason: str = "Error") -> dict[str, Any]:
    state = {"terminated": {"exitCode": code, "reason": reason}}
    return {"phase": "Succeeded" if code == 0 else "Failed", "containerStatuses": [{"state": state}]}


def failed(code: str, message: str = "no") -> Failed:
    return Failed(step="release", code=code, message=message, action="do that")


def state_of(*pods: dict[str, Any], pending_s: float = 300, executors: int | None = None) -> RunState:
    state = RunState(names=NAMES, pending_s=pending_s, executors=executors)
    for each in pods:
        list(state.saw_pod(each, now_s=0))
    return state


def finish(state: RunState, *, receipt: bytes = b"{}", output: bytes | None = b"sealed") -> None:
    for name, content in ((RECEIPT, receipt), (OUTPUT, output)):
        for part in delivered_parts(name, content) if content is not None else ():
            state.saw_event(DRIVER, part)
    state.saw_event(DRIVER, Finished(status=0, receipt=RECEIPT, output=OUTPUT if output is not None else None, lines=3))


def test_a_run_is_over_when_its_driver_told_and_delivered_everything() -> None:
    state = state_of(pod())
    assert state.result() is None

    finish(state, receipt=b"r" * 200_000)

    found = state.result()
    assert found is not None
    assert found.finished.lines == 3
    assert found.files == {RECEIPT: b"r" * 200_000, OUTPUT: b"sealed"}


def test_without_recipients_there_is_a_receipt_alone() -> None:
    state = state_of(pod())
    finish(state, output=None)

    found = state.result()
    assert found is not None
    assert list(found.files) == [RECEIPT]


def test_waits_for_parts_that_come_later_and_takes_those_that_come_twice_once() -> None:
    state = state_of(pod())
    parts = list(delivered_parts(RECEIPT, b"x" * 100_000))
    state.saw_event(DRIVER, Finished(status=0, receipt=RECEIPT, output=None, lines=0))
    for part in [parts[2], parts[0], parts[0]]:
        state.saw_event(DRIVER, part)
    assert state.result() is None

    state.saw_event(DRIVER, parts[1])
    assert state.result() is not None


def test_a_log_that_ends_early_is_an_error_that_says_where_the_rest_may_be() -> None:
    state = state_of(pod(**ended(0)))
    state.saw_event(DRIVER, Finished(status=0, receipt=RECEIPT, output=None, lines=0))
    state.saw_end_of_log(DRIVER)

    with pytest.raises(IntegrityError, match="does not hold receipt and output whole") as caught:
        state.result()
    assert "--archive" in caught.value.action
    assert caught.value.step is Step.WRITE


@pytest.mark.parametrize(
    "edit",
    [
        lambda part: part.model_copy(update={"sha256": "0" * 64}),
        lambda part: part.model_copy(update={"data": "AAAA"}),
    ],
    ids=["digest", "data"],
)
def test_what_was_changed_on_its_way_is_noticed(edit: Any) -> None:
    state = state_of(pod())
    for part in delivered_parts(RECEIPT, b"x" * 100_000):
        state.saw_event(DRIVER, edit(part) if part.number == 2 else part)
    state.saw_event(DRIVER, Finished(status=0, receipt=RECEIPT, output=None, lines=0))

    with pytest.raises(IntegrityError):
        state.result()


@pytest.mark.parametrize(
    ("receipt", "output"),
    [
        *((name, None) for name in ("f" * 32 + ".receipt.json", "../../etc/passwd", OUTPUT)),
        *((RECEIPT, name) for name in ("f" * 32 + ".output.jwe", "../../etc/passwd", RECEIPT)),
    ],
)
def test_files_of_another_name_are_not_written(receipt: str, output: str | None) -> None:
    state = state_of(pod())
    finish(state)
    state.saw_event(DRIVER, Finished(status=0, receipt=receipt, output=output, lines=0))

    with pytest.raises(IntegrityError, match="another run"):
        state.result()


def test_what_others_deliver_counts_for_nothing() -> None:
    state = state_of(pod(), executor(1))
    for part in delivered_parts(RECEIPT, b"forged"):
        state.saw_event("exec-1", part)
    state.saw_event("exec-1", Finished(status=0, receipt=RECEIPT, output=None, lines=0))

    assert state.result() is None
    for part in [*delivered_parts(RECEIPT, b"{}"), *delivered_parts(OUTPUT, b"sealed")]:
        state.saw_event(DRIVER, part)
    assert state.result() is None, "an executor does not say that the run is over"
    stray = Delivered.from_object(next(delivered_parts("other.file", b"x")).model_dump(mode="json"))
    state.saw_event(DRIVER, stray)
    finish(state)
    found = state.result()
    assert found is not None
    assert found.files == {RECEIPT: b"{}", OUTPUT: b"sealed"}


def test_a_driver_that_gave_up_says_why() -> None:
    state = state_of(pod(**ended(70)))
    state.saw_event(DRIVER, failed("refused", "the approval was revoked"))
    assert state.result() is None  # its log may go on

    state.saw_end_of_log(DRIVER)
    with pytest.raises(RefusedError, match="the approval was revoked") as caught:
        state.result()
    assert caught.value.step is Step.RELEASE
    assert caught.value.action == "do that"


def test_what_the_cluster_did_explains_what_the_agent_saw_of_it() -> None:
    state = state_of(pod(**ended(70, "OOMKilled")))
    state.saw_event(DRIVER, failed("engine", "Spark's driver ended with -9"))
    state.saw_end_of_log(DRIVER)

    with pytest.raises(EngineError, match="more memory than its limit"):
        state.result()


def test_a_pod_that_was_deleted_says_so() -> None:
    state = state_of(pod())
    list(state.saw_no_more(DRIVER))
    state.saw_end_of_log(DRIVER)

    with pytest.raises(EngineError, match="deleted while the run went on"):
        state.result()


def test_a_pod_that_ended_without_a_word_says_so() -> None:
    state = state_of(pod(**ended(0)))
    state.saw_end_of_log(DRIVER)

    with pytest.raises(EngineError, match="its log does not say how"):
        state.result()


def test_an_executor_that_is_refused_ends_the_run() -> None:
    state = state_of(pod(), executor(2))
    state.saw_event("exec-2", failed("refused", "wrong measurement"))

    error = state.hopeless(now_s=0)
    assert isinstance(error, RefusedError)
    assert error.message == "executor-2: wrong measurement"


@pytest.mark.parametrize("code", ["engine", "unavailable"])
def test_an_executor_that_only_failed_is_replaced(code: str) -> None:
    state = state_of(pod(), executor(2))
    state.saw_event("exec-2", failed(code))

    assert state.hopeless(now_s=1e6) is None


def test_a_rogue_pod_with_the_runs_labels_does_not_end_the_run() -> None:
    state = state_of(pod(), executor(9, owner="somebody"))
    state.saw_event("exec-9", failed("refused", "forged"))

    assert state.hopeless(now_s=0) is None


def unschedulable() -> dict[str, Any]:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no memory"}
    return {"phase": "Pending", "conditions": [condition]}


def test_a_driver_that_waits_too_long_ends_the_waiting() -> None:
    state = RunState(names=NAMES, pending_s=300)
    notes = list(state.saw_pod(pod(**unschedulable()), now_s=10))

    assert [note.text for note in notes] == ["no node can take the driver's pod: no memory"]
    assert list(state.saw_pod(pod(**unschedulable()), now_s=20)) == []  # said once
    assert state.hopeless(now_s=309) is None
    error = state.hopeless(now_s=310)
    assert isinstance(error, EngineError)
    assert error.step is Step.EXECUTORS
    assert error.action


def test_a_node_that_comes_in_time_is_waited_for() -> None:
    state = RunState(names=NAMES, pending_s=300)
    list(state.saw_pod(pod(**unschedulable()), now_s=0))
    notes = list(state.saw_pod(pod(), now_s=299))

    assert [note.text for note in notes] == ["pod runs on node-1"]
    assert state.hopeless(now_s=1000) is None


def test_waits_for_ever_if_asked_to_but_not_for_what_cannot_come() -> None:
    state = RunState(names=NAMES, pending_s=0)
    list(state.saw_pod(pod(**unschedulable()), now_s=0))
    assert state.hopeless(now_s=1e9) is None

    waiting = {"waiting": {"reason": "InvalidImageName", "message": "x"}}
    list(state.saw_pod(pod(phase="Pending", containerStatuses=[{"state": waiting}]), now_s=5))
    assert state.hopeless(now_s=5) is not None


def test_executors_that_wait_end_the_waiting_only_if_none_ever_ran() -> None:
    state = state_of(pod(), executor(1, **unschedulable()))
    assert state.hopeless(now_s=301) is not None

    list(state.saw_pod(executor(2), now_s=302))
    assert state.hopeless(now_s=10_000) is None


def test_lost_executors_are_told_and_counted() -> None:
    state = state_of(pod(), executor(1), executor(2), executors=2)
    notes = list(state.saw_pod(executor(1, **ended(137, "OOMKilled")), now_s=1))
    assert "more memory than its limit" in notes[0].text
    assert list(state.saw_no_more("exec-1")) == []  # told already
    list(state.saw_pod(executor(3), now_s=2))
    list(state.saw_pod(executor(4, owner="somebody"), now_s=2))
    finish(state)

    found = state.result()
    assert found is not None
    assert found.replaced_executors == 1


def test_where_executors_come_and_go_only_lost_ones_count() -> None:
    state = state_of(pod(), executor(1), executor(2), executors=None)
    list(state.saw_no_more("exec-1"))  # let go
    list(state.saw_pod(executor(2, **ended(137, "OOMKilled")), now_s=1))
    finish(state)

    found = state.result()
    assert found is not None
    assert found.replaced_executors == 1
