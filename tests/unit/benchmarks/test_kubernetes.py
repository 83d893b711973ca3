"""The benchmark on Kubernetes without a cluster: what it types, what it reads, what it publishes."""

import importlib.util
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tests.support.installed_chart import ServiceImage
from tests.support.kubernetes.api_server import NAMESPACE, ApiServer
from tests.support.kubernetes.runs import Team

from strongroom.cluster.kubernetes.render import _overhead
from strongroom.cluster.kubernetes.settings import DRIVER_OVERHEAD, sort_settings
from strongroom.crypto.keys import SigningKey
from strongroom.crypto.x509 import new_identity, to_pem

IMAGE = "localhost/strongroom-spark@sha256:" + "5" * 64
STEPS = (
    ("attest", "TEE launched", 400),
    ("attest", "application measured", 30),
    ("attest", "evidence verified and appraised", 40),
    ("release", "keys released", 25),
    ("decrypt", "manifests opened", 15),
)
STARTED = datetime(2026, 11, 27, 9, 59, tzinfo=UTC).timestamp()


@pytest.fixture(scope="module")
def program(repo_root: Path, benchmark: Callable[[str], ModuleType]) -> ModuleType:
    """The module `benchmarks/kubernetes.py`."""
    spec = importlib.util.spec_from_file_location("benchmark_kubernetes", repo_root / "benchmarks" / "kubernetes.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- what is read ----------------------------------------------------------------------------------------------------


def log_of(*steps: tuple[str, str, int], at: float = 10.0) -> str:
    """An agent's log, each step ending a second after the one before."""
    lines = ["2026-11-27T09:59:00.123456789Z WARNING strongroom.agent a warning is no event"]
    for number, (step, detail, ms) in enumerate(steps):
        told = {"event": "step", "step": step, "detail": detail, "elapsed_ms": ms}
        lines.append(f"2026-11-27T09:59:{at + number:02.0f}.500000001Z {json.dumps(told)}")
    return "\n".join([*lines, "2026-11-27T09:59:59Z", ""])


def test_what_an_agent_did_is_read_from_its_log(benchmark: Callable[[str], ModuleType]) -> None:
    agent = benchmark("pod_sessions").read_agent(log_of(*STEPS), role="executor", started=STARTED)

    assert [step.detail for step in agent.steps] == [detail for _, detail, _ in STEPS]
    assert agent.begun_s == pytest.approx(10.5 - 0.4)
    assert agent.opened_s == pytest.approx(14.5)
    assert agent.ms_of("evidence verified and appraised", "keys released") == 65


def test_an_agent_that_got_no_keys_does_not_count(benchmark: Callable[[str], ModuleType]) -> None:
    assert benchmark("pod_sessions").read_agent(log_of(*STEPS[:3]), role="executor", started=STARTED) is None


def test_what_the_submitting_command_did_is_read_from_its_lines(benchmark: Callable[[str], ModuleType]) -> None:
    from strongroom.base.workflow import Step  # noqa: PLC0415 - here alone
    from strongroom.cli.commands.submit import line_of  # noqa: PLC0415
    from strongroom.submit.run import SubmitEvent  # noqa: PLC0415

    lines = [
        line_of(SubmitEvent(step=step, detail="some words", elapsed_ms=ms, source=source))
        for step, ms, source in (
            (Step.SUBMIT, 350, "client"),
            (Step.EXECUTORS, 4200, "client"),
            (Step.ATTEST, 70, "executor-1"),
        )
    ]

    assert benchmark("pod_sessions").read_client("\n".join(lines)) == {"submit": 0.35, "executors": 4.2}


# --- the order, and the page -----------------------------------------------------------------------------------------


def test_sides_take_turns_and_the_order_is_reversed_every_other_round(program: ModuleType) -> None:
    assert list(program.in_turn(("plain", "protected"), rounds=3)) == [
        (0, "protected"),
        (0, "plain"),
        (1, "plain"),
        (1, "protected"),
        (2, "protected"),
        (2, "plain"),
        (3, "plain"),
        (3, "protected"),
    ]


def measured(benchmark: Callable[[str], ModuleType], *, plain: list[float], protected: list[float]) -> Any:
    """Made-up figures: the first tasks' times, two executors a run."""
    sessions, pod_sessions = benchmark("sessions"), benchmark("pod_sessions")

    def session(side: str, number: int, seconds: float) -> Any:
        agents = [
            pod_sessions.read_agent(log_of(*STEPS, at=10 + 10 * place), role=role, started=STARTED)
            for place, role in enumerate(("driver", "executor", "executor"))
        ]
        return pod_sessions.PodSession(
            session=sessions.Session(
                side=side,
                executors=2,
                round=number,
                first_task_s=seconds,
                initialisation_s=seconds + 0.5,
                busy_before=0.04,
                stolen=0.01,
            ),
            agents=agents if side == "protected" else (),
            client_s={"submit": 0.3, "policy": 0.5, "executors": 4.0} if side == "protected" else {},
        )

    return benchmark("kubernetes_results").Measured(
        sessions=[
            session(side, number, seconds)
            for side, found in (("protected", protected), ("plain", plain))
            for number, seconds in enumerate(found, start=1)
        ],
        executors=2,
        cluster="A cluster that was made up",
        heap="700m",
        overhead="896m",
        cores="200m",
    )


def test_the_page_says_what_was_measured_and_that_no_hardware_was(benchmark: Callable[[str], ModuleType]) -> None:
    found = measured(benchmark, plain=[20.0, 30.0, 25.0], protected=[22.0, 33.0, 26.0])
    page = benchmark("kubernetes_results").page(found)

    assert "**The TEEs are simulated**" in page
    assert "| the first task has ended | 25.00 | 26.00 | 1.04 | 1.04 to 1.10 |" in page
    assert "| first task: protected / plain | 1.04 | 1.15 | reached |" in page
    assert "| 6 executors | median | 95% |" in page
    assert "| **attestation and release together** | 65 ms | 65 ms |" in page
    assert "| from its first step until Spark may start | 4400 ms | 4400 ms |" in page
    assert "| … has had Spark make the driver's pod, and let it start | 4.00 | took |" in page
    assert "- A cluster that was made up.\n- 3 rounds, " in page


def test_a_limit_that_is_missed_is_said(benchmark: Callable[[str], ModuleType]) -> None:
    found = measured(benchmark, plain=[20.0], protected=[23.2])

    assert "| first task: protected / plain | 1.16 | 1.15 | **missed** |" in benchmark("kubernetes_results").page(found)


def test_every_session_is_published(benchmark: Callable[[str], ModuleType], tmp_path: Path) -> None:
    benchmark("kubernetes_results").publish(measured(benchmark, plain=[20.0, 21.0], protected=[22.0, 24.0]), tmp_path)
    published = json.loads((tmp_path / "kubernetes.json").read_text())

    assert published["first_task"] == {"plain_s": 20.5, "protected_s": 23, "protected_over_plain": 1.122, "rounds": 2}
    assert len(published["sessions"]) == 4
    assert (tmp_path / "kubernetes.md").read_text().startswith("# From the command to the first task on Kubernetes")


def test_one_side_alone_is_no_result(benchmark: Callable[[str], ModuleType]) -> None:
    with pytest.raises(benchmark("sessions").BenchmarkError, match="nothing was measured of the plain side"):
        benchmark("kubernetes_results").page(measured(benchmark, plain=[], protected=[22.0]))


# --- the plain side --------------------------------------------------------------------------------------------------


class TeamAtApi(Team):
    """A team whose cluster is an API server in this process."""

    address: str = ""

    @property
    def server(self) -> str:
        return self.address


@pytest.fixture
def plain(benchmark: Callable[[str], ModuleType], api: ApiServer, tmp_path: Path) -> Any:
    team = TeamAtApi(
        root=tmp_path,
        cluster=None,  # type: ignore[arg-type] - nothing here asks it
        image=ServiceImage(reference="", measurement=tmp_path),
        namespace="strongroom",
        platform_namespace="platform",
        spark_image=IMAGE,
        runs=NAMESPACE,
        account=tmp_path,
    )
    team.address = api.url
    (tmp_path / "token").write_text("a token")
    now, key = datetime.now(tz=UTC), SigningKey.generate("ES256")
    authority = new_identity(common_name="api", key=key, not_before=now, not_after=now + timedelta(hours=1))
    (tmp_path / "ca.crt").write_text(to_pem(authority))
    return benchmark("pod_sides").PlainPods(team=team, folder=tmp_path)


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with ApiServer().running() as running:
        yield running


def test_strongroom_takes_the_settings_of_both_sides_and_would_choose_that_size(
    benchmark: Callable[[str], ModuleType],
) -> None:
    sides = benchmark("pod_sides")
    taken = sort_settings(sides._SETTINGS)

    assert taken.application == {}, "a setting would be a part of the application"
    assert {**taken.driver, **taken.pods} == sides._SETTINGS
    assert _overhead(DRIVER_OVERHEAD, {}, heap_mb=int(sides.HEAP.removesuffix("m"))) == {
        DRIVER_OVERHEAD: sides.OVERHEAD
    }


def submitted(plain: Any, api: ApiServer, *, executors: int) -> dict[str, Any]:
    """The driver's pod that Spark's own `spark-submit` makes of the command line."""
    command = plain.command(executors, "--conf", "spark.kubernetes.submission.waitAppCompletion=false")
    done = subprocess.run(command, env=plain.environment(), capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return api.objects["pods", "plain-driver"]


def test_spark_makes_plain_pods_of_the_same_image_and_size_without_the_agent(plain: Any, api: ApiServer) -> None:
    pod = submitted(plain, api, executors=2)

    (container,) = pod["spec"]["containers"]
    assert container["image"] == IMAGE
    assert container["command"] == ["/bin/bash", "/data/plain/plain_entrypoint.sh"]
    assert container["args"][0] == "driver"
    assert container["args"][-3:] == ["local:///data/plain/timed.py", "nothing-to-read", "nothing-to-write"]
    assert container["resources"] == {
        "limits": {"memory": "1596Mi"},  # 700 of heap, and 896 beside it
        "requests": {"cpu": "200m", "memory": "1596Mi"},
    }
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert pod["spec"]["securityContext"]["runAsUser"] == 1000
    assert pod["spec"]["serviceAccountName"] == "plain-spark"
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts["data"] == "/data"
    assert mounts["spark-local-dir-1"] == "/tmp"
    variables = {each["name"]: each.get("value") for each in container["env"]}
    assert variables["SPARK_LOCAL_DIRS"] == "/tmp"
    assert variables["SPARK_HOME"] == "/opt/strongroom/venv/lib/python3.11/site-packages/pyspark"
    assert variables["PYSPARK_PYTHON"] == "/opt/strongroom/venv/bin/python"


def test_the_plain_drivers_spark_is_told_how_many_executors_of_which_size(plain: Any, api: ApiServer) -> None:
    submitted(plain, api, executors=2)

    (properties,) = [
        each["data"]["spark.properties"]
        for (kind, _), each in api.objects.items()
        if kind == "configmaps" and "spark.properties" in each["data"]
    ]
    for setting in (
        "spark.executor.instances=2",
        "spark.executor.cores=1",
        "spark.executor.memory=700m",
        "spark.executor.memoryOverhead=896m",
        "spark.kubernetes.executor.request.cores=200m",
    ):
        assert setting in properties.splitlines()
    assert any(
        "plain_entrypoint.sh" in str(each.get("data"))
        for (kind, _), each in api.objects.items()
        if kind == "configmaps"
    ), "the executors' template is not there"


@pytest.fixture
def in_a_plain_pod(repo_root: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """Runs the plain pods' entry point, without any other program; Spark and Java print what they are given."""
    told = '#!/bin/bash\nprintf "%s\\n" "$0" "$@"\n'
    for program in ("spark/bin/spark-submit", "java/bin/java"):
        path = tmp_path / program
        path.parent.mkdir(parents=True)
        path.write_text(told)
        path.chmod(0o755)

    def run(*words: str, status: int = 0, **environment: str) -> list[str]:
        places = {"PATH": "", "SPARK_HOME": f"{tmp_path}/spark", "JAVA_HOME": f"{tmp_path}/java"}
        done = subprocess.run(
            ["/bin/bash", repo_root / "benchmarks" / "plain_entrypoint.sh", *words],
            env={**places, **environment},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status, done.stderr
        return done.stdout.splitlines()

    return run


def test_a_plain_driver_is_spark_submit_in_client_mode(in_a_plain_pod: Callable[..., list[str]]) -> None:
    words = in_a_plain_pod("driver", "--properties-file", "a b", SPARK_DRIVER_BIND_ADDRESS="10.1.2.3")

    assert words[0].endswith("/spark/bin/spark-submit")
    assert words[1:] == [
        *("--conf", "spark.driver.bindAddress=10.1.2.3"),
        *("--conf", "spark.executorEnv.SPARK_DRIVER_POD_IP=10.1.2.3"),
        *("--deploy-mode", "client", "--properties-file", "a b"),
    ]


def test_a_plain_executor_is_sparks_executor_for_pods(in_a_plain_pod: Callable[..., list[str]], tmp_path: Path) -> None:
    options = {f"SPARK_JAVA_OPT_{number}": f"-Done.{number}=a b" for number in range(11)}
    words = in_a_plain_pod(
        "executor",
        SPARK_CONF_DIR="/conf",
        SPARK_EXECUTOR_MEMORY="700m",
        SPARK_DRIVER_URL="spark://CoarseGrainedScheduler@driver:7078",
        SPARK_EXECUTOR_ID="3",
        SPARK_EXECUTOR_CORES="1",
        SPARK_APPLICATION_ID="spark-1",
        SPARK_EXECUTOR_POD_IP="10.1.2.4",
        SPARK_RESOURCE_PROFILE_ID="0",
        SPARK_EXECUTOR_POD_NAME="plain-exec-3",
        **options,
    )

    assert words[0].endswith("/java/bin/java")
    assert words[1:] == [
        *options.values(),
        *("-Xms700m", "-Xmx700m", "-cp", f"/conf:{tmp_path}/spark/jars/*:{os.path.realpath(tmp_path)}"),
        "org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend",
        *("--driver-url", "spark://CoarseGrainedScheduler@driver:7078", "--executor-id", "3", "--cores", "1"),
        *("--app-id", "spark-1", "--hostname", "10.1.2.4", "--resourceProfileId", "0", "--podName", "plain-exec-3"),
    ]


def test_a_pod_that_is_neither_starts_nothing(in_a_plain_pod: Callable[..., list[str]]) -> None:
    assert in_a_plain_pod("sh", status=64) == []
