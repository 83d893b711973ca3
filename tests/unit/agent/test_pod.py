import json
import os
from pathlib import Path
from typing import Any

import pytest

from strongroom.agent.pod import PodFolders, PodPlace, with_driver_key
from strongroom.agent.report import Report
from strongroom.agent.start import Start
from strongroom.base.errors import ConfigurationError, EngineError, FormatError, LimitError, StrongroomError
from strongroom.base.limits import LIMITS
from strongroom.base.workflow import Step
from strongroom.engine.cluster import KubernetesCluster
from strongroom.engine.settings import STANDALONE
from strongroom.wire import pod
from strongroom.wire.descriptor import DeviceSetting, ServiceAddress, Sizes
from strongroom.wire.events import Failed, StepDone, parse_event

SERVICE = ServiceAddress(url="https://a", certificate_pem="PEM")
IDENTITY = "b" * 64


def place(folder: Path, lines: list[bytes]) -> PodPlace:
    start = Start(
        role="driver",
        application="a" * 64,
        ticket="a.b.c",
        device=DeviceSetting(kind="tsm"),
        package=folder,
        attestation_service=SERVICE,
        key_services={IDENTITY: SERVICE},
        vaults={},
        storage={},
        sizes=Sizes(driver_memory_mb=256, executor_memory_mb=256, executor_cores=1, executors=1),
        host="10.0.0.1",
        driver_key=None,
        scheduling=STANDALONE,
    )
    cluster = KubernetesCluster(
        namespace="n",
        driver_pod="d",
        application_id="a",
        executors=1,
        executor_template='{"spec": {"containers": [{}]}}',
    )
    return PodPlace(
        start=start, spark=cluster, run_id="0" * 32, archive=None, tokens=folder, report=Report(lines.append)
    )


def test_the_workloads_token_is_read_when_it_is_needed(tmp_path: Path) -> None:
    here = place(tmp_path, [])
    assert here.workload_token(IDENTITY) is None
    for token in ("first.of.all", "then.another.one\n"):
        (tmp_path / IDENTITY).write_text(token)
        assert here.workload_token(IDENTITY) == token.strip()


@pytest.mark.parametrize("content", [b"", b"no token", b"a.b", b"\xff.a.b", b"a.b.c\nx", b"a." * 20_000])
def test_what_is_no_token_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / IDENTITY).write_bytes(content)
    with pytest.raises(FormatError):
        place(tmp_path, []).workload_token(IDENTITY)


def test_a_folder_in_the_tokens_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / IDENTITY).mkdir()
    with pytest.raises(StrongroomError):
        place(tmp_path, []).workload_token(IDENTITY)


def test_a_pipe_in_a_files_place_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / IDENTITY)
    writer = os.open(tmp_path / IDENTITY, os.O_RDWR)
    try:
        os.write(writer, b"a.b.c")
        with pytest.raises(FormatError, match="not a regular file"):
            place(tmp_path, []).workload_token(IDENTITY)
    finally:
        os.close(writer)


def test_a_file_that_is_too_large_is_not_read_in_part(tmp_path: Path) -> None:
    (tmp_path / IDENTITY).write_bytes(b"a.b." + b"c" * LIMITS.token_bytes)
    with pytest.raises(LimitError, match="larger than"):
        place(tmp_path, []).workload_token(IDENTITY)


def test_the_drivers_key_reaches_the_template_with_the_cluster(tmp_path: Path) -> None:
    with place(tmp_path, []).cluster(object(), driver_key="c" * 64) as opened:  # type: ignore[arg-type]
        assert opened.processes == ()
        assert isinstance(opened.cluster, KubernetesCluster)
        (container,) = json.loads(opened.cluster.executor_template)["spec"]["containers"]
    assert container == {
        "name": "spark-kubernetes-executor",
        "env": [{"name": "STRONGROOM_DRIVER_KEY", "value": "c" * 64}],
    }


def test_without_a_container_of_sparks_name_the_first_one_is_sparks() -> None:
    template: dict[str, Any] = {"spec": {"containers": [{"name": "x"}, {"name": "y"}]}}
    rendered = json.loads(with_driver_key(json.dumps(template), "k"))["spec"]["containers"]
    assert rendered == [
        {"name": "spark-kubernetes-executor", "env": [{"name": "STRONGROOM_DRIVER_KEY", "value": "k"}]},
        {"name": "y"},
    ]


@pytest.mark.parametrize("env", ["x", ["x"], {"name": "A"}])
def test_a_template_with_a_malformed_environment_is_refused(env: Any) -> None:
    with pytest.raises(FormatError):
        with_driver_key(json.dumps({"spec": {"containers": [{"env": env}]}}), "k")


def test_the_folders_are_those_that_the_submitter_mounts() -> None:
    folders = PodFolders()
    assert [str(each) for each in (folders.run, folders.package, folders.memory, folders.token)] == [
        "/strongroom/run",
        "/strongroom/package",
        "/strongroom/memory",
        "/strongroom/token",
    ]
    assert str(folders.scratch) == "/strongroom/memory/tee"
    assert str(folders.last_words) == pod.TERMINATION_LOG == "/dev/termination-log"


def test_a_pods_report_is_lines_of_its_log_and_last_words(tmp_path: Path) -> None:
    log, words = tmp_path / "log", tmp_path / "words"
    with log.open("wb") as file:
        report = Report.on_descriptor(file.fileno(), last_words=words)
        with report.step(Step.ATTEST, "measured"):
            pass
        report.fail(EngineError("it broke: " + "ü" * 5000, action="Mend it."))
    first, second = [parse_event(line) for line in log.read_text().splitlines()]
    assert isinstance(first, StepDone)
    assert isinstance(second, Failed)
    assert words.read_text().startswith("it broke: ü")
    assert len(words.read_bytes()) <= 4096


def test_a_report_goes_on_where_last_words_have_no_place(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as file:
        report = Report.on_descriptor(file.fileno(), last_words=tmp_path / "missing" / "words")
        report.fail(ConfigurationError("it broke"))
    assert isinstance(parse_event(log.read_text()), Failed)
