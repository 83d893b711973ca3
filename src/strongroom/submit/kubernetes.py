"""A run on a Kubernetes cluster from the analyst's side: pack, sign, verify, render, start, follow (steps 1 to 3).

What is packed, signed and verified is the same as on one machine (`submit.run`); the application's digest too.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from strongroom.application.parts import package_parts
from strongroom.base.clock import Clock
from strongroom.base.errors import ConfigurationError, RefusedError, StrongroomError
from strongroom.base.workflow import Step
from strongroom.cluster.kubernetes.access import Access, open_access
from strongroom.cluster.kubernetes.client import KubernetesClient
from strongroom.cluster.kubernetes.documents import read_template
from strongroom.cluster.kubernetes.follow import RunFollower
from strongroom.cluster.kubernetes.names import RunNames
from strongroom.cluster.kubernetes.operators import prepared_files, write_prepared
from strongroom.cluster.kubernetes.render import Placement, Rendered, Start, render
from strongroom.cluster.kubernetes.settings import (
    DRIVER_TEMPLATE,
    DRIVER_TEMPLATE_CONTAINER,
    DYNAMIC,
    EXECUTOR_TEMPLATE,
    EXECUTOR_TEMPLATE_CONTAINER,
    MAX_EXECUTORS,
    NAMESPACE,
    WAIT,
    SortedSettings,
    check_images,
)
from strongroom.cluster.kubernetes.state import FinishedRun, Note
from strongroom.cluster.kubernetes.submission import start_run, stop_run
from strongroom.cluster.kubernetes.template import Manifest
from strongroom.cluster.shapes import Shape
from strongroom.crypto.keys import SigningKey
from strongroom.datasets.storage import write_file
from strongroom.engine.runtime import runtime_of_this_installation
from strongroom.submit.run import (
    TICKET_LIFETIME,
    Places,
    RunOutcome,
    SubmitEvent,
    SubmitRequest,
    load_trust,
    pack,
    service_addresses,
    sign_ticket,
    sizes_of,
    verify_parties,
)
from strongroom.submit.services import attesting_service
from strongroom.submit.vaults import vault_addresses
from strongroom.wire.azure_attestation import TrustedAzureAttestation
from strongroom.wire.events import Event, StepDone
from strongroom.wire.trust import Trust

DEFAULT_NAMESPACE: Final = "default"
"""As `spark-submit`'s."""
PENDING_S: Final = 300.0
_MOST_EXECUTORS: Final = 10_000
_SPARK_VERSION: Final = re.compile(r"^__version__[^=]*= ['\"]([0-9][^'\"]*)['\"]$", re.MULTILINE)
_NAMESPACE: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterRequest:
    """Where and how a run is to run.

    Attributes:
        master: `k8s://https://HOST:PORT` or `k8s://CONTEXT`.
        settings: The command line's settings, sorted.
        shape: Where the TEEs are on the cluster.
        allow_image_tag: Whether an image may be named by a tag.
        driver_cores: Cores that the driver's pod asks for; None for Spark's default.
        archive: A folder on the pods' storage that gets a copy of receipt and sealed output.
        pending_s: How long pods may wait for a node or their volumes; 0 for ever.
        ticket_lifetime: How long the run may be opened.
    """

    master: str
    settings: SortedSettings
    shape: Shape
    allow_image_tag: bool = False
    driver_cores: int | None = None
    archive: str | None = None
    pending_s: float = PENDING_S
    ticket_lifetime: timedelta = TICKET_LIFETIME

    @property
    def namespace(self) -> str:
        """The run's namespace."""
        return self.settings.access.get(NAMESPACE, DEFAULT_NAMESPACE)

    @property
    def waits(self) -> bool:
        """Whether the settings say to wait for the run's end."""
        return self.settings.ours.get(WAIT, "true") != "false"


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """A run that was started, or prepared.

    Attributes:
        names: Its names.
        namespace: Its namespace.
    """

    names: RunNames
    namespace: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Signed:
    """A run that may be opened, and where its results go on this machine."""

    rendered: Rendered
    run_id: str
    folder: Path


def submit_to_cluster(
    request: SubmitRequest,
    cluster: ClusterRequest,
    *,
    places: Places,
    submitter: SigningKey,
    on_event: Callable[[SubmitEvent], None],
    clock: Clock,
    wait: bool,
) -> RunOutcome | Submitted:
    """Run an application on a Kubernetes cluster, each pod in its own TEE.

    Args:
        request: What to run.
        cluster: Where, and how.
        places: Where things lie on this machine.
        submitter: The key that signs the ticket; the approvals name it.
        on_event: Called as steps end, and with what a person should read about pods.
        clock: The time.
        wait: Whether to follow the run to its end; without that, it goes on by itself.

    Returns:
        How the application ended; or, without waiting, what was started.

    Raises:
        StrongroomError: The run did not take place or could not be finished; the error names the step.
        KeyboardInterrupt: As it came; the run is stopped.
    """
    tell = _Teller(on_event)
    access = _access(cluster)
    client = KubernetesClient(access, namespace=cluster.namespace)
    try:
        signed = _sign(request, cluster, places=places, submitter=submitter, clock=clock, tell=tell, gated=True)
        start_run(
            signed.rendered,
            client=client,
            access=access,
            runtime=runtime_of_this_installation(),
            clock=clock,
            tell=lambda text: tell(Step.EXECUTORS, text),
        )
        names = signed.rendered.names
        if not wait:
            return Submitted(names=names, namespace=cluster.namespace)
        finished = _follow(client, names, request=request, cluster=cluster, on_event=on_event)
    finally:
        client.close()
    return keep_results(finished, run_id=signed.run_id, folder=signed.folder)


def prepare_for_cluster(
    request: SubmitRequest,
    cluster: ClusterRequest,
    *,
    places: Places,
    submitter: SigningKey,
    on_event: Callable[[SubmitEvent], None],
    clock: Clock,
    folder: Path,
) -> Submitted:
    """Write everything that starts a run into a folder, for those who submit it with something else.

    Raises:
        StrongroomError: It cannot be prepared; the error names the step.
    """
    signed = _sign(
        request,
        cluster,
        places=places,
        submitter=submitter,
        clock=clock,
        tell=_Teller(on_event),
        gated=False,
    )
    write_prepared(prepared_files(signed.rendered, spark_version=_spark_version()), folder=folder)
    return Submitted(names=signed.rendered.names, namespace=cluster.namespace)


def keep_results(finished: FinishedRun, *, run_id: str, folder: Path) -> RunOutcome:
    """Write what a run left behind into its folder, as a run on this machine does.

    Args:
        finished: What its driver's agent told and delivered.
        run_id: The run's id.
        folder: The run's folder.
    """
    for name, content in finished.files.items():
        write_file(folder / name, content)
    told = finished.finished
    return RunOutcome(
        run_id=run_id,
        status=told.status,
        receipt=folder / told.receipt,
        output=folder / told.output if told.output else None,
        lines=told.lines,
        replaced_executors=finished.replaced_executors,
    )


def check_attestation(request: SubmitRequest, shape: Shape, *, trust: Trust) -> None:
    """Refuse Azure Attestation for shapes of which it has no claims that count, before anything starts.

    Raises:
        RefusedError: They do not go together.
        ConfigurationError: The trust file names no such attestation service.
    """
    attestation = attesting_service(trust, request.attested_by)
    if isinstance(attestation, TrustedAzureAttestation) and shape.name in {"pod", "confidential-node"}:
        raise RefusedError(
            f"{attestation.url} does not say what is launched in TEEs of the shape {shape.name}",
            action="leave out --attested-by, so that Strongroom's attestation service appraises them; or run in SGX",
            step=Step.SUBMIT,
        )


def client_for(master: str, settings: SortedSettings) -> KubernetesClient:
    """Return a cluster, in the namespace that the settings name.

    Raises:
        StrongroomError: There is no such cluster, or there are no credentials for it.
    """
    namespace = _checked_namespace(settings.access.get(NAMESPACE, DEFAULT_NAMESPACE))
    return KubernetesClient(open_access(master, settings.access), namespace=namespace)


def check_shape(shape: Shape, *, trust: Trust) -> None:
    """Refuse simulated evidence where real hardware is trusted, and the reverse, before anything starts.

    Raises:
        RefusedError: They do not go together.
    """
    if (shape.name == "simulated") != (trust.hardware == "simulated"):
        raise RefusedError(
            f"the trust file is for {trust.hardware} hardware, and the shape of the run's TEEs is {shape.name}",
            action="name the shape that the cluster's TEEs have: --shape (docs/reference/shapes.md)",
            step=Step.SUBMIT,
        )


class _Teller:
    """Tells what this client did, and how long it took since the last time."""

    def __init__(self, on_event: Callable[[SubmitEvent], None]) -> None:
        self._on_event = on_event
        self._since_s = time.monotonic()

    def __call__(self, step: Step, detail: str) -> None:
        now_s = time.monotonic()
        elapsed_ms = round((now_s - self._since_s) * 1000)
        self._on_event(SubmitEvent(step=step, detail=detail, elapsed_ms=elapsed_ms, source="client"))
        self._since_s = now_s


def _access(cluster: ClusterRequest) -> Access:
    _checked_namespace(cluster.namespace)
    return open_access(cluster.master, cluster.settings.access)


def _checked_namespace(name: str) -> str:
    if not _NAMESPACE.fullmatch(name):
        raise ConfigurationError(f"{name!r} is no namespace's name", action="check it", step=Step.SUBMIT)
    return name


def _sign(
    request: SubmitRequest,
    cluster: ClusterRequest,
    *,
    places: Places,
    submitter: SigningKey,
    clock: Clock,
    tell: _Teller,
    gated: bool,
) -> _Signed:
    """Do steps 1 and 2: everything that can be refused here is refused before the cluster hears of the run."""
    settings = cluster.settings
    check_images({**settings.driver, **settings.pods}, allow_tags=cluster.allow_image_tag)
    request = _counted(request, cluster)
    placement = _placement(cluster)
    trust = load_trust(places.trust)
    check_shape(cluster.shape, trust=trust)
    check_attestation(request, cluster.shape, trust=trust)
    packed = pack(request, trust=trust, packages=places.packages)
    parts = package_parts(packed.folder)
    tell(Step.SUBMIT, f"application {packed.digest[:12]}… packed")
    try:
        verify_parties(request, trust, clock=clock)
        ticket, run_id = sign_ticket(
            request,
            packed,
            places=places,
            trust=trust,
            submitter=submitter,
            clock=clock,
            lifetime=cluster.ticket_lifetime,
        )
    except StrongroomError as error:
        raise error.at(Step.POLICY) from error.__cause__
    tell(Step.POLICY, f"services verified ({trust.hardware} hardware), run {run_id[:12]}… signed")
    attestation, keepers = service_addresses(request, trust, in_cluster=True)
    start = Start(
        run_id=run_id,
        application_name=packed.description.name,
        application=packed.digest,
        ticket=ticket,
        shape=cluster.shape,
        attestation_service=attestation,
        key_services=keepers,
        vaults=vault_addresses(request.vaults),
        storage={**request.datasets, **request.outputs},
        sizes=sizes_of(request),
    )
    rendered = render(start, placement, package=parts, gated=gated)
    folder = places.runs / run_id
    folder.mkdir(mode=0o700, parents=True)
    return _Signed(rendered=rendered, run_id=run_id, folder=folder)


def _placement(cluster: ClusterRequest) -> Placement:
    settings = cluster.settings
    if cluster.archive is not None and not cluster.archive.startswith("file:///"):
        raise ConfigurationError(
            f"{cluster.archive} is no folder of the pods'", action="name one: --archive /FOLDER", step=Step.SUBMIT
        )
    return Placement(
        namespace=_checked_namespace(cluster.namespace),
        driver=settings.driver,
        pods=settings.pods,
        driver_template=_template(settings.ours.get(DRIVER_TEMPLATE)),
        executor_template=_template(settings.ours.get(EXECUTOR_TEMPLATE)),
        driver_container=settings.ours.get(DRIVER_TEMPLATE_CONTAINER),
        executor_container=settings.ours.get(EXECUTOR_TEMPLATE_CONTAINER),
        driver_cores=cluster.driver_cores,
        archive=cluster.archive,
    )


def _template(place: str | None) -> Manifest | None:
    if place is None:
        return None
    parts = urlsplit(place)
    if parts.scheme not in {"", "file"}:
        raise ConfigurationError(
            f"{place} is not a file on this machine", action="download it, and name the file", step=Step.SUBMIT
        )
    return read_template(Path(parts.path if parts.scheme else place).expanduser())


def _counted(request: SubmitRequest, cluster: ClusterRequest) -> SubmitRequest:
    """Return the request with the number of executors that may join over the run.

    Where pods come and go, several may follow each other for each one that is wanted.
    """
    if request.max_executors is not None:
        return request
    most = request.executors
    if _is_dynamic(cluster):
        named = cluster.settings.pods.get(MAX_EXECUTORS, "")
        if not named.isdigit():
            raise ConfigurationError(
                "with dynamic allocation, a run's ticket must say how many executors there are at most",
                action=f"name it: --conf {MAX_EXECUTORS}=N",
                step=Step.SUBMIT,
            )
        most = 2 * max(int(named), request.executors)
    return replace(request, max_executors=min(2 * most + 4, _MOST_EXECUTORS))


def _is_dynamic(cluster: ClusterRequest) -> bool:
    return cluster.settings.pods.get(DYNAMIC) == "true"


def _follow(
    client: KubernetesClient,
    names: RunNames,
    *,
    request: SubmitRequest,
    cluster: ClusterRequest,
    on_event: Callable[[SubmitEvent], None],
) -> FinishedRun:
    """Follow a run that this client started; stop it when waiting for it is of no use, or when interrupted."""
    since_s = time.monotonic()

    def relay(source: str, event: Event) -> None:
        if isinstance(event, StepDone) and (step := Step.from_slug(event.step)) is not None:
            on_event(SubmitEvent(step=step, detail=event.detail, elapsed_ms=event.elapsed_ms, source=source))

    def note(told: Note) -> None:
        elapsed_ms = round((time.monotonic() - since_s) * 1000)
        on_event(SubmitEvent(step=Step.EXECUTORS, detail=told.text, elapsed_ms=elapsed_ms, source=told.source))

    follower = RunFollower(
        client,
        names,
        executors=None if _is_dynamic(cluster) else request.executors,
        on_event=relay,
        on_note=note,
        pending_s=cluster.pending_s,
        marks=True,
    )
    try:
        return follower.follow()
    except KeyboardInterrupt:
        stop_run(client, names)
        raise
    except StrongroomError:
        if follower.gave_up:  # otherwise it has ended, and its pod tells how; or the API is away, and it may go on
            stop_run(client, names)
        raise


def _spark_version() -> str:
    folder = runtime_of_this_installation().spark_home
    found = _SPARK_VERSION.search((folder / "version.py").read_text(encoding="utf-8"))
    if found is None:
        raise ConfigurationError("the installed pyspark does not say its version")
    return found[1]
