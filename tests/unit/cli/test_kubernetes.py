from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from strongroom.base.errors import RefusedError
from strongroom.cli.commands.submit import request_of, submit
from strongroom.cli.kubernetes import CLUSTER_PARAMETERS, cluster_request, opened, place_in_pods
from strongroom.cli.main import strongroom
from strongroom.cli.owner_keys import make_owner_keys
from strongroom.cli.state import State
from strongroom.cluster.shapes import PodShape, SimulatedShape
from strongroom.submit.kubernetes import ClusterRequest
from strongroom.submit.run import SubmitRequest

STATE = State(root=Path("/s"))
MASTER = "k8s://https://10.0.0.1:6443"
IMAGE = "--conf=spark.kubernetes.container.image=spark@sha256:" + "ab" * 32


def parse(*arguments: str) -> tuple[SubmitRequest, ClusterRequest]:
    """What `submit` would run on a cluster for this command line."""
    options: dict[str, Any] = dict(
        submit.make_context("submit", ["--state", "/s", "--master", MASTER, IMAGE, *arguments]).params
    )
    given = {name: options.pop(name) for name in CLUSTER_PARAMETERS}
    cluster = cluster_request(options.pop("master"), options["conf"], tee=options.pop("tee"), given=given)
    options["conf"] = tuple(cluster.settings.application.items())
    del options["key"], options["state"]
    return request_of(STATE, in_pods=True, **options), cluster


def run(tmp_path: Path, *arguments: str) -> Any:
    make_owner_keys(State(root=tmp_path / "state"))
    return CliRunner().invoke(strongroom, ["submit", "--state", str(tmp_path / "state"), *arguments])


def test_takes_spark_submits_options_and_says_whose_each_setting_is() -> None:
    request, cluster = parse(
        *("--deploy-mode", "cluster", "--num-executors", "3", "--executor-memory", "2g", "--driver-cores", "2"),
        *("--conf", "spark.kubernetes.namespace=analysts", "--conf", "spark.sql.ansi.enabled=true"),
        *("--dataset", "trips=/data/trips", "--archive", "/data/archive", "--pending-timeout", "2m"),
        *("--ticket-lifetime", "7d", "--tee", "tdx", "--name", "Report", "report.py", "strongroom://trips"),
    )

    assert request.settings == {"spark.sql.ansi.enabled": "true"}
    assert request.datasets == {"trips": "file:///data/trips"}
    assert (request.executors, request.executor_memory_mb, request.name) == (3, 2048, "Report")
    assert cluster.namespace == "analysts"
    assert cluster.driver_cores == 2
    assert cluster.archive == "file:///data/archive"
    assert cluster.pending_s == 120
    assert cluster.ticket_lifetime.days == 7
    assert cluster.shape == SimulatedShape(tee="tdx")
    assert cluster.waits


def test_takes_a_shape_and_its_options() -> None:
    _, cluster = parse("--shape", "pod", "--shape-option", "runtime=kata-remote", "--shape-option", "tee=tdx", "r.py")

    assert cluster.shape == PodShape(runtime="kata-remote", tee="tdx")
    for given in (("--shape-option", "runtime"), ("--shape-option", "tee=snp", "--shape-option", "tee=tdx")):
        with pytest.raises(click.BadParameter):
            parse("--shape", "pod", *given, "r.py")


def test_the_same_application_here_and_there() -> None:
    """What the digest covers does not differ: an approval serves a laptop and a cluster."""
    there, _ = parse("--dataset", "trips=/data/trips", "--conf", "spark.sql.ansi.enabled=true", "r.py", "x")
    arguments = ["--state", "/s", "--dataset", "trips", "--conf", "spark.sql.ansi.enabled=true", "r.py", "x"]
    options: dict[str, Any] = dict(submit.make_context("submit", arguments).params)
    for name in (*CLUSTER_PARAMETERS, "master", "tee", "key", "state"):
        del options[name]
    here = request_of(STATE, **options)

    assert (there.settings, there.arguments, there.script, there.name) == (
        here.settings,
        here.arguments,
        here.script,
        here.name,
    )


@pytest.mark.parametrize(
    "option",
    [
        ("--deploy-mode", "cluster"),
        ("--driver-cores", "2"),
        ("--wait",),
        ("--no-wait",),
        ("--prepare-only", "folder"),
        ("--archive", "/data"),
        ("--pending-timeout", "1m"),
        ("--ticket-lifetime", "1d"),
        ("--shape", "pod"),
        ("--shape-option", "runtime=kata-qemu-snp"),
        ("--allow-image-tag",),
    ],
)
def test_what_only_a_cluster_understands_is_refused_without_one(tmp_path: Path, option: tuple[str, ...]) -> None:
    result = run(tmp_path, *option, "count.py")

    assert result.exit_code == 2
    assert f"{option[0]}" in result.output
    assert "needs a cluster: --master k8s://" in result.output


def test_settings_for_pods_mean_nothing_on_this_machine(tmp_path: Path) -> None:
    (tmp_path / "count.py").write_text("")
    (tmp_path / "state").mkdir()
    result = run(tmp_path, "--conf", "spark.kubernetes.namespace=x", str(tmp_path / "count.py"))

    assert result.exit_code == 1


@pytest.mark.parametrize("master", ["yarn", "spark://host:7077", "local[2]", "k8s://", "mesos://x"])
def test_refuses_masters_that_are_neither_this_machine_nor_kubernetes(tmp_path: Path, master: str) -> None:
    result = run(tmp_path, "--master", master, "count.py")

    assert result.exit_code == 2
    assert f"--master {master} is not supported" in result.output
    assert "k8s://" in result.output
    assert "--num-executors" in result.output


def test_the_driver_is_always_a_pod(tmp_path: Path) -> None:
    result = run(tmp_path, "--master", MASTER, "--deploy-mode", "client", "count.py")

    assert result.exit_code == 2
    assert "needs a TEE of the cluster's" in result.output


def test_locations_are_the_pods() -> None:
    assert place_in_pods("/data/trips", what="trips") == "file:///data/trips"
    assert place_in_pods("file:///data", what="trips") == "file:///data"
    with pytest.raises(click.UsageError, match="as the pods see it"):
        place_in_pods("data/trips", what="trips")
    with pytest.raises(click.UsageError, match="say where pods see the ciphertext of trips"):
        parse("--dataset", "trips", "r.py")


def test_refuses_a_setting_by_name_before_anything_is_packed(tmp_path: Path) -> None:
    result = run(tmp_path, "--master", MASTER, "--conf", "spark.kubernetes.driverEnv.KEY=x", "count.py")

    assert result.exit_code == 1
    assert "spark.kubernetes.driverEnv.KEY" in result.output
    assert "step 1 (submit)" in result.output


def test_refuses_an_image_by_its_tag_before_anything_is_packed(tmp_path: Path) -> None:
    image = "--conf=spark.kubernetes.container.image=spark:latest"
    result = run(tmp_path, "--master", MASTER, image, "count.py")

    assert result.exit_code == 1
    assert "NAME@sha256:DIGEST" in result.output or "credentials" in result.output


def test_a_setting_that_is_given_twice_is_refused() -> None:
    with pytest.raises(click.UsageError, match="given twice"):
        parse("--conf", "spark.kubernetes.namespace=a", "--conf", "spark.kubernetes.namespace=b", "r.py")


def test_runs_on_a_cluster_are_looked_at_with_a_master_alone() -> None:
    assert opened(None, None, ()) is None
    for namespace, conf in (("x", ()), (None, (("spark.kubernetes.context", "x"),))):
        with pytest.raises(click.UsageError, match="need a cluster"):
            opened(None, namespace, conf)
    with pytest.raises(RefusedError):
        opened(MASTER, None, (("spark.kubernetes.authenticate.submission.oauthToken", "x"),))


@pytest.mark.parametrize("command", [("fetch", "ab"), ("stop", "ab")])
def test_what_only_a_cluster_has_asks_for_one(command: tuple[str, ...]) -> None:
    result = CliRunner().invoke(strongroom, ["runs", *command])

    assert result.exit_code == 2
    assert "name the cluster" in result.output
