"""What the accounts of two teams may do on a real API server, with real tokens: what runs need, and nothing else."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.support.charts import CHART, FOLDER
from tests.support.kubernetes.cluster import Cluster, CommandError
from tests.support.kubernetes.pods import configuration, pod, pod_spec

SUBMITTER, DRIVER, EXECUTOR = "strongroom-submitter", "strongroom-driver", "strongroom-executor"
CHANGES = {"create", "get", "list", "watch", "delete", "patch"}
MAY = {
    SUBMITTER: {
        ("", "pods"): CHANGES,
        ("", "configmaps"): CHANGES,
        ("", "services"): CHANGES,
        ("", "pods/log"): {"get"},
        ("networking.k8s.io", "networkpolicies"): CHANGES,
    },
    DRIVER: {("", "pods"): CHANGES | {"deletecollection"}},
    EXECUTOR: {},
}
FORBIDDEN = r"(?i)forbidden"
EVERYBODYS = ("authentication.k8s.io", "authorization.k8s.io")
"""Groups in which every account may ask about itself."""


@dataclass(frozen=True, kw_only=True)
class Teams:
    """Two teams' namespaces, as the chart prepares them."""

    cluster: Cluster
    one: str
    other: str
    folder: Path
    _seen: dict[tuple[str, str], Cluster] = field(default_factory=dict)

    def acting_as(self, account: str, namespace: str) -> Cluster:
        """The cluster as one of a namespace's accounts sees it: with a real token, and no other right."""
        who = (account, namespace)
        if who not in self._seen:
            self._seen[who] = self._with_token_of(account, namespace)
        return self._seen[who]

    def _with_token_of(self, account: str, namespace: str) -> Cluster:
        token = self.cluster.kubectl("create", "token", account, f"--namespace={namespace}").strip()
        admin = json.loads(self.cluster.kubectl("config", "view", "--raw", "--flatten", "--minify", "--output=json"))
        admin["users"] = [{"name": account, "user": {"token": token}}]
        admin["contexts"][0]["context"]["user"] = account
        path = self.folder / f"{namespace}-{account}.kubeconfig"
        path.touch(mode=0o600)
        path.write_text(json.dumps(admin))
        return Cluster(kubeconfig=path, box=self.cluster.box, folder=self.cluster.folder)


@pytest.fixture(scope="module")
def teams(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Teams]:
    one, other, release = (cluster.new_namespace(name) for name in ("team-a", "team-b", "operator"))
    sets = (f"--set=runs.namespaces={{{one},{other}}}", f"--values={FOLDER / 'runs-only.site.yaml'}")
    cluster.helm("install", "teams", str(CHART), f"--namespace={release}", *sets, "--wait")
    yield Teams(cluster=cluster, one=one, other=other, folder=tmp_path_factory.mktemp("accounts"))
    cluster.helm("uninstall", "teams", f"--namespace={release}", "--wait")
    for name in (one, other, release):
        cluster.delete("namespace", name, wait=False)


def rules(seen: Cluster, namespace: str) -> dict[tuple[str, str], set[str]]:
    """What an account may do in a namespace, as the API server tells it itself."""
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace},
    }
    unvalidated = ("--validate=false", "--filename=-", "--output=json")  # kubectl would list the cluster's own kinds
    status = json.loads(seen.kubectl("create", *unvalidated, stdin=json.dumps(review)))["status"]
    assert not status["incomplete"]
    found: dict[tuple[str, str], set[str]] = {}
    for rule in status["resourceRules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                if group not in EVERYBODYS:
                    found.setdefault((group, resource), set()).update(rule["verbs"])
    return found


@pytest.mark.parametrize("account", MAY)
def test_an_account_may_do_exactly_what_it_is_for(teams: Teams, account: str) -> None:
    seen = teams.acting_as(account, teams.one)
    assert rules(seen, teams.one) == MAY[account]
    assert rules(seen, teams.other) == {}
    assert rules(seen, "kube-system") == {}


@pytest.mark.parametrize("account", MAY)
@pytest.mark.parametrize(
    "call",
    [
        ("get", "secrets"),
        ("create", "serviceaccount", "other"),
        ("create", "role", "other", "--verb=get", "--resource=secrets"),
        ("create", "token", "default"),
        ("get", "nodes"),
        ("get", "namespaces"),
    ],
    ids=" ".join,
)
def test_what_runs_do_not_need_is_refused(teams: Teams, account: str, call: tuple[str, ...]) -> None:
    with pytest.raises(CommandError, match=FORBIDDEN):
        teams.acting_as(account, teams.one).kubectl(*call, f"--namespace={teams.one}")


@pytest.mark.parametrize("account", MAY)
def test_nobody_reaches_into_another_teams_namespace(teams: Teams, account: str) -> None:
    seen = teams.acting_as(account, teams.one)
    for call in (("get", "pods"), ("get", "configmaps"), ("delete", "pods", "--all"), ("get", "services")):
        with pytest.raises(CommandError, match=FORBIDDEN):
            seen.kubectl(*call, f"--namespace={teams.other}")


def test_a_submitter_makes_what_a_run_needs_and_reads_its_log(teams: Teams, cluster: Cluster) -> None:
    seen = teams.acting_as(SUBMITTER, teams.one)
    image = cluster.pod_image()
    seen.create(configuration("run", teams.one, {"descriptor.json": "{}"}, immutable=True))
    seen.create(pod("run-driver", teams.one, pod_spec(image, "cat", "/proc/self/status")))
    assert cluster.ended("run-driver", teams.one) == "Succeeded"
    assert "CapEff" in seen.log("run-driver", teams.one)
    seen.kubectl("delete", "pod", "run-driver", f"--namespace={teams.one}")


def test_a_submitter_starts_nothing_inside_a_pod(teams: Teams, cluster: Cluster) -> None:
    seen = teams.acting_as(SUBMITTER, teams.one)
    seen.create(pod("run-entered", teams.one, pod_spec(cluster.pod_image(), "pause")))
    with pytest.raises(CommandError, match=FORBIDDEN):
        seen.kubectl("exec", "run-entered", f"--namespace={teams.one}", "--", "cat", "/proc/self/status")
    seen.kubectl("delete", "pod", "run-entered", "--wait=false", f"--namespace={teams.one}")


def test_a_driver_makes_executors_and_reads_no_configuration(teams: Teams, cluster: Cluster) -> None:
    seen = teams.acting_as(DRIVER, teams.one)
    executor = pod_spec(cluster.pod_image(), "pause", serviceAccountName=EXECUTOR)
    seen.create(pod("run-exec-1", teams.one, executor, labels={"spark-role": "executor"}))
    seen.kubectl("delete", "pods", "--selector=spark-role=executor", f"--namespace={teams.one}")
    for call in (("get", "configmaps"), ("get", "services"), ("get", "networkpolicies")):
        with pytest.raises(CommandError, match=FORBIDDEN):
            seen.kubectl(*call, f"--namespace={teams.one}")
    with pytest.raises(CommandError, match=FORBIDDEN):
        seen.create(configuration("own", teams.one, {}))


def test_an_executors_pod_gets_no_token(teams: Teams, cluster: Cluster) -> None:
    spec: dict[str, Any] = pod_spec(cluster.pod_image(), "pause", serviceAccountName=EXECUTOR)
    del spec["automountServiceAccountToken"]  # nothing but the account says so
    created = cluster.create(pod("run-exec-2", teams.one, spec))
    try:
        assert not [each for each in created["spec"].get("volumes", []) if "projected" in each]
    finally:
        cluster.delete("pod", "run-exec-2", teams.one, wait=False)


def test_a_driver_cannot_act_as_a_submitter(teams: Teams) -> None:
    seen = teams.acting_as(DRIVER, teams.one)
    whom = f"--as=system:serviceaccount:{teams.one}:{SUBMITTER}"
    with pytest.raises(CommandError, match=FORBIDDEN):
        seen.kubectl("get", "configmaps", f"--namespace={teams.one}", whom)
