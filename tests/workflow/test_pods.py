"""Agents in pods: real agents, services and evidence; folders in the place of Kubernetes, a program in Spark's."""

import base64
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.pods import Ended, OpenRun, Pods, memory_volumes
from tests.support.receipts import verify_by_both
from tests.support.service_processes import installation
from tests.support.tee import Runner

from strongroom.crypto.jose import open_as_recipient
from strongroom.wire.events import Delivered, Failed, Finished


@pytest.fixture(scope="module")
def pods(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pods]:
    folder = tmp_path_factory.mktemp("pods")
    with installation(folder) as services, memory_volumes() as memory:
        runner = Runner(services, folder)
        runner.approve_all()
        yield Pods(runner, folder, memory)


class Whole:
    """One run: a driver's pod, and an executor's."""

    def __init__(self, pods: Pods) -> None:
        ticket = pods.runner.ticket()
        with pods.open_run(ticket) as run:
            run.wait_until_computing()
            self.open_run: OpenRun = run
            self.executor_pod = pods.executor(ticket, driver_key=run.driver_key, java="exit 7")
            self.executor: Ended = self.executor_pod.run()
            self.driver: Ended = run.release()


@pytest.fixture(scope="module")
def whole(pods: Pods) -> Whole:
    return Whole(pods)


def test_the_pods_log_holds_events_and_nothing_else(whole: Whole) -> None:
    kinds = [event.event for event in whole.driver.events]
    assert kinds[-1] == "finished"
    assert set(kinds) == {"step", "driver-ready", "delivered", "finished"}
    assert {event.event for event in whole.executor.events} == {"step"}
    assert "auditor" not in whole.driver.log
    assert whole.driver.errors == whole.executor.errors == ""


def test_the_exit_status_is_the_applications(whole: Whole) -> None:
    assert (whole.driver.status, whole.executor.status) == (0, 7)


def test_receipt_and_sealed_output_come_by_the_log_and_verify(pods: Pods, whole: Whole) -> None:
    receipt = whole.driver.file(".receipt.json")
    verified = verify_by_both(receipt, trust=pods.runner.trust())
    assert [member["role"] for member in verified.members] == ["driver", "executor"]
    output = open_as_recipient(whole.driver.file(".output.jwe"), key=pods.runner.recipient)
    assert output == b"hello\nauditor\n"
    (finished,) = (event for event in whole.driver.events if isinstance(event, Finished))
    assert {finished.receipt, finished.output} == {
        event.name for event in whole.driver.events if isinstance(event, Delivered)
    }


def test_the_archive_gets_a_copy(pods: Pods, whole: Whole) -> None:
    (finished,) = (event for event in whole.driver.events if isinstance(event, Finished))
    folder = pods.archive / finished.receipt.partition(".")[0]
    assert (folder / finished.receipt).read_bytes() == whole.driver.file(".receipt.json")
    assert finished.output is not None
    assert (folder / finished.output).read_bytes() == whole.driver.file(".output.jwe")


def test_the_driver_asks_kubernetes_for_executors(whole: Whole) -> None:
    seen = whole.driver.seen
    assert whole.driver.arguments[-3].endswith("/application/application.py")
    assert "org.apache.spark.deploy.SparkSubmit" in whole.driver.arguments
    properties = (seen / "conf" / "driver.properties").read_text()
    for line in (
        r"spark.master=k8s\u003a//https\u003a//kubernetes.default.svc",
        "spark.kubernetes.namespace=team-a",
        "spark.kubernetes.driver.pod.name=report-driver",
        "spark.app.id=spark-0123456789abcdef",
        "spark.driver.host=127.0.0.1",
        "spark.driver.port=7078",
        "spark.executor.instances=2",
        "spark.kubernetes.executor.disableConfigMap=true",
        "spark.authenticate=true",
    ):
        assert line in properties.splitlines()


def test_executors_are_told_the_drivers_key(whole: Whole) -> None:
    template = json.loads((whole.driver.seen / "conf" / "executor.json").read_bytes())
    sidecar, spark = template["spec"]["containers"]
    assert spark["command"] == ["/usr/local/bin/strongroom-agent", "--pod"]
    assert spark["env"] == [
        {"name": "B", "value": "2"},
        {"name": "STRONGROOM_DRIVER_KEY", "value": whole.open_run.driver_key},
    ]
    assert sidecar["env"] == [{"name": "A", "value": "1"}]


def test_the_executor_starts_as_sparks_own_for_pods(whole: Whole) -> None:
    arguments = whole.executor.arguments
    started = arguments.index("org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend")
    assert "-Xmx512m" in arguments[:started]
    assert arguments[started + 1 :] == [
        *("--driver-url", "spark://CoarseGrainedScheduler@127.0.0.1:7078"),
        *("--executor-id", "1", "--cores", "1", "--app-id", "spark-0123456789abcdef"),
        *("--hostname", "127.0.0.1", "--resourceProfileId", "0", "--podName", "report-exec-1"),
    ]
    options = (whole.executor.seen / "conf" / "java.options").read_text().splitlines()
    for option in (
        '"-Dspark.authenticate=true"',
        '"-Dspark.network.crypto.enabled=true"',
        '"-Dspark.network.crypto.saslFallback=false"',
        '"-Dspark.io.encryption.enabled=true"',
    ):
        assert option in options


def test_both_have_the_runs_secret_which_stands_in_nothing_that_the_host_sees(whole: Whole) -> None:
    secret = (whole.driver.seen / "conf" / "secret").read_bytes()
    assert len(secret) == 32
    text = base64.b64encode(secret).decode()
    (mode,) = (line for line in (whole.driver.seen / "modes").read_text().splitlines() if line.endswith(" secret"))
    assert mode.startswith("-rw------- ")
    assert whole.executor.environment["_SPARK_AUTH_SECRET"] == text
    assert text not in json.dumps(whole.driver.environment)
    for ended in (whole.driver, whole.executor):
        for shown in (ended.log, ended.errors, "\n".join(ended.arguments)):
            assert text not in shown
        others = [path for path in (ended.seen / "conf").iterdir() if path.name != "secret"]
        assert not [path for path in others if text in path.read_text() or secret in path.read_bytes()]


def test_nothing_stays_in_the_pods_memory(whole: Whole) -> None:
    assert list(whole.open_run.pod.memory.iterdir()) == []
    assert list(whole.executor_pod.memory.iterdir()) == []


def test_sigterm_ends_spark_and_closes_the_run_as_failed(pods: Pods) -> None:
    with pods.open_run(pods.runner.ticket()) as run:
        run.wait_until_computing()
        run.process.send_signal(signal.SIGTERM)
        ended = run.ended()
    assert ended.status == 128 + signal.SIGTERM
    verified = verify_by_both(ended.file(".receipt.json"), trust=pods.runner.trust())
    assert verified.body.outcome == "failed"


def test_a_failing_application_has_a_receipt_too(pods: Pods) -> None:
    ended = pods.driver(pods.runner.ticket(), java="echo broken; exit 3").run()
    assert ended.status == 3
    assert verify_by_both(ended.file(".receipt.json"), trust=pods.runner.trust()).body.exit_status == 3


def test_a_full_or_missing_archive_does_not_stop_the_delivery(pods: Pods, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ended = pods.driver(pods.runner.ticket(), archive=(tmp_path / "file").as_uri()).run()
    assert ended.status == 0
    assert "is not in the archive" in ended.errors
    verify_by_both(ended.file(".receipt.json"), trust=pods.runner.trust())


def test_dynamic_allocation_is_on_where_the_host_wants_it(pods: Pods) -> None:
    settings = {
        "spark.kubernetes.container.image": "spark",
        "spark.dynamicAllocation.enabled": "true",
        "spark.dynamicAllocation.maxExecutors": "3",
    }
    ended = pods.driver(pods.runner.ticket(), settings=settings).run()
    properties = (ended.seen / "conf" / "driver.properties").read_text().splitlines()
    assert "spark.dynamicAllocation.enabled=true" in properties
    assert "spark.dynamicAllocation.shuffleTracking.enabled=true" in properties
    assert "spark.dynamicAllocation.maxExecutors=3" in properties
    assert "spark.shuffle.service.enabled=false" in properties


def test_the_agent_reaps_what_others_leave_behind(pods: Pods) -> None:
    # The background job loses its parent at once; as a zombie it would still be there in the end.
    script = """(sleep 0.2 & echo $! > "$seen/orphan") ; orphan="$(cat "$seen/orphan")"
for _ in $(seq 100); do [ -e "/proc/$orphan" ] || exit 0; sleep 0.1; done; exit 9"""
    assert pods.driver(pods.runner.ticket(), java=script).run().status == 0


def test_a_refusal_is_the_last_word_of_the_pod(pods: Pods) -> None:
    pod = pods.driver(pods.runner.ticket())
    pod.words = ["neither"]
    ended = pod.run()
    assert ended.status == 70
    assert isinstance(ended.events[-1], Failed)
    assert ended.last_words.startswith(ended.failed.message)
    assert len(ended.last_words.encode()) <= 4096
