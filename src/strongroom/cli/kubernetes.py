"""Options and words of the commands that work with a Kubernetes cluster."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from strongroom.cli.options import Duration, Setting
from strongroom.cli.shapes import read_shape_options
from strongroom.cli.terminal import say
from strongroom.cluster.kubernetes.client import KubernetesClient
from strongroom.cluster.kubernetes.operators import APACHE_FILE, KUBEFLOW_FILE, OBJECTS_FILE
from strongroom.cluster.kubernetes.settings import NAMESPACE, SortedSettings, sort_settings
from strongroom.cluster.shapes import SHAPES, Shape, parse_shape
from strongroom.submit.kubernetes import PENDING_S, ClusterRequest, Submitted, client_for
from strongroom.wire.model import TeeKind

_Command = TypeVar("_Command", bound=Callable[..., Any])

LOCAL: Final = "local"
KUBERNETES: Final = "k8s://"
SIMULATED: Final = "simulated"
_ONE_DAY_S: Final = 24 * 3600
_OPTIONS: Final[tuple[Callable[[Callable[..., Any]], Callable[..., Any]], ...]] = (
    click.option(
        "--deploy-mode",
        type=click.Choice(["cluster", "client"]),
        help="cluster: the driver is a pod too, in a TEE; client is refused.  [k8s; default: cluster]",
    ),
    click.option("--driver-cores", type=click.IntRange(1, 1024), help="Cores of the driver's pod.  [k8s; default: 1]"),
    click.option(
        "--wait/--no-wait",
        "wait",
        default=None,
        help="Follow the run to its end, and stop it with Ctrl-C; or start it and return.  [k8s; default: wait]",
    ),
    click.option(
        "--prepare-only",
        type=click.Path(file_okay=False, path_type=Path),
        metavar="DIR",
        help="Write what starts the run into DIR and start nothing: for kubectl, GitOps, Spark operators.  [k8s]",
    ),
    click.option(
        "--archive",
        metavar="FOLDER",
        help="A folder, as pods see it, that gets a copy of receipt and sealed output.  [k8s]",
    ),
    click.option(
        "--pending-timeout",
        "pending_s",
        type=Duration(),
        help=f"How long pods may wait for a node or volumes; 0 for ever.  [k8s; default: {PENDING_S / 60:.0f}m]",
    ),
    click.option(
        "--ticket-lifetime",
        "ticket_s",
        type=Duration(),
        help="How long the run may be opened: for queues.  [k8s; default: 1d]",
    ),
    click.option(
        "--shape",
        type=click.Choice(list(SHAPES)),
        help="Where the TEEs are on the cluster: docs/reference/shapes.md.  [k8s; default: simulated]",
    ),
    click.option(
        "--shape-option",
        "shape_options",
        metavar="NAME=VALUE",
        multiple=True,
        help="An option of the shape; repeatable.  [k8s]",
    ),
    click.option(
        "--allow-image-tag", is_flag=True, help="Let an image be named by a tag, not only by its digest.  [k8s]"
    ),
)


def cluster_options(command: _Command) -> _Command:
    """Add what `submit` takes with a cluster alone; what is not given arrives as None."""
    for decorate in reversed(_OPTIONS):
        command = decorate(command)
    return command


CLUSTER_PARAMETERS: Final = (
    *("deploy_mode", "driver_cores", "wait", "prepare_only", "archive", "pending_s", "ticket_s", "shape"),
    "shape_options",
    "allow_image_tag",
)


def check_master(_context: click.Context, _option: click.Parameter, value: str | None) -> str:
    """Refuse masters that are neither this machine nor a Kubernetes cluster."""
    if value is None or value == LOCAL:
        return LOCAL
    if value.startswith(KUBERNETES) and len(value) > len(KUBERNETES):
        return value
    raise click.UsageError(
        f"--master {value} is not supported: give k8s://https://HOST:PORT or k8s://CONTEXT, or leave it out for this"
        " machine, where Strongroom starts a cluster of attested processes for each run; see --num-executors"
    )


def refuse_without_cluster(given: Mapping[str, Any]) -> None:
    """Refuse options that only a cluster understands.

    Args:
        given: The cluster's options by their parameters' names (`CLUSTER_PARAMETERS`).

    Raises:
        click.UsageError: One of them is given.
    """
    names = {
        "wait": "--wait and --no-wait",
        "pending_s": "--pending-timeout",
        "ticket_s": "--ticket-lifetime",
        "shape_options": "--shape-option",
    }
    for parameter, value in given.items():
        if value not in (None, False, ()) or (parameter == "wait" and value is not None):
            option = names.get(parameter, f"--{parameter.replace('_', '-')}")
            raise click.UsageError(f"{option} needs a cluster: --master k8s://…")


def cluster_request(
    master: str, conf: tuple[tuple[str, str], ...], *, tee: TeeKind, given: Mapping[str, Any]
) -> ClusterRequest:
    """Return where and how a run is to run.

    Args:
        master: As `check_master` let it pass.
        conf: The command line's settings.
        tee: The kind of TEE that the simulated platform launches.
        given: The cluster's options by their parameters' names.

    Raises:
        click.UsageError: The driver is not to be a pod, or a setting is given twice.
        RefusedError: A setting is not taken.
    """
    if given["deploy_mode"] == "client":
        raise click.UsageError("--deploy-mode client is not supported: the driver needs a TEE of the cluster's")
    archive = given["archive"]
    return ClusterRequest(
        master=master,
        settings=sorted_settings(conf),
        shape=_shape(given["shape"] or SIMULATED, given["shape_options"], tee=tee),
        allow_image_tag=given["allow_image_tag"],
        driver_cores=given["driver_cores"],
        archive=None if archive is None else place_in_pods(archive, what="--archive"),
        pending_s=PENDING_S if given["pending_s"] is None else given["pending_s"],
        ticket_lifetime=timedelta(seconds=_ONE_DAY_S if given["ticket_s"] is None else given["ticket_s"]),
    )


def _shape(name: str, options: tuple[str, ...], *, tee: TeeKind) -> Shape:
    """Return where the TEEs are. `--tee` says as what the simulated platform launches them, as on one machine."""
    named = read_shape_options(options)
    return parse_shape(name, {"tee": tee, **named} if name == SIMULATED else named)


def sorted_settings(conf: tuple[tuple[str, str], ...]) -> SortedSettings:
    """Return settings, sorted by whom they are for."""
    found = dict(conf)
    if len(found) != len(conf):
        twice = next(name for name in found if [pair[0] for pair in conf].count(name) > 1)
        raise click.UsageError(f"--conf {twice} is given twice")
    return sort_settings(found)


def place_in_pods(text: str, *, what: str) -> str:
    """Return a location as pods see it: an absolute path or a URI; nothing on this machine is looked at.

    Raises:
        click.UsageError: A path that is not absolute.
    """
    if "://" in text:
        return text
    if not text.startswith("/"):
        raise click.UsageError(f"{what} {text}: give the folder as the pods see it, from /")
    return Path(text).as_uri()


def cluster_option(command: _Command) -> _Command:
    """Add `--master`, `--namespace` and `--conf`, which name a cluster (`opened`)."""
    decorators = (
        click.option(
            "--master",
            callback=_optional_master,
            help="The cluster: k8s://https://HOST:PORT or k8s://CONTEXT.  [default: this installation]",
        ),
        click.option("--namespace", help="The runs' namespace.  [k8s; default: default]"),
        click.option(
            "--conf",
            "-c",
            multiple=True,
            type=Setting(),
            help="How to reach the cluster: spark.kubernetes.authenticate.submission.*; repeatable.  [k8s]",
        ),
    )
    for decorate in reversed(decorators):
        command = decorate(command)
    return command


def opened(master: str | None, namespace: str | None, conf: tuple[tuple[str, str], ...]) -> KubernetesClient | None:
    """Return the cluster that a command line names, if it names one.

    Raises:
        click.UsageError: Options for a cluster, and none is named.
        StrongroomError: There is no such cluster, or there are no credentials for it.
    """
    if master is None:
        if namespace is not None or conf:
            raise click.UsageError("--namespace and --conf need a cluster: --master k8s://…")
        return None
    named = () if namespace is None else ((NAMESPACE, namespace),)
    return client_for(master, sorted_settings((*conf, *named)))


def required(client: KubernetesClient | None) -> KubernetesClient:
    """Return the cluster; without one, the command line is refused."""
    if client is None:
        raise click.UsageError("name the cluster: --master k8s://https://HOST:PORT or k8s://CONTEXT")
    return client


def print_submitted(submitted: Submitted, *, master: str) -> None:
    """Say how to go on with a run that was started and is not followed."""
    run, place = submitted.names.short, f"--master {master} --namespace {submitted.namespace}"
    say(f"run {submitted.names.run_id} started in namespace {submitted.namespace}")
    say(f"follow it: strongroom runs logs {run} --follow {place}")
    say(f"fetch receipt and sealed output: strongroom runs fetch {run} {place}")
    say(f"stop it: strongroom runs stop {run} {place}")


def print_prepared(submitted: Submitted, *, folder: Path) -> None:
    """Say how to start a run that was prepared."""
    say(f"run {submitted.names.run_id} prepared in {folder}; start it once, with one of these:")
    objects = f"kubectl apply -f {folder / OBJECTS_FILE}"
    say(f"  {objects} && kubectl apply -f {folder / KUBEFLOW_FILE}   (Kubeflow's Spark operator)")
    say(f"  {objects} && kubectl apply -f {folder / APACHE_FILE}     (Apache's Spark operator)")
    say(f"remove what is left of it: strongroom runs stop {submitted.names.short} --master k8s://…")


def _optional_master(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    master = check_master(context, option, value)
    return None if master == LOCAL else master
