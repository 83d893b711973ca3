"""Two teams on one cluster: token and evidence are both needed, and neither team reaches into the other."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.support.installation import Submission
from tests.support.installed_chart import InstalledChart, prepared_chart
from tests.support.kubernetes.edits import (
    assert_refused,
    attacked,
    container_of,
    descriptor,
    opened_runs,
    template,
    wrapped,
)
from tests.support.kubernetes.runs import QUICKLY_COMPILED, SIZES, Team

from strongroom.base.workflow import Step
from strongroom.submit.run import load_trust

pytestmark = pytest.mark.timeout(1200, func_only=True)


@pytest.fixture(scope="module")
def other(team: Team, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """Another team of the same cluster: a namespace with accounts and storage of its own, and its submitter's token."""
    namespace = team.cluster.new_namespace("runs")
    made = replace(team, runs=namespace, account=tmp_path_factory.mktemp("other") / "account")
    team.helm("upgrade", f"--set=runs.namespaces={{{team.runs},{namespace}}}")
    made.make_account()
    made.make_storage()
    yield made
    made.clear()
    team.helm("upgrade")
    team.cluster.delete("namespace", namespace, wait=False)


@pytest.fixture(scope="module")
def neighbour(team: Team, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InstalledChart]:
    """Another owner's services on the same cluster."""
    with prepared_chart(tmp_path_factory.mktemp("neighbour"), team.cluster, team.image) as made:
        made.helm("install")
        with made.reached():
            yield made


@pytest.fixture(scope="module")
def ours(team: Team, repo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Submission:
    """An application that is approved for the team's own service accounts."""
    script = tmp_path_factory.mktemp("ours") / "ours.py"
    script.write_bytes((repo_root / "examples" / "nyctaxi" / "count.py").read_bytes() + b"\n# For one team.\n")
    submission = Submission(script=script, arguments=("strongroom://trips",), options=QUICKLY_COMPILED, sizes=SIZES)
    accounts = [f"{role}={team.runs}/strongroom-{role}@{team.cluster.issuer()}" for role in ("driver", "executor")]
    team.approve(submission, options=[word for account in accounts for word in ("--workload", account)])
    return submission


def test_right_evidence_and_the_right_accounts_get_the_keys(team: Team, ours: Submission) -> None:
    ended = team.run_well(ours)

    assert "Input DataFrame Count: 20000" in team.output_of(ended)
    verified = json.loads(team.done("receipt", "verify", str(team.receipt(ended)), "--json"))
    assert [member["role"] for member in verified["members"]] == ["driver", "executor"]
    for member in verified["members"]:
        assert member["cluster"] == team.cluster.issuer()
        assert member["service_account"] == f"system:serviceaccount:{team.runs}:strongroom-{member['role']}"
    assert verified["members"][0]["pod_uid"] == team.driver_of(ended.run_id)["metadata"]["uid"]


def test_right_evidence_with_another_teams_account_gets_nothing(other: Team, team: Team, ours: Submission) -> None:
    before = opened_runs(team)
    ended = other.run(ours)

    other.assert_clear_end(ended, step=Step.RELEASE, says=["account"])
    assert opened_runs(team) == before
    assert f"{team.runs}:strongroom-driver" not in ended.text, "the analyst is told whose account would have been right"
    why = team.done("why")
    assert f"{team.runs}/strongroom-driver" in why or f"{team.runs}:strongroom-driver" in why
    assert f"{other.runs}:strongroom-driver" in why or f"{other.runs}/strongroom-driver" in why


def test_the_right_account_with_other_evidence_gets_nothing(team: Team, ours: Submission) -> None:
    def change(pod: dict[str, Any]) -> None:
        container_of(pod)["command"] = wrapped("driver")

    assert_refused(team, attacked(team, ours, template(change)), "refused", "configuration", "verification")


def test_a_pod_without_a_token_gets_nothing(team: Team, ours: Submission) -> None:
    def change(pod: dict[str, Any]) -> None:
        spec, container = pod["spec"], container_of(pod)
        tokens = {volume["name"] for volume in spec["volumes"] if "serviceAccountToken" in json.dumps(volume)}
        assert tokens
        spec["volumes"] = [volume for volume in spec["volumes"] if volume["name"] not in tokens]
        container["volumeMounts"] = [mount for mount in container["volumeMounts"] if mount["name"] not in tokens]

    run = attacked(team, ours, template(change))

    assert run.phase == "Failed", run.log[-2000:]
    assert run.run not in opened_runs(team)


def test_a_neighbours_key_service_gets_no_run_and_its_owner_sees_none(
    team: Team, ours: Submission, neighbour: InstalledChart
) -> None:
    """The descriptor leads the driver to the other owner's key service, under the name of the first one's."""
    trust = load_trust(neighbour.state.trust)
    url = next(service.cluster_url for service in trust.services if service.service == "key-service")

    def change(document: dict[str, Any]) -> None:
        (identity,) = document["key_services"]
        document["key_services"][identity]["url"] = url

    run = attacked(team, ours, descriptor(change))

    assert run.phase == "Failed", run.log[-2000:]
    assert "is not the key service that was pinned" in str(run.failure())
    assert run.run not in opened_runs(team)
    assert neighbour.owner().runs()["runs"] == []
    assert neighbour.keys() == []
