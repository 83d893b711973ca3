"""Promises 1, 2, 3 and 5 against who controls Kubernetes: every word, file and volume of a pod, with one thing changed.

Real agents, services and evidence; folders in the place of Kubernetes, a program in Spark's, which tells what it sees.
What is changed on a real cluster is in `tests/kubernetes`.
"""

import io
import json
import os
import signal
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.pods import TEMPLATE, Ended, OpenRun, Pod, Pods, memory_volumes
from tests.support.service_processes import Installation, installation
from tests.support.tee import Runner

from strongroom.agent.pod import PodFolders, begin_in_pod
from strongroom.agent.report import Report
from strongroom.base.errors import StrongroomError
from strongroom.crypto.keys import SigningKey
from strongroom.wire.pod import DRIVER_KEY_ENV, PACKAGE_PART_BYTES, PACKAGE_PARTS

EVIL = "-javaagent:/strongroom/package/evil.jar"


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with installation(tmp_path_factory.mktemp("services")) as made:
        yield made


@pytest.fixture(scope="module")
def pods(services: Installation) -> Iterator[Pods]:
    with memory_volumes() as memory:
        runner = Runner(services, services.folder)
        runner.approve_all()
        yield Pods(runner, services.folder, memory)


@pytest.fixture(scope="module")
def open_run(pods: Pods) -> Iterator[tuple[str, OpenRun]]:
    """A run that is open while all tests of this module run: executors may join it."""
    ticket = pods.runner.ticket(max_executors=100)
    with pods.open_run(ticket) as run:
        yield ticket, run


@pytest.fixture
def driver(pods: Pods) -> Pod:
    return pods.driver(pods.runner.ticket())


@pytest.fixture
def executor(pods: Pods, open_run: tuple[str, OpenRun]) -> Pod:
    ticket, run = open_run
    return pods.executor(ticket, driver_key=run.driver_key)


def refused(pod: Pod) -> Ended:
    """The agent gives up before any key service let it in, says why, and starts nothing."""
    ended = pod.run()
    assert ended.status == 70, ended.log + ended.errors
    assert ended.failed.message
    assert ended.last_words.startswith(ended.failed.message)
    assert not ended.got_keys
    assert not ended.seen.exists()
    assert list(pod.memory.iterdir()) == []
    return ended


def refused_at_start(pod: Pod) -> StrongroomError:
    """The agent gives up while it reads what the host says: before it has a TEE, let alone a key."""
    folders = PodFolders(run=pod.folder / "run", package=pod.folder / "package", memory=pod.memory)
    folders.scratch.mkdir()
    with pytest.raises(StrongroomError) as caught:
        begin_in_pod(pod.words, environment=pod.environment, folders=folders, report=Report(lambda _: None))
    return caught.value


# --- arguments and environment ---------------------------------------------------------------------------------------


def test_what_follows_the_role_in_the_arguments_changes_nothing(driver: Pod) -> None:
    driver.words = ["driver", "--conf", f"spark.driver.extraJavaOptions={EVIL}", "--jars", "/evil.jar", "/evil.py"]
    ended = driver.run()
    assert ended.status == 0
    assert not [word for word in ended.arguments if "evil" in word]
    assert "evil" not in (ended.seen / "conf" / "driver.properties").read_text()


@pytest.mark.parametrize("words", [[], ["Driver"], ["--help"], ["bash", "-c", "cat"], [""]])
def test_another_role_is_refused(driver: Pod, words: list[str]) -> None:
    driver.words = words
    refused(driver)


def test_a_second_driver_for_a_ticket_gets_nothing(pods: Pods, open_run: tuple[str, OpenRun]) -> None:
    second = pods.driver(open_run[0])
    assert refused(second).failed.code in {"conflict", "refused"}


def test_an_executors_pod_that_is_started_as_driver_gets_nothing(executor: Pod) -> None:
    executor.words = ["driver"]
    executor.environment |= {"SPARK_DRIVER_BIND_ADDRESS": "127.0.0.1", "STRONGROOM_POD_NAME": "x"}
    refused(executor)


def test_other_variables_reach_neither_spark_nor_python(executor: Pod) -> None:
    executor.environment |= {
        "SPARK_JAVA_OPT_1": EVIL,
        "SPARK_CLASSPATH": "/evil",
        "SPARK_EXECUTOR_DIRS": "/evil",
        "SPARK_LOCAL_DIRS": "/evil",
        "SPARK_DAEMON_JAVA_OPTS": EVIL,
        "SPARK_CONF_DIR": "/evil",
        "HADOOP_CONF_DIR": "/evil",
        "JAVA_TOOL_OPTIONS": EVIL,
        "JDK_JAVA_OPTIONS": EVIL,
        "STRONGROOM_JAVA_OPTIONS": "/evil",
        "_SPARK_AUTH_SECRET": "evil",
        "PYTHONSTARTUP": "/evil",
        "PYSPARK_PYTHON": "/evil",
        "HTTPS_PROXY": "http://evil",
    }
    ended = executor.run()
    assert ended.status == 0, ended.log + ended.errors
    assert "evil" not in json.dumps([ended.arguments, ended.environment])
    assert "evil" not in (ended.seen / "conf" / "java.options").read_text()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SPARK_DRIVER_URL", "spark://CoarseGrainedScheduler@h:7078 --jars x"),
        ("SPARK_DRIVER_URL", "spark://Other@h:7078"),
        ("SPARK_DRIVER_URL", "file:///x"),
        ("SPARK_EXECUTOR_ID", "EXECID"),
        ("SPARK_EXECUTOR_ID", "1\n2"),
        ("SPARK_EXECUTOR_ID", "--worker-url"),
        ("SPARK_EXECUTOR_CORES", "-1"),
        ("SPARK_EXECUTOR_MEMORY", f"512m {EVIL}"),
        ("SPARK_EXECUTOR_MEMORY", "lots"),
        ("SPARK_APPLICATION_ID", "../x"),
        ("SPARK_APPLICATION_ID", "--resourcesFile"),
        ("SPARK_RESOURCE_PROFILE_ID", "zero"),
        ("SPARK_EXECUTOR_POD_IP", "evil.example"),
        ("SPARK_EXECUTOR_POD_IP", "fe80::1%eth0"),
        ("SPARK_EXECUTOR_POD_NAME", "a b"),
        (DRIVER_KEY_ENV, "0" * 63),
        (DRIVER_KEY_ENV, "X" * 64),
    ],
)
def test_a_malformed_word_is_refused_before_any_key(executor: Pod, name: str, value: str) -> None:
    executor.environment[name] = value
    assert refused_at_start(executor).code == "format"


@pytest.mark.parametrize("name", ["SPARK_DRIVER_URL", "SPARK_EXECUTOR_POD_IP", DRIVER_KEY_ENV])
def test_a_missing_word_is_refused_before_any_key(executor: Pod, name: str) -> None:
    del executor.environment[name]
    assert name in refused_at_start(executor).message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SPARK_DRIVER_BIND_ADDRESS", "0.0.0.0 -x"),
        ("STRONGROOM_POD_NAME", "x,y=z"),
        ("SPARK_APPLICATION_ID", "spark${env:HOME}"),
    ],
)
def test_a_drivers_malformed_word_is_refused_before_any_key(driver: Pod, name: str, value: str) -> None:
    driver.environment[name] = value
    assert refused_at_start(driver).code == "format"


def test_an_executor_of_another_drivers_key_gets_nothing(pods: Pods, open_run: tuple[str, OpenRun]) -> None:
    other = SigningKey.generate("ES256").verifying_key.thumbprint
    assert refused(pods.executor(open_run[0], driver_key=other)).failed.code in {"refused", "not-found"}


# --- the descriptor --------------------------------------------------------------------------------------------------


def test_another_applications_digest_is_refused(driver: Pod) -> None:
    driver.describe(application="0" * 64)
    assert "not the one this TEE was launched for" in refused(driver).failed.message


def test_a_ticket_that_nobody_approved_is_refused(pods: Pods) -> None:
    refused(pods.driver(pods.runner.ticket(submitter=SigningKey.generate("ES256"))))


def test_a_ticket_for_another_application_is_refused(pods: Pods) -> None:
    refused(pods.driver(pods.runner.ticket(application="0" * 64)))


def test_another_key_service_in_the_place_of_the_bound_one_is_refused(pods: Pods, driver: Pod) -> None:
    attestation, keys = pods.runner.services.attestation, pods.runner.services.keys
    stranger = {"url": attestation.url, "certificate_pem": attestation.certificate_pem}
    driver.describe(key_services={keys.identity: stranger})
    refused(driver)


def test_storage_that_holds_other_files_yields_no_rows(driver: Pod, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    said = json.loads(driver.descriptor.read_bytes())["storage"]
    driver.describe(storage={name: (tmp_path / "empty").as_uri() for name in said})
    ended = driver.run()
    assert (ended.status, ended.failed.code) == (70, "integrity")
    assert not ended.seen.exists()


def test_the_descriptor_has_no_other_fields(driver: Pod) -> None:
    driver.describe(role="driver", secret="x")
    assert refused(driver).failed.code == "format"


SETTINGS_OF_OTHERS = {
    "spark.driver.extraJavaOptions": EVIL,
    "spark.executor.extraJavaOptions": EVIL,
    "spark.driver.extraClassPath": "/evil",
    "spark.executorEnv.X": "y",
    "spark.jars": "/evil.jar",
    "spark.plugins": "Evil",
    "spark.files": "/etc/passwd",
    "spark.hadoop.fs.strongroom.impl": "Evil",
    "spark.authenticate": "false",
    "spark.authenticate.secret": "x",
    "spark.authenticate.secret.executor.file": "",
    "spark.network.crypto.enabled": "false",
    "spark.io.encryption.enabled": "false",
    "spark.shuffle.service.enabled": "true",
    "spark.dynamicAllocation.shuffleTracking.enabled": "false",
    "spark.kubernetes.executor.secrets.x": "/etc/secrets",
    "spark.kubernetes.executor.secretKeyRef.X": "a:b",
    "spark.kubernetes.executor.podTemplateFile": "/evil.yaml",
    "spark.kubernetes.executor.pod.featureSteps": "Evil",
    "spark.kubernetes.executor.disableConfigMap": "false",
    "spark.kubernetes.allocation.pods.allocator": "Evil",
    "spark.kubernetes.driver.master": "local[2]",
    "spark.kubernetes.authenticate.oauthToken": "x",
    "spark.kubernetes.authenticate.caCertFile": "/evil.crt",
    "spark.kubernetes.trust.certificates": "true",
    "spark.kubernetes.file.upload.path": "file:///",
    "spark.kubernetes.hadoop.configMapName": "evil",
    "spark.kubernetes.kerberos.krb5.path": "/evil",
    "spark.kubernetes.context": "evil",
    "spark.master": "local",
    "spark.kubernetes.executor.annotation.x": "${env:HOME}",
    "spark.kubernetes.executor.label.x": "${spark.app.name}",
    "spark.kubernetes.executor.podNamePrefix": "${env:HOME}",
    "spark.kubernetes.container.image": "a\nspark.authenticate=false",
}


@pytest.mark.parametrize("role", ["driver", "executor"])
def test_settings_that_are_not_the_hosts_are_refused_and_each_is_named(driver: Pod, executor: Pod, role: str) -> None:
    pod = {"driver": driver, "executor": executor}[role]
    pod.describe(settings=SETTINGS_OF_OTHERS)
    ended = refused(pod)
    assert ended.failed.code == "refused"
    assert {each.name for each in ended.failed.mismatches} == set(SETTINGS_OF_OTHERS)


# --- the executors' pod template -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "template", ["", "[]", "{}", '{"spec": {"containers": []}}', '{"spec": {"containers": ["x"]}}']
)
def test_a_template_without_a_container_is_refused_before_any_key(driver: Pod, template: str) -> None:
    driver.describe(executor_template=template)
    assert refused_at_start(driver).code == "format"


def test_a_drivers_key_that_stands_in_the_template_is_replaced(pods: Pods) -> None:
    template: dict[str, Any] = json.loads(json.dumps(TEMPLATE))
    template["spec"]["containers"][1]["env"] = [{"name": DRIVER_KEY_ENV, "value": "0" * 64}]
    ended = pods.driver(pods.runner.ticket(), executor_template=json.dumps(template)).run()
    rendered = json.loads((ended.seen / "conf" / "executor.json").read_bytes())
    (variable,) = rendered["spec"]["containers"][1]["env"]
    assert variable["name"] == DRIVER_KEY_ENV
    assert variable["value"] != "0" * 64


# --- the package -----------------------------------------------------------------------------------------------------


def _flip(pod: Pod) -> None:
    content = bytearray(pod.part(0).read_bytes())
    content[content.index(b"print('an application')")] ^= 1
    pod.part(0).write_bytes(content)


def _remove(pod: Pod) -> None:
    pod.part(0).unlink()


def _leave_a_gap(pod: Pod) -> None:
    pod.part(0).rename(pod.part(1))


def _add_a_file(pod: Pod) -> None:
    (pod.folder / "package" / "evil.jar").write_bytes(b"")


def _cut(pod: Pod) -> None:
    pod.part(0).write_bytes(pod.part(0).read_bytes()[:700])


def _empty(pod: Pod) -> None:
    pod.part(0).write_bytes(b"")


def _make_it_a_pipe(pod: Pod) -> None:
    pod.part(0).unlink()
    os.mkfifo(pod.part(0))


def _make_it_a_device(pod: Pod) -> None:
    pod.part(0).unlink()
    pod.part(0).symlink_to("/dev/zero")


def _make_a_part_too_large(pod: Pod) -> None:
    pod.part(0).write_bytes(bytes(PACKAGE_PART_BYTES + 1))


def _make_too_many_parts(pod: Pod) -> None:
    for number in range(PACKAGE_PARTS + 1):
        (pod.folder / "package" / f"part-{number:03d}").write_bytes(b"x")


def _swap_in_another_script(pod: Pod) -> None:
    _repack(pod, lambda entries: [(entry, content.replace(b"print", b"erase")) for entry, content in entries])


def _add_an_undescribed_file(pod: Pod) -> None:
    _repack(pod, lambda entries: [*entries, _file("sitecustomize.py", b"import evil")])


def _name_a_file_twice(pod: Pod) -> None:
    _repack(pod, lambda entries: [*entries, entries[0]])


def _named(name: str, **fields: Any) -> Callable[[Pod], None]:
    def change(pod: Pod) -> None:
        _repack(pod, lambda entries: [*entries, _file(name, b"", **fields)])

    change.__name__ = f"add_{name}"
    return change


def _file(name: str, content: bytes, **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    for field, value in fields.items():
        setattr(entry, field, value)
    return entry, content


Entries = list[tuple[tarfile.TarInfo, bytes]]


def _repack(pod: Pod, change: Callable[[Entries], Entries]) -> None:
    with tarfile.open(fileobj=io.BytesIO(pod.part(0).read_bytes())) as archive:
        entries = [(entry, archive.extractfile(entry).read()) for entry in archive]  # type: ignore[union-attr]
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for entry, content in change(entries):
            archive.addfile(entry, io.BytesIO(content))
    pod.part(0).write_bytes(packed.getvalue())


@pytest.mark.parametrize(
    "change",
    [
        _remove,
        _leave_a_gap,
        _add_a_file,
        _cut,
        _empty,
        _make_it_a_pipe,
        _make_it_a_device,
        _make_a_part_too_large,
        _make_too_many_parts,
        _name_a_file_twice,
        _named("/etc/cron.d/evil"),
        _named("../application/evil.py"),
        _named("folder/evil.py"),
        _named("folder", type=tarfile.DIRTYPE),
        _named("link.py", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        _named("hard.py", type=tarfile.LNKTYPE, linkname="description.json"),
        _named("pipe", type=tarfile.FIFOTYPE),
        _named("device", type=tarfile.CHRTYPE, devmajor=1, devminor=5),
        _named("sparse.py", type=tarfile.GNUTYPE_SPARSE),
        _named(".hidden"),
    ],
    ids=lambda change: change.__name__.strip("_"),
)
def test_what_is_no_package_is_refused_before_any_key(executor: Pod, change: Callable[[Pod], None]) -> None:
    change(executor)
    assert refused_at_start(executor).code in {"format", "limit"}


@pytest.mark.parametrize("change", [_flip, _swap_in_another_script, _add_an_undescribed_file, _remove])
def test_a_changed_package_is_refused_before_any_key(executor: Pod, change: Callable[[Pod], None]) -> None:
    change(executor)
    assert refused(executor).failed.code in {"format", "integrity"}


# --- volumes ---------------------------------------------------------------------------------------------------------


def test_a_memory_volume_on_a_disk_is_refused(driver: Pod, tmp_path: Path) -> None:
    driver.lay_memory_on(tmp_path / "disk")
    assert "which the host can read" in refused(driver).failed.message


def test_a_memory_volume_that_somebody_filled_before_is_refused(driver: Pod) -> None:
    (driver.memory / "tee").mkdir()
    ended = driver.run()
    assert (ended.status, ended.failed.code) == (70, "configuration")
    assert not ended.got_keys


def test_a_malformed_workload_token_goes_nowhere(pods: Pods, executor: Pod) -> None:
    (executor.folder / "token" / pods.runner.services.keys.identity).write_text("no token")
    ended = executor.run()
    assert (ended.status, ended.failed.code) == (70, "format")
    assert not ended.got_keys
    assert "no token" not in ended.log


# --- processes -------------------------------------------------------------------------------------------------------


def test_what_an_application_leaves_behind_stays_below_its_agent(pods: Pods) -> None:
    """An orphan that became init's child would look like no part of a TEE, and could ask to be one itself."""

    def leaves_an_orphan(gate: Path) -> str:
        leave = '(sleep 600 & echo $! > "$seen/new"); mv "$seen/new" "$seen/orphan"'
        return f'{leave}; until [ -e "{gate}" ]; do sleep 0.05; done'

    with pods.open_run(pods.runner.ticket(), java=leaves_an_orphan) as run:
        wait_until((run.pod.seen / "orphan").exists)
        orphan = int((run.pod.seen / "orphan").read_text())
        try:
            assert parent_of(orphan) == run.process.pid
        finally:
            os.kill(orphan, signal.SIGKILL)
        assert run.release().status == 0


# --- what the host sees ----------------------------------------------------------------------------------------------


def test_the_pods_log_shows_nothing_that_the_application_says(pods: Pods) -> None:
    ended = pods.driver(pods.runner.ticket(), java="echo canary-3141592; echo canary-3141592 >&2; exit 0").run()
    assert ended.status == 0
    for shown in (ended.log, ended.errors, ended.last_words):
        assert "canary" not in shown
    assert all(b"canary" not in path.read_bytes() for path in pods.archive.rglob("*") if path.is_file())


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)
