"""`strongroom runs`: what ran or runs, here or on a cluster, and what it printed."""

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from strongroom.base.errors import FormatError, NotFoundError, StrongroomError
from strongroom.base.workflow import Step
from strongroom.cli.commands.submit import line_of
from strongroom.cli.completion import complete_runs
from strongroom.cli.kubernetes import cluster_option, opened, required
from strongroom.cli.options import json_option, state_option
from strongroom.cli.owner_keys import load_recipient_key
from strongroom.cli.prefixes import find_by_prefix
from strongroom.cli.session import owner_client
from strongroom.cli.state import State, read_file
from strongroom.cli.terminal import examples, note, print_json, print_records, say
from strongroom.cluster.failures import error_of
from strongroom.cluster.kubernetes.client import KubernetesClient
from strongroom.cluster.kubernetes.follow import RunFollower
from strongroom.cluster.kubernetes.names import RunNames
from strongroom.cluster.kubernetes.runs import events_of, fetch_run, find_run, list_runs, pods_of, show_run
from strongroom.cluster.kubernetes.state import Note
from strongroom.cluster.kubernetes.submission import stop_run
from strongroom.crypto.jose import open_as_recipient
from strongroom.submit.kubernetes import keep_results
from strongroom.submit.run import SubmitEvent
from strongroom.wire.events import Event, Failed, Finished, StepDone, parse_event

_COLUMNS = {
    "run_id": "run",
    "opened_at": "opened",
    "outcome": "outcome",
    "application": "application",
    "members": "TEEs",
    "receipt": "receipt",
}
_CLUSTER_COLUMNS = {
    "run_id": "run",
    "application": "application",
    "state": "state",
    "step": "step",
    "executors": "executors",
    "submitted_at": "submitted",
    "why": "why",
}


@click.group()
def runs() -> None:
    """List, follow and stop runs, and read what an application printed."""


@runs.command(
    name="list",
    epilog=examples("strongroom runs list", "strongroom runs list --master k8s://prod --namespace analysts --json"),
)
@cluster_option
@json_option
@state_option
def list_runs_(
    *, master: str | None, namespace: str | None, conf: tuple[tuple[str, str], ...], as_json: bool, state: State
) -> None:
    """List the runs that the key service opened, as its owner; or those in a cluster's namespace, as the cluster says.

    Of a cluster: waiting, running, succeeded, failed, stopping; abandoned are those whose submitter died before they
    could start.
    """
    client = opened(master, namespace, conf)
    if client is not None:
        records = [run.record() for run in list_runs(client)]
        print_records(records, columns=_CLUSTER_COLUMNS, as_json=as_json)
        return
    records = [{**run, "receipt": _receipt(run["run_id"], state)} for run in owner_client(state).runs()["runs"]]
    print_records(records, columns=_COLUMNS, as_json=as_json)


@runs.command(
    epilog=examples("strongroom runs show 3f9c", "strongroom runs show 3f9c --master k8s://prod --namespace analysts")
)
@click.argument("run", shell_complete=complete_runs)
@cluster_option
@state_option
def show(
    *, run: str, master: str | None, namespace: str | None, conf: tuple[tuple[str, str], ...], state: State
) -> None:
    """Show what the key service knows of RUN (an id or its beginning), or what a cluster does, as JSON."""
    cluster = opened(master, namespace, conf)
    if cluster is not None:
        print_json(show_run(cluster, find_run(cluster, run)))
        return
    client = owner_client(state)
    found = find_by_prefix(run, {name: item["run"] for item in client.runs()["runs"] for name in _names(item)}, "run")
    print_json(client.run(found))


@runs.command(
    epilog=examples(
        "strongroom runs logs 3f9c", "strongroom runs logs 3f9c --follow --master k8s://prod --namespace analysts"
    )
)
@click.argument("run", shell_complete=complete_runs)
@click.option("--follow", "-f", is_flag=True, help="Go on until the run ends; Ctrl-C leaves it running.  [k8s]")
@cluster_option
@state_option
def logs(
    *,
    run: str,
    follow: bool,
    master: str | None,
    namespace: str | None,
    conf: tuple[tuple[str, str], ...],
    state: State,
) -> None:
    """Print what the agents of RUN told: its steps, and why it failed. What an application printed is not in it."""
    client = opened(master, namespace, conf)
    if client is None:
        if follow:
            raise click.UsageError("--follow needs a cluster: --master k8s://…")
        for source, event in _local_events(_folder_of(run, state)):
            _print_event(source, event)
        return
    names = find_run(client, run)
    if follow:
        _follow(client, names)
        return
    for source, pod in pods_of(client, names):
        try:
            for event in events_of(client, pod):
                _print_event(source, event)
        except StrongroomError as error:  # one pod without a log hides none of the others
            note(f"{source}: {error.message}")


@runs.command(epilog=examples("strongroom runs fetch 3f9c --master k8s://prod --namespace analysts"))
@click.argument("run", shell_complete=complete_runs)
@cluster_option
@state_option
def fetch(
    *, run: str, master: str | None, namespace: str | None, conf: tuple[tuple[str, str], ...], state: State
) -> None:
    """Bring receipt and sealed output of RUN from a cluster to this machine, as `submit` does when it waits.

    They are in the log of the driver's pod, as long as that is there. What holds them is verified by its digest; the
    receipt itself by `strongroom receipt verify`.
    """
    client = required(opened(master, namespace, conf))
    names = find_run(client, run)
    outcome = keep_results(fetch_run(client, names), run_id=names.run_id, folder=state.runs / names.run_id)
    say(f"run {outcome.run_id} ended with exit status {outcome.status}")
    if outcome.output is not None:
        say(f"{outcome.lines} lines of output, sealed to recipients: strongroom runs output {names.short}")
    say(f"receipt: {outcome.receipt}")


@runs.command(epilog=examples("strongroom runs stop 3f9c --master k8s://prod --namespace analysts"))
@click.argument("run", shell_complete=complete_runs)
@cluster_option
def stop(*, run: str, master: str | None, namespace: str | None, conf: tuple[tuple[str, str], ...]) -> None:
    """Stop RUN on a cluster, and delete everything of it there: pods, ConfigMaps, and the driver's log.

    Of a run that has ended, fetch the receipt first. A run on this machine ends with Ctrl-C where it was submitted.
    """
    client = required(opened(master, namespace, conf))
    names = find_run(client, run)
    stop_run(client, names)
    say(f"run {names.run_id}: its pods and ConfigMaps are deleted")


@runs.command(epilog=examples("strongroom runs output 3f9c", "strongroom runs output 3f9c --key recipient.key"))
@click.argument("run", shell_complete=complete_runs)
@click.option(
    "--key",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="A recipient's key.  [default: your own]",
)
@state_option
def output(*, run: str, key: Path | None, state: State) -> None:
    """Print what the application of RUN printed, if it was sealed to your key.

    Needs no service. The approvals of the run name who may read this (`approve --recipient`).
    """
    folder = _folder_of(run, state)
    sealed = sorted(folder.glob("*.output.jwe"))
    if not sealed:
        raise NotFoundError(
            f"run {folder.name} left no output for anybody: it printed nothing, or no approval names a recipient",
            action="name one in every approval of the next run: strongroom approve … --recipient KEYFILE",
        )
    recipient = load_recipient_key(key or state.recipient_key)
    sys.stdout.buffer.write(open_as_recipient(read_file(sealed[0], what="the sealed output"), key=recipient))


def _follow(client: KubernetesClient, names: RunNames) -> None:
    """Print what agents tell until the run ends; whoever only looks changes nothing."""
    follower = RunFollower(
        client,
        names,
        executors=None,
        on_event=_print_event,
        on_note=lambda told: say(line_of(_noted(told))),
        pending_s=0,
        marks=False,
    )
    finished = follower.follow()
    if finished.finished.status != 0:
        click.get_current_context().exit(1)


def _noted(told: Note) -> SubmitEvent:
    return SubmitEvent(step=Step.EXECUTORS, detail=told.text, elapsed_ms=0, source=told.source)


def _print_event(source: str, event: Event) -> None:
    match event:
        case StepDone() if (step := Step.from_slug(event.step)) is not None:
            say(line_of(SubmitEvent(step=step, detail=event.detail, elapsed_ms=event.elapsed_ms, source=source)))
        case Failed():
            error = error_of(event, source=source)
            step = error.step or Step.COMPUTE
            say(line_of(SubmitEvent(step=step, detail=f"failed: {event.message}", elapsed_ms=0, source=source)))
        case Finished():
            detail = f"ended with exit status {event.status}, {event.lines} lines of output"
            say(line_of(SubmitEvent(step=Step.WRITE, detail=detail, elapsed_ms=0, source=source)))
        case _:
            pass


def _local_events(folder: Path) -> Iterator[tuple[str, Event]]:
    """Yield what the agents of a run on this machine told, the driver's first."""
    files = sorted(folder.glob("*.events.jsonl"), key=lambda file: (not file.name.startswith("driver"), file.name))
    for file in files:
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                yield file.name.removesuffix(".events.jsonl"), parse_event(line)
            except FormatError:
                continue


def _folder_of(run: str, state: State) -> Path:
    folders = {folder.name: folder for folder in state.runs.iterdir()} if state.runs.is_dir() else {}
    return find_by_prefix(run, folders, "run")


def _receipt(run_id: str, state: State) -> str | None:
    """Return where a run's receipt lies, if it ran on this machine and was closed."""
    file = state.runs / run_id / f"{run_id}.receipt.json"
    return str(file) if file.is_file() else None


def _names(item: dict[str, str]) -> tuple[str, ...]:
    return (item["run"], item["run_id"])
