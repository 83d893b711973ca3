"""Runs whose objects are edited on their way to the cluster, as its control plane could."""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias
from unittest.mock import patch

from tests.support.installation import Submission
from tests.support.kubernetes.runs import Team
from tests.support.kubernetes.spark_client import SparkClient, java_address

from strongroom.base.clock import SystemClock
from strongroom.cli.commands.submit import places_of, request_of
from strongroom.cli.commands.submit import submit as submit_command
from strongroom.cli.kubernetes import CLUSTER_PARAMETERS, cluster_request
from strongroom.cli.owner_keys import load_signing_key
from strongroom.cluster.kubernetes import spark_submit
from strongroom.cluster.kubernetes.access import Access, open_access
from strongroom.cluster.kubernetes.client import KubernetesClient
from strongroom.cluster.kubernetes.render import Rendered
from strongroom.cluster.kubernetes.submission import start_run
from strongroom.engine.runtime import runtime_of_this_installation
from strongroom.submit.kubernetes import _sign, _Teller
from strongroom.wire.pod import DESCRIPTOR_NAME

Edit: TypeAlias = Callable[[Rendered], Rendered]
_WRAPPED: Final = (
    "import sys, runpy; sys.argv = ['agent', '--pod', '{}']; runpy.run_module('strongroom.agent', run_name='__main__')"
)


@dataclass(frozen=True, kw_only=True)
class Attacked:
    """A run whose objects were edited on their way.

    Attributes:
        rendered: What was sent.
        phase: How the driver's pod ended.
        log: What its agent told.
    """

    rendered: Rendered
    phase: str
    log: str

    @property
    def run(self) -> str:
        return self.rendered.names.run_id

    def failure(self) -> dict[str, Any]:
        """The agent's refusal."""
        events = [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]
        found = [event for event in events if event.get("event") == "failed"]
        assert found, self.log[-2000:]
        return found[-1]


def signed(team: Team, submission: Submission, **settings: str) -> tuple[Rendered, KubernetesClient, Access]:
    """A run that is packed, signed and rendered, and not sent; with the administrator's own connection."""
    there = team.located(submission)
    words = [*team.access(), *team.placement(**settings), *there.sizes, *there.command_line()]
    options = dict(submit_command.make_context("submit", ["--state", str(team.state.root), *words]).params)
    given = {name: options.pop(name) for name in CLUSTER_PARAMETERS}
    cluster = cluster_request(options.pop("master"), options["conf"], tee=options.pop("tee"), given=given)
    options["conf"] = tuple(cluster.settings.application.items())
    del options["key"], options["state"]
    run = _sign(
        request_of(team.state, in_pods=True, **options),
        cluster,
        places=places_of(team.state),
        submitter=load_signing_key(team.state.submitter_key),
        clock=SystemClock(),
        tell=_Teller(lambda _event: None),
        gated=True,
    )
    access = open_access(cluster.master, cluster.settings.access)
    return run.rendered, KubernetesClient(access, namespace=team.runs), access


def sent(team: Team, rendered: Rendered, client: KubernetesClient, access: Access) -> Attacked:
    """Have the cluster start a run, as its submitter does, and wait for its driver's end."""
    runtime = runtime_of_this_installation()
    with patch.object(spark_submit, "_run", SparkClient(java_address(runtime)).run):
        start_run(
            rendered,
            client=client,
            access=access,
            runtime=runtime,
            clock=SystemClock(),
            tell=lambda _text: None,
        )
    name = rendered.names.driver_pod
    return Attacked(
        rendered=rendered,
        phase=team.cluster.ended(name, team.runs, timeout_s=300),
        log=team.cluster.log(name, team.runs),
    )


def attacked(team: Team, submission: Submission, edit: Edit, **settings: str) -> Attacked:
    """Start a run whose objects were edited on their way, and wait for its driver's end."""
    rendered, client, access = signed(team, submission, **settings)
    try:
        return sent(team, edit(rendered), client, access)
    finally:
        client.close()


def template(change: Callable[[dict[str, Any]], None]) -> Edit:
    """An edit of the driver's pod."""

    def edit(rendered: Rendered) -> Rendered:
        edited = copy.deepcopy(rendered.driver_template)
        change(edited)
        return replace(rendered, driver_template=edited)

    return edit


def descriptor(change: Callable[[dict[str, Any]], None]) -> Edit:
    """An edit of the descriptor in its ConfigMap."""

    def edit(rendered: Rendered) -> Rendered:
        first, *others = copy.deepcopy(rendered.config_maps)
        document = json.loads(first["data"][DESCRIPTOR_NAME])
        change(document)
        first["data"][DESCRIPTOR_NAME] = json.dumps(document)
        return replace(rendered, config_maps=(first, *others))

    return edit


def executors(change: Callable[[dict[str, Any]], None]) -> Edit:
    """An edit of the executors' pods."""

    def changed(document: dict[str, Any]) -> None:
        inner = json.loads(document["executor_template"])
        change(inner)
        document["executor_template"] = json.dumps(inner)

    return descriptor(changed)


def wrapped(role: str) -> list[str]:
    """A container's command: code of an attacker's that runs the agent inside itself, to read its memory."""
    return ["/opt/strongroom/venv/bin/python", "-c", _WRAPPED.format(role)]


def container_of(pod: dict[str, Any]) -> dict[str, Any]:
    """The one container of a pod."""
    (container,) = pod["spec"]["containers"]
    return container


def opened_runs(team: Team) -> set[str]:
    """The runs that the key service gave any key to."""
    return {run["run_id"] for run in team.owner().runs()["runs"]}


def assert_refused(team: Team, run: Attacked, *codes: str) -> None:
    """Check that the driver's agent gave up, and that the key service never opened the run."""
    assert run.phase == "Failed", run.log[-2000:]
    assert run.failure()["code"] in codes, run.failure()
    assert run.run not in opened_runs(team)
