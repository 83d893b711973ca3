"""What a run lives through: an API server or a service that is away, a submitter that dies, a run that is stopped."""

import json
import re
import signal
import time
from pathlib import Path

import pytest
from tests.support.installation import Submission
from tests.support.kubernetes.cluster import LocalCluster
from tests.support.kubernetes.runs import ROWS, Team, counts_of

from strongroom.base.workflow import Step

pytestmark = pytest.mark.timeout(1200, func_only=True)


def test_services_and_an_api_server_that_restart_in_the_middle_cost_nothing(
    team: Team, slow: Submission, local_cluster: LocalCluster, tmp_path: Path
) -> None:
    """All of them at once: nobody starts the services' pods again as long as there is no API server."""
    services = ("key-service", "attestation-service")

    def pods() -> set[str]:
        return {team.cluster.get("pod", f"{service}-0", team.namespace)["metadata"]["uid"] for service in services}

    before = pods()
    with team.under_way(slow) as run:
        run.wait_for_step("executors")
        for service in services:
            team.cluster.delete("pod", f"{service}-0", team.namespace, wait=False)
        local_cluster.restart("kube-apiserver")
        ended = run.ended()
    for service in services:
        team.wait_ready(service)
    team.cluster.wait_until(team.reaches_services, "the way to the services", 60)

    assert ended.status == 0, ended.text + team.what_happened()
    assert len(ended.steps()) == len(set(ended.steps())) or ended.stdout.count("application ended") == 1
    assert pods().isdisjoint(before)
    assert sum(counts_of(team, "slow", tmp_path)) == ROWS


def test_a_run_goes_on_without_the_command_that_submitted_it(team: Team, slow: Submission, tmp_path: Path) -> None:
    """It is listed, shown, read and fetched by other commands."""
    with team.under_way(slow) as under_way:
        under_way.wait_for_step("executors")
        under_way.process.send_signal(signal.SIGKILL)
        under_way.process.wait()
    run = under_way.run
    early = team.runs_command("fetch", run[:8])
    assert early.status == 1
    assert "has not ended" in early.stderr
    followed = team.runs_command("logs", run[:8], "--follow")
    assert followed.status == 0, followed.text
    assert {source for _, source in followed.steps()} >= {"driver", "executor-1"}
    driver = team.driver_of(run)["metadata"]["name"]
    assert team.cluster.ended(driver, team.runs, timeout_s=300) == "Succeeded", team.what_happened()

    (listed,) = json.loads(team.runs_command("list", "--json").stdout)
    assert (listed["run_id"], listed["application"]) == (run, "slow.py")
    shown = json.loads(team.runs_command("show", run[:8]).stdout)
    assert {pod["role"] for pod in shown["pods"]} >= {"driver"}
    fetched = team.runs_command("fetch", run[:8])
    assert fetched.status == 0, fetched.text
    assert sum(counts_of(team, "slow", tmp_path)) == ROWS
    team.done("receipt", "verify", str(team.state.runs / run / f"{run}.receipt.json"))

    assert team.runs_command("stop", run[:8]).status == 0
    team.assert_nothing_left_there()
    gone = team.runs_command("show", run[:8])
    assert gone.status == 1
    assert "there is no run" in gone.stderr


def test_a_run_that_nobody_follows_is_stopped_and_leaves_nothing(team: Team, slow: Submission) -> None:
    with team.no_new_version("report"):
        started = team.run(slow, "--no-wait")
        assert started.status == 0, started.text
        assert "strongroom runs fetch" in started.stdout
        run = re.findall(r"run ([0-9a-f]{32}) started", started.stdout)[0]
        team.cluster.wait_until(lambda: team.running(run), "an executor", 240)
        stopped = team.runs_command("stop", run[:8])
        assert stopped.status == 0, stopped.text
    team.assert_nothing_left_there()


@pytest.mark.parametrize("how", ["Ctrl-C", "kubectl"])
def test_a_run_that_is_stopped_leaves_nothing(team: Team, slow: Submission, how: str) -> None:
    with team.no_new_version("report"), team.under_way(slow) as run:
        run.wait_for_step("executors")
        if how == "Ctrl-C":
            run.process.send_signal(signal.SIGINT)
        else:
            team.cluster.delete("pod", team.driver_of(run.run)["metadata"]["name"], team.runs, wait=False)
        ended = run.ended(120)

    if how == "Ctrl-C":
        assert ended.status == 130, ended.text
        assert "interrupted" in ended.stderr
    else:
        assert "was ended by SIGTERM" in ended.stdout, ended.text
        team.assert_clear_end(ended, step=None, says=[], status=128 + signal.SIGTERM)
    team.assert_nothing_left_there()


def test_a_driver_that_is_killed_ends_the_run_and_says_so(
    team: Team, slow: Submission, local_cluster: LocalCluster
) -> None:
    with team.no_new_version("report"), team.under_way(slow) as run:
        run.wait_for_step("executors")
        driver = team.driver_of(run.run)["metadata"]["name"]
        local_cluster.kill(driver, team.runs)
        ended = run.ended(180)

    team.assert_clear_end(ended, step=Step.COMPUTE, says=["the driver's pod was ended from outside"])
    team.cluster.wait_until(lambda: team.running(run.run) == [], "the end of its executors", 60)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_submitter_that_is_killed_early_starts_nothing(team: Team, count: Submission, when: str) -> None:
    """Before the driver's pod is there, nothing is; after it, a pod that is placed nowhere, until it is swept."""
    with team.started(*team.submit_line(count)) as process:
        if when == "before":
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("step 2"):
                    break
        else:
            team.cluster.wait_until(lambda: team.pods(role="driver"), "the driver's pod", 120)
        process.send_signal(signal.SIGKILL)
        process.wait()
    time.sleep(2)

    if when == "before":
        assert team.objects_of_runs() == []
        return
    for pod in team.pods():
        gated = any(gate["name"] == "strongroom.run/submitted" for gate in pod["spec"].get("schedulingGates") or [])
        assert gated or pod["spec"].get("nodeName"), "neither waiting for its submitter nor placed"
        if gated:
            (listed,) = json.loads(team.runs_command("list", "--json").stdout)
            assert listed["state"] == "abandoned"
            assert team.runs_command("stop", listed["run_id"]).status == 0
            team.assert_nothing_left_there()
