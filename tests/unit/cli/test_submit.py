from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from strongroom.base.workflow import Step
from strongroom.cli.commands.submit import REFUSED, line_of, places_of, request_of, submit
from strongroom.cli.kubernetes import CLUSTER_PARAMETERS
from strongroom.cli.main import strongroom
from strongroom.cli.owner_keys import make_owner_keys
from strongroom.cli.state import State
from strongroom.simulation.server import socket_of
from strongroom.submit.run import SubmitEvent, SubmitRequest
from strongroom.wire.model import TEE_KINDS, TeeKind

STATE = State(root=Path("/s"))


def parse(*arguments: str) -> SubmitRequest:
    """What `submit` would run for this command line."""
    options = dict(submit.make_context("submit", ["--state", "/s", *arguments]).params)
    for name in (*CLUSTER_PARAMETERS, "master", "key", "tee", "state"):
        del options[name]
    return request_of(STATE, **options)


def run(tmp_path: Path, *arguments: str) -> Result:
    return CliRunner().invoke(strongroom, ["submit", "--state", str(tmp_path / "state"), *arguments])


def test_takes_spark_submits_options() -> None:
    request = parse(
        *("--num-executors", "3", "--executor-memory", "2g", "--executor-cores", "2", "--driver-memory", "600m"),
        *("--py-files", "a.py,b.zip", "--files", "c.txt", "--archives", "d.zip", "--name", "Report"),
        *("--conf", "spark.sql.ansi.enabled=true", "-c", "spark.sql.session.timeZone=UTC"),
        *("--dataset", "trips=/data/trips", "--output", "report"),
        *("report.py", "strongroom://trips", "strongroom://report"),
    )

    assert request == SubmitRequest(
        script=Path("report.py"),
        arguments=("strongroom://trips", "strongroom://report"),
        py_files=("a.py", "b.zip"),
        files=("c.txt",),
        archives=("d.zip",),
        settings={"spark.sql.ansi.enabled": "true", "spark.sql.session.timeZone": "UTC"},
        name="Report",
        datasets={"trips": "file:///data/trips"},
        outputs={"report": "file:///s/operator/storage/report"},
        executors=3,
        executor_memory_mb=2048,
        executor_cores=2,
        driver_memory_mb=600,
    )


def test_datasets_of_other_owners_go_by_what_the_trust_file_calls_them() -> None:
    request = parse(
        *("--dataset", "trips", "--dataset", "visits@hospital=/data/visits", "--output", "joined@bank=/data/joined"),
        *("--attested-by", "bank", "join.py"),
    )

    assert request.partners == {"visits": "hospital", "joined": "bank"}
    assert request.datasets["visits"] == "file:///data/visits"
    assert request.attested_by == "bank"


def test_tees_are_appraised_by_azure_attestation_by_its_address() -> None:
    url = "https://strongroom.weu.attest.azure.net"
    for written in (url, f"{url}/", url.replace("weu", "WEU")):
        assert parse("--attested-by", written, "join.py").attested_by == url
    for wrong in ("http://a.example", "https://a.example/path", "https://", "Hospital"):
        with pytest.raises(click.BadParameter):
            parse("--attested-by", wrong, "join.py")


def test_another_owners_dataset_does_not_lie_in_ones_own_storage() -> None:
    with pytest.raises(click.UsageError, match="say where the ciphertext of visits@hospital lies"):
        parse("--dataset", "visits@hospital", "join.py")


@pytest.mark.parametrize("tee", TEE_KINDS)
def test_the_simulated_platform_launches_the_kind_of_tee_that_is_asked_for(tee: TeeKind) -> None:
    device = places_of(STATE, tee=tee).device
    assert (device.kind, device.socket) == (f"simulated-{tee}", str(socket_of(STATE.platform)))


def test_a_run_is_in_enclaves_unless_something_else_is_asked_for(tmp_path: Path) -> None:
    assert submit.make_context("submit", ["--state", "/s", "count.py"]).params["tee"] == "sgx"
    assert "Invalid value for '--tee'" in run(tmp_path, "--tee", "sev", "count.py").output


def test_names_the_version_to_read_of_a_dataset_that_is_read() -> None:
    request = parse("--dataset", "trips", "--read-version", "trips=4", "report.py", "strongroom://trips")
    assert request.versions == {"trips": 4}


@pytest.mark.parametrize("version", [("report=4",), ("trips=4", "trips=5")])
def test_refuses_versions_of_what_is_not_read_or_two_of_one(version: tuple[str, ...]) -> None:
    options = [word for each in version for word in ("--read-version", each)]
    with pytest.raises(click.UsageError):
        parse("--dataset", "trips", "--output", "report", *options, "report.py")


def test_sizes_have_small_defaults() -> None:
    request = parse("count.py")

    assert (request.executors, request.executor_cores) == (1, 1)
    assert (request.executor_memory_mb, request.driver_memory_mb) == (1024, 1024)


@pytest.mark.parametrize(
    "arguments", [("--help",), ("--conf", "x"), ("-h", "--", "--dataset"), ("--jars", "a.jar"), ("--", "x"), ("",)]
)
def test_everything_after_the_script_is_the_scripts(arguments: tuple[str, ...]) -> None:
    assert parse("count.py", *arguments).arguments == arguments


@pytest.mark.parametrize(("option", "action"), REFUSED.items())
def test_refuses_what_cannot_be_protected_by_name_and_says_what_to_do(tmp_path: Path, option: str, action: str) -> None:
    result = run(tmp_path, option, "value", "count.py")

    assert result.exit_code == 2
    assert f"{option} is not supported: {action}" in result.output


@pytest.mark.parametrize("flag", ["--supervise", "--verbose", "--load-spark-defaults"])
def test_refuses_flags_by_name(tmp_path: Path, flag: str) -> None:
    assert f"{flag} is not supported" in run(tmp_path, flag, "count.py").output


@pytest.mark.parametrize("master", ["yarn", "spark://host:7077", "local[2]"])
def test_refuses_another_cluster_than_its_own(tmp_path: Path, master: str) -> None:
    result = run(tmp_path, "--master", master, "count.py")

    assert result.exit_code == 2
    assert f"--master {master} is not supported" in result.output
    assert "--num-executors" in result.output


def test_the_default_master_may_be_named() -> None:
    assert parse("--master", "local", "count.py").script == Path("count.py")


@pytest.mark.parametrize(
    "twice",
    [
        ("--conf", "spark.a=1", "--conf", "spark.a=2"),
        ("--dataset", "trips", "--dataset", "trips=/x"),
        ("--output", "report", "--output", "report"),
    ],
)
def test_refuses_what_is_given_twice(twice: tuple[str, ...]) -> None:
    with pytest.raises(click.UsageError, match=f"{twice[0]} .* is given twice"):
        parse(*twice, "count.py")


def test_without_services_the_error_says_how_to_start_them(tmp_path: Path) -> None:
    make_owner_keys(State(root=tmp_path / "state"))

    result = run(tmp_path, "--dataset", "trips", "count.py", "strongroom://trips")

    assert result.exit_code == 1
    assert result.output.startswith("strongroom: step 2 (policy): there is no trust file")
    assert "  → start the services with: strongroom up" in result.output


def test_without_a_key_the_error_says_how_to_make_one(tmp_path: Path) -> None:
    result = run(tmp_path, "--dataset", "trips", "count.py", "strongroom://trips")

    assert result.exit_code == 1
    assert "strongroom init" in result.output


def test_a_step_is_one_line_with_its_number_name_place_and_time() -> None:
    event = SubmitEvent(step=Step.ATTEST, detail="evidence verified", elapsed_ms=1234, source="executor-1")

    assert line_of(event) == "step 4 attest    executor-1     1.23 s  evidence verified"
