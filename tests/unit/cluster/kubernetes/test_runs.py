from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.support.kubernetes.api_server import ApiServer

from strongroom.base.errors import ConflictError, IntegrityError, NotFoundError, RefusedError
from strongroom.cluster.kubernetes.client import KubernetesClient
from strongroom.cluster.kubernetes.names import SUBMITTED_GATE, RunNames
from strongroom.cluster.kubernetes.runs import events_of, fetch_run, find_run, list_runs, pods_of, show_run
from strongroom.cluster.kubernetes.submission import stop_run, sweep_abandoned
from strongroom.wire.events import Failed, Finished, StepDone, delivered_parts

RUN_ID = "0123456789abcdef" * 2
NAMES = RunNames(run_id=RUN_ID)
RECEIPT = f"{RUN_ID}.receipt.json"


class At:
    """A clock that stands still."""

    def __init__(self, moment: datetime) -> None:
        self._moment = moment

    def now(self) -> datetime:
        return self._moment


def put_driver(api: ApiServer, names: RunNames = NAMES, *, made: str = "2026-11-27T06:00:00Z", **pod: Any) -> str:
    metadata = {
        "name": names.driver_pod,
        "creationTimestamp": made,
        "labels": {**names.labels(), "app.kubernetes.io/component": "driver", "strongroom.step": "compute"},
        "annotations": {
            "strongroom.run-id": names.run_id,
            "strongroom.application-digest": "a" * 64,
            "strongroom.application-name": "report.py",
        },
    }
    spec = {"containers": [{"name": "spark-kubernetes-driver"}], **pod.pop("spec", {})}
    api.put("pods", {"metadata": metadata, "spec": spec, "status": {"phase": "Running", **pod}})
    return names.driver_pod


def put_executor(api: ApiServer, number: int, phase: str = "Running") -> None:
    labels = {**NAMES.labels(), "app.kubernetes.io/component": "executor", "spark-exec-id": str(number)}
    owner = {"name": NAMES.driver_pod, "uid": api.objects["pods", NAMES.driver_pod]["metadata"]["uid"]}
    metadata = {"name": f"{NAMES.config_map}-exec-{number}", "labels": labels, "ownerReferences": [owner]}
    spec = {"containers": [{"name": "spark-kubernetes-executor"}]}
    api.put("pods", {"metadata": metadata, "spec": spec, "status": {"phase": phase}})


def test_lists_runs_the_newest_first(api: ApiServer, client: KubernetesClient) -> None:
    other = RunNames(run_id="f" * 32)
    put_driver(api)
    put_executor(api, 1)
    put_executor(api, 2, "Pending")
    state = {"terminated": {"exitCode": 70, "message": "no approval"}}
    put_driver(api, other, made="2026-11-27T07:00:00Z", phase="Failed", containerStatuses=[{"state": state}])
    api.put("pods", {"metadata": {"name": "not-ours", "labels": {}}, "status": {}})

    newest, oldest = list_runs(client)

    assert (newest.run_id, newest.state, newest.why) == ("f" * 32, "failed", "the driver's agent: no approval")
    assert (oldest.run_id, oldest.state, oldest.executors, oldest.step) == (RUN_ID, "running", 1, "compute")
    assert (oldest.application, oldest.application_digest) == ("report.py", "a" * 64)


def test_finds_a_run_by_the_beginning_of_its_id(api: ApiServer, client: KubernetesClient) -> None:
    put_driver(api)
    put_driver(api, RunNames(run_id="01" + "f" * 30))

    assert find_run(client, "0123…") == NAMES
    with pytest.raises(ConflictError, match="beginning of 2 runs"):
        find_run(client, "01")
    with pytest.raises(NotFoundError, match="no run abc in namespace analysts") as caught:
        find_run(client, "abc")
    assert "0123456789ab" in caught.value.action


def test_shows_the_pods_of_a_run_and_why_they_wait(api: ApiServer, client: KubernetesClient) -> None:
    put_driver(api)
    put_executor(api, 1)
    api.put("configmaps", {"metadata": {"name": NAMES.config_map, "labels": NAMES.labels()}})

    shown = show_run(client, NAMES)

    assert [pod["name"] for pod in shown["pods"]] == [NAMES.driver_pod, f"{NAMES.config_map}-exec-1"]
    assert shown["config_maps"] == [NAMES.config_map]
    assert shown["namespace"] == "analysts"


def test_reads_what_each_pod_told_the_driver_first(api: ApiServer, client: KubernetesClient) -> None:
    driver = put_driver(api)
    put_executor(api, 1)
    step = StepDone(step="attest", detail="x", elapsed_ms=1)
    api.say(driver, step.to_json().decode(), "noise")

    (source, pod), (other, _) = pods_of(client, NAMES)
    assert (source, other) == ("driver", "executor-1")
    assert list(events_of(client, pod)) == [step]


def test_fetches_what_a_run_left_in_its_log(api: ApiServer, client: KubernetesClient) -> None:
    driver = put_driver(api, phase="Succeeded")
    lines = [part.to_json().decode() for part in delivered_parts(RECEIPT, b"r" * 100_000)]
    api.say(driver, *lines, Finished(status=3, receipt=RECEIPT, output=None, lines=0).to_json().decode())

    found = fetch_run(client, NAMES)

    assert found.files == {RECEIPT: b"r" * 100_000}
    assert found.finished.status == 3


def test_of_a_run_that_goes_on_there_is_nothing_to_fetch(api: ApiServer, client: KubernetesClient) -> None:
    put_driver(api)

    with pytest.raises(ConflictError, match="has not ended"):
        fetch_run(client, NAMES)


def test_a_run_that_failed_says_why(api: ApiServer, client: KubernetesClient) -> None:
    driver = put_driver(api, phase="Failed", containerStatuses=[{"state": {"terminated": {"exitCode": 70}}}])
    api.say(driver, Failed(step="release", code="refused", message="no", action="").to_json().decode())

    with pytest.raises(RefusedError, match="no"):
        fetch_run(client, NAMES)


def test_a_log_that_was_rotated_says_so(api: ApiServer, client: KubernetesClient) -> None:
    driver = put_driver(api, phase="Succeeded")
    api.say(driver, Finished(status=0, receipt=RECEIPT, output=None, lines=0).to_json().decode())

    with pytest.raises(IntegrityError, match="does not hold receipt"):
        fetch_run(client, NAMES)


def test_a_driver_that_is_gone_took_its_log_with_it(client: KubernetesClient) -> None:
    with pytest.raises(NotFoundError, match="its log with it") as caught:
        fetch_run(client, NAMES)
    assert "--archive" in caught.value.action


def test_stopping_a_run_takes_everything_of_it_away(api: ApiServer, client: KubernetesClient) -> None:
    put_driver(api)
    put_executor(api, 1)
    owner = {"uid": api.objects["pods", NAMES.driver_pod]["metadata"]["uid"]}
    api.put("configmaps", {"metadata": {"name": "owned", "labels": NAMES.labels(), "ownerReferences": [owner]}})
    api.put("configmaps", {"metadata": {"name": "prepared", "labels": NAMES.labels()}})
    api.put("configmaps", {"metadata": {"name": "another-run", "labels": RunNames(run_id="f" * 32).labels()}})

    assert stop_run(client, NAMES)
    assert (api.names("pods"), api.names("configmaps")) == ([], ["another-run"])
    assert not stop_run(client, NAMES)


def test_pods_whose_submitter_died_are_swept_away_after_a_while(api: ApiServer, client: KubernetesClient) -> None:
    gated = {"schedulingGates": [{"name": SUBMITTED_GATE}]}
    made = datetime(2026, 11, 27, 6, 0, tzinfo=UTC)
    put_driver(api, phase="Pending", spec=gated)
    put_driver(api, RunNames(run_id="f" * 32))

    assert [run.state for run in list_runs(client)] == ["abandoned", "running"]
    assert sweep_abandoned(client, clock=At(made + timedelta(minutes=9))) == 0
    assert sweep_abandoned(client, clock=At(made + timedelta(minutes=11))) == 1
    assert api.names("pods") == [RunNames(run_id="f" * 32).driver_pod]
