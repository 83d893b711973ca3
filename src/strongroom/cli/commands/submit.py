"""`strongroom submit`: run a PySpark application on protected data, with spark-submit's words."""

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click
from typing_extensions import override

from strongroom.base.clock import SystemClock
from strongroom.base.errors import RefusedError
from strongroom.base.workflow import Step
from strongroom.cli.applications import changes_since_packed
from strongroom.cli.bigdl import VARIABLES, translate
from strongroom.cli.kubernetes import (
    CLUSTER_PARAMETERS,
    LOCAL,
    check_master,
    cluster_options,
    cluster_request,
    place_in_pods,
    print_prepared,
    print_submitted,
    refuse_without_cluster,
)
from strongroom.cli.options import (
    PARTNER_OR_PROVIDER,
    FileList,
    Memory,
    Placed,
    PlacedDataset,
    Setting,
    VaultOf,
    VersionOf,
    state_option,
)
from strongroom.cli.owner_keys import load_signing_key
from strongroom.cli.state import State, inherited, location_of
from strongroom.cli.terminal import examples, following, note, printable, say
from strongroom.cli.vaults import read_vault_file
from strongroom.crypto.keys import SigningKey
from strongroom.simulation.server import socket_of
from strongroom.submit.kubernetes import ClusterRequest, Submitted, prepare_for_cluster, submit_to_cluster
from strongroom.submit.run import Places, RunOutcome, SubmitEvent, SubmitRequest, load_trust, pack
from strongroom.submit.run import submit as submit_run
from strongroom.wire.descriptor import DeviceSetting
from strongroom.wire.model import TEE_KINDS, TeeKind

_SIGNAL_BASE: Final = 128
_MEASURED: Final = "what runs must be measured before it runs: download it and give it with --py-files or --files"
_OWN_CLUSTER: Final = "Strongroom starts a cluster of attested processes for each run: leave it out"
_JAVA_CODE: Final = "only PySpark applications run yet: give Python code"
_IDENTITY: Final = "access is the owner's approval: see `strongroom approve`"

REFUSED: Final[Mapping[str, str]] = {
    "--jars": _JAVA_CODE,
    "--packages": _MEASURED,
    "--exclude-packages": _MEASURED,
    "--repositories": _MEASURED,
    "--class": _JAVA_CODE,
    "--driver-class-path": _JAVA_CODE,
    "--driver-library-path": _JAVA_CODE,
    "--driver-java-options": "options of Java could switch protection off: leave it out",
    "--properties-file": "name each setting with --conf, so that the owner approves it",
    "--total-executor-cores": "use --num-executors and --executor-cores",
    "--queue": _OWN_CLUSTER,
    "--remote": _OWN_CLUSTER,
    "--kill": "end a run with Ctrl-C where it was submitted",
    "--status": "see `strongroom runs show`",
    "--keytab": _IDENTITY,
    "--principal": _IDENTITY,
    "--proxy-user": _IDENTITY,
}
"""spark-submit's options that are not taken, and what to do instead."""
_REFUSED_FLAGS: Final[Mapping[str, str]] = {
    "--supervise": "a lost executor is replaced; a lost driver ends the run: leave it out",
    "--load-spark-defaults": "settings come from the command line only, so that the owner approves them",
    "--verbose": "every step is shown anyway: leave it out",
}


def application_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what `submit` and `app pack` have in common: spark-submit's options, SCRIPT and its arguments.

    The command receives `script`, `arguments`, and the options by name.
    """
    for decorate in reversed(_APPLICATION_OPTIONS):
        command = decorate(command)
    for name, action in reversed([*REFUSED.items(), *_REFUSED_FLAGS.items()]):
        option = click.option(
            name,
            name.strip("-").replace("-", "_"),
            expose_value=False,
            hidden=True,
            is_flag=name in _REFUSED_FLAGS,
            callback=_refuse(name, action),
        )
        command = option(command)
    return command


def request_of(  # noqa: PLR0913 - spark-submit has these options
    state: State,
    *,
    script: Path,
    arguments: tuple[str, ...],
    py_files: tuple[str, ...],
    files: tuple[str, ...],
    archives: tuple[str, ...],
    conf: tuple[tuple[str, str], ...],
    name: str | None,
    dataset: tuple[tuple[str, Placed], ...],
    output: tuple[tuple[str, Placed], ...],
    vault: tuple[tuple[str, Path], ...],
    read_versions: tuple[tuple[str, int], ...] = (),
    in_pods: bool = False,
    **sizes: Any,  # noqa: ANN401 - the rest goes on as it is
) -> SubmitRequest:
    """Return what a person asked for on the command line.

    Raises:
        click.UsageError: A setting or a dataset is given twice, or a vault or a version for no dataset.
        ConfigurationError: A location is of a kind that is not supported, or a vault's file cannot be read.
    """
    reads, writes = _once(dataset, "--dataset"), _once(output, "--output")
    vaults = {name: read_vault_file(place) for name, place in _once(vault, "--vault").items()}
    if strangers := sorted(vaults.keys() - {**reads, **writes}.keys()):
        raise click.UsageError(f"--vault {strangers[0]} is for no dataset of --dataset or --output")
    versions = _once(read_versions, "--read-version")
    if unread := versions.keys() - reads.keys():
        raise click.UsageError(f"--read-version {min(unread)} is of no dataset that is read")
    return SubmitRequest(
        script=script,
        arguments=arguments,
        py_files=py_files,
        files=files,
        archives=archives,
        settings=_once(conf, "--conf"),
        name=name,
        datasets=_locations(state, reads, in_pods=in_pods),
        outputs=_locations(state, writes, in_pods=in_pods),
        partners={name: each.partner for name, each in {**reads, **writes}.items() if each.partner},
        vaults=vaults,
        versions=versions,
        **sizes,
    )


def _locations(state: State, placed: Mapping[str, Placed], *, in_pods: bool) -> dict[str, str]:
    for name, each in placed.items():
        if each.partner and not each.location:
            whose = f"{name}@{each.partner}"
            raise click.UsageError(f"say where the ciphertext of {whose} lies: {whose}=LOCATION")
        if in_pods and not each.location:
            raise click.UsageError(f"say where pods see the ciphertext of {name}: {name}=LOCATION")
    if in_pods:
        return {name: place_in_pods(each.location or "", what=name) for name, each in placed.items()}
    return {name: location_of(each.location) if each.location else state.storage(name) for name, each in placed.items()}


def _once(pairs: tuple[tuple[str, Any], ...], option: str) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(name for name in found if [pair[0] for pair in pairs].count(name) > 1)
        raise click.UsageError(f"{option} {twice} is given twice")
    return found


def _refuse(name: str, action: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(context: click.Context, _option: click.Parameter, value: object) -> None:
        if value not in (None, False):
            raise click.UsageError(f"{name} is not supported: {action}", context)

    return callback


_APPLICATION_OPTIONS: Final[tuple[Callable[[Callable[..., Any]], Callable[..., Any]], ...]] = (
    click.argument("script", type=click.Path(path_type=Path)),
    click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[ARGS]..."),
    click.option("--dataset", multiple=True, type=PlacedDataset(), help="A dataset to read; repeatable."),
    click.option("--output", multiple=True, type=PlacedDataset(), help="A dataset to write; repeatable."),
    click.option("--vault", multiple=True, type=VaultOf(), help="The vault's key that a dataset is under; repeatable."),
    click.option("--py-files", default=(), type=FileList(), help="Python files and zips, comma-separated."),
    click.option("--files", default=(), type=FileList(), help="Files for the working folder, comma-separated."),
    click.option("--archives", default=(), type=FileList(), help="Archives to unpack, comma-separated."),
    click.option("--conf", "-c", multiple=True, type=Setting(), help="A Spark setting; repeatable."),
    click.option("--name", help="The application's name.  [default: the script's]"),
    click.option(
        "--attested-by",
        type=PARTNER_OR_PROVIDER,
        help="Who appraises the TEEs: a partner's attestation service, or Azure Attestation at URL.  [default: your "
        "own attestation service]",
    ),
)


class _Submit(click.Command):
    """`submit`, which reads another program's command line where that is asked for."""

    @override
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args[:2] == ["--compat", "bigdl"] or args[:1] == ["--compat=bigdl"]:
            rest = args[1:] if args[0] == "--compat=bigdl" else args[2:]
            args = translate(rest, variables=inherited(VARIABLES))
        return super().parse_args(ctx, args)


def _check_compat(_context: click.Context, _option: click.Parameter, value: str | None) -> None:
    if value is not None:
        raise click.UsageError("--compat comes first: strongroom submit --compat bigdl …")


@click.command(
    cls=_Submit,
    context_settings={"allow_interspersed_args": False},
    epilog=examples(
        "strongroom submit --num-executors 2 --executor-memory 2g \\",
        "    --dataset trips=/data/trips --output report=/data/report \\",
        "    report.py strongroom://trips strongroom://report",
        "strongroom submit --dataset trips --dataset visits@hospital=/data/visits --output joined \\",
        "    join.py strongroom://trips strongroom://visits strongroom://joined",
        "strongroom submit --master k8s://https://10.0.0.1:6443 --deploy-mode cluster --num-executors 3 \\",
        "    --conf spark.kubernetes.namespace=analysts --conf spark.kubernetes.container.image=IMAGE@sha256:DIGEST \\",
        "    --dataset trips=/data/trips count.py strongroom://trips",
        "strongroom submit --compat bigdl --master k8s://… --sgx-enabled true --sgx-driver-jvm-memory 2g … report.py",
        "strongroom submit --attested-by https://NAME.weu.attest.azure.net \\",
        "    --dataset trips --vault trips=trips.vault report.py strongroom://trips",
    )
    + "\n\nRefused, with what to do instead: "
    + ", ".join([*REFUSED, *_REFUSED_FLAGS])
    + ".",
)
@application_options
@click.option(
    "--master",
    callback=check_master,
    metavar="MASTER",
    help="local, or a cluster: k8s://https://HOST:PORT, k8s://CONTEXT.  [default: local]",
)
@cluster_options
@click.option(
    "--compat",
    type=click.Choice(["bigdl"]),
    expose_value=False,
    is_eager=True,
    callback=_check_compat,
    help="Take the command line of bigdl-ppml-submit.sh; comes first.",
)
@click.option(
    "--read-version",
    "read_versions",
    multiple=True,
    type=VersionOf(),
    help="A version to read, where a dataset's approval does not admit the newest; repeatable.  [default: the newest]",
)
@click.option("--num-executors", "executors", type=click.IntRange(1, 1000), default=1, show_default=True)
@click.option(
    "--max-executors",
    type=click.IntRange(1, 10_000),
    help="How many may join over the whole run, replacements included.  [default: a few more than are asked for]",
)
@click.option("--executor-memory", "executor_memory_mb", type=Memory(), default="1g", show_default=True)
@click.option("--executor-cores", type=click.IntRange(1, 1024), default=1, show_default=True)
@click.option("--driver-memory", "driver_memory_mb", type=Memory(), default="1g", show_default=True)
@click.option(
    "--key",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The submitter's key, which the approvals name.  [default: your own]",
)
@click.option(
    "--tee",
    type=click.Choice(TEE_KINDS),
    default="sgx",
    show_default=True,
    help="The kind of TEE that driver and executors are; the approvals must name it.",
)
@state_option
def submit(
    *,
    master: str,
    key: Path | None,
    tee: TeeKind,
    state: State,
    **options: Any,  # noqa: ANN401 - the options above
) -> RunOutcome | Submitted:
    """Run a PySpark application on protected data, as spark-submit would.

    Datasets are named strongroom://NAME in the script's arguments. Give --dataset NAME=LOCATION for each one that is
    read, --output NAME=LOCATION for each one that is written; without =LOCATION it lies in the state folder. A dataset
    of another owner is NAME@PARTNER=LOCATION, by what the trust file calls that owner (see: strongroom trust). All that
    follows SCRIPT is passed to it. Exits with the application's exit status.

    With --master k8s://… driver and executors are pods, made by Spark itself; --conf spark.kubernetes.* says where and
    how, locations are the pods', and what is marked [k8s] counts. One approval serves this machine and every cluster.
    """
    given = {name: options.pop(name) for name in CLUSTER_PARAMETERS}
    if master == LOCAL:
        refuse_without_cluster(given)
        request = request_of(state, **options)
        submitter = load_signing_key(key or state.submitter_key)
        outcome = _run_here(request, state=state, tee=tee, submitter=submitter)
    else:
        cluster = cluster_request(master, options["conf"], tee=tee, given=given)
        options["conf"] = tuple(cluster.settings.application.items())
        request = request_of(state, in_pods=True, **options)
        submitter = load_signing_key(key or state.submitter_key)
        started = _run_there(
            request,
            cluster,
            state=state,
            submitter=submitter,
            wait=cluster.waits if given["wait"] is None else given["wait"],
            folder=given["prepare_only"],
        )
        if isinstance(started, Submitted):
            return started
        outcome = started
    _print_outcome(outcome)
    if outcome.status != 0:
        click.get_current_context().exit(outcome.status if outcome.status > 0 else _SIGNAL_BASE - outcome.status)
    return outcome


def places_of(state: State, *, tee: TeeKind = "sgx") -> Places:
    """Return where a run's files lie in an installation, and what its simulated platform launches agents as."""
    device = DeviceSetting.from_object({"kind": f"simulated-{tee}", "socket": str(socket_of(state.platform))})
    return Places(trust=state.trust, packages=state.packages, runs=state.runs, device=device, seen_logs=state.seen_logs)


def line_of(event: SubmitEvent) -> str:
    """Return the line that says that a step ended: its number and name, where, how long it took, what was done."""
    step = f"{event.step.number} {event.step.slug}"
    # What agents and a cluster's API say is the host's word.
    source, detail = printable(event.source), printable(event.detail)
    return f"step {step:<11} {source:<11} {event.elapsed_ms / 1000:>7.2f} s  {detail}"


def _run_here(request: SubmitRequest, *, state: State, tee: TeeKind, submitter: SigningKey) -> RunOutcome:
    with _changes_shown(request, state), following("running; Ctrl-C stops everything") as tell:
        return submit_run(
            request,
            places=places_of(state, tee=tee),
            submitter=submitter,
            on_event=lambda event: tell(line_of(event)),
            clock=SystemClock(),
        )


def _run_there(
    request: SubmitRequest,
    cluster: ClusterRequest,
    *,
    state: State,
    submitter: SigningKey,
    wait: bool,
    folder: Path | None,
) -> RunOutcome | Submitted:
    """Run on a cluster; or prepare that in a folder."""
    if folder is not None:
        prepared = prepare_for_cluster(
            request,
            cluster,
            places=places_of(state),
            submitter=submitter,
            on_event=lambda event: say(line_of(event)),
            clock=SystemClock(),
            folder=folder,
        )
        print_prepared(prepared, folder=folder)
        return prepared
    with _changes_shown(request, state), following("running on the cluster; Ctrl-C stops the run") as tell:
        started = submit_to_cluster(
            request,
            cluster,
            places=places_of(state),
            submitter=submitter,
            on_event=lambda event: tell(line_of(event)),
            clock=SystemClock(),
            wait=wait,
        )
    if isinstance(started, Submitted):
        print_submitted(started, master=cluster.master)
    return started


@contextmanager
def _changes_shown(request: SubmitRequest, state: State) -> Iterator[None]:
    """Show an analyst whose application is not approved what is different from an earlier one, which perhaps was."""
    try:
        yield
    except RefusedError as error:
        if error.step is Step.RELEASE:
            _print_changes(request, state)
        raise


def _print_changes(request: SubmitRequest, state: State) -> None:
    packed = pack(request, trust=load_trust(state.trust), packages=state.packages)
    if changes := changes_since_packed(packed.description, state=state):
        note(f"Since an application called {packed.description.name} was last packed here, this changed:")
        for change in changes:
            note(f"  {change}")


def _how_it_ended(status: int) -> str:
    if status == 0:
        return "succeeded"
    if -status in {number.value for number in signal.Signals}:
        return f"was ended by {signal.Signals(-status).name}"
    return f"failed with exit status {status}"


def _print_outcome(outcome: RunOutcome) -> None:
    say(f"run {outcome.run_id} {_how_it_ended(outcome.status)}")
    if outcome.replaced_executors:
        say(f"executors that were lost and replaced: {outcome.replaced_executors}")
    if outcome.output is not None:
        say(f"{outcome.lines} lines of output, sealed to recipients: strongroom runs output {outcome.run_id[:12]}")
    elif outcome.lines:
        note(f"{outcome.lines} lines of output are lost: no recipient is named in every approval")
    say(f"receipt: {outcome.receipt}")
