"""A run from the analyst's side: pack, sign, verify, start, follow (steps 1 to 3)."""

import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final, Literal

from strongroom.application.description import ApplicationDescription, DatasetBinding
from strongroom.application.package import ApplicationSources
from strongroom.application.package import pack as pack_sources
from strongroom.base.clock import Clock, to_rfc3339
from strongroom.base.errors import ConfigurationError, NotFoundError, StrongroomError
from strongroom.base.workflow import Step
from strongroom.clients.owner import dataset_head
from strongroom.clients.statements import ServiceStatements
from strongroom.cluster.local import LocalCluster
from strongroom.crypto.jose import sign_jws
from strongroom.crypto.keys import SigningKey
from strongroom.crypto.random import random_id
from strongroom.submit.seen_logs import fetch_checkpoint
from strongroom.submit.services import (
    attesting_service,
    connect,
    party_named,
    trusted_service,
    verify_azure_attestation,
    verify_services,
)
from strongroom.submit.vaults import newest_number, vault_addresses, vault_identity
from strongroom.wire.azure_attestation import TrustedAzureAttestation
from strongroom.wire.descriptor import AttestationAddress, Descriptor, DeviceSetting, ServiceAddress, Sizes
from strongroom.wire.events import Event, StepDone
from strongroom.wire.ticket import TICKET_TYP, RunTicket
from strongroom.wire.trust import Trust, TrustedService
from strongroom.wire.vault_key import VaultAddress

TICKET_LIFETIME: Final = timedelta(days=1)
_REPLACEMENTS: Final = 4
_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a memory file system, each TEE's folder is private
_OVERHEAD_MB: Final = 600
_SCRATCH_MIN_MB: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitRequest:
    """What a person asked for, in spark-submit's words.

    Attributes:
        datasets: Location of each dataset that is read, by name.
        outputs: Location of each dataset that is written, by name.
        partners: For each dataset of another owner: what the trust file calls that owner.
        attested_by: Who appraises the TEEs: a partner's attestation service, by the partner's name, or Azure
            Attestation by the provider's address; None: one's own attestation service.
        vaults: How to use the vault's key of each dataset that is under one, by name.
        versions: The version to read of a dataset; of others the newest one.
        max_executors: How many executors may join over the whole run, replacements included; None for a few more than
            `executors`.
    """

    script: Path
    arguments: tuple[str, ...] = ()
    py_files: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    archives: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    name: str | None = None
    datasets: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    partners: Mapping[str, str] = field(default_factory=dict)
    attested_by: str | None = None
    vaults: Mapping[str, VaultAddress] = field(default_factory=dict)
    versions: Mapping[str, int] = field(default_factory=dict)
    executors: int = 1
    max_executors: int | None = None
    executor_memory_mb: int = 1024
    executor_cores: int = 1
    driver_memory_mb: int = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where things lie on the operator's side.

    Attributes:
        trust: The trust file.
        packages: Folder of packed applications.
        runs: Folder of runs.
        device: What quotes the TEEs of its runs.
        seen_logs: Where the newest checkpoint that was seen of each key service's log is kept.
    """

    trust: Path
    packages: Path
    runs: Path
    device: DeviceSetting
    seen_logs: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """A packed application."""

    digest: str
    description: ApplicationDescription
    folder: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitEvent:
    """A step that ended somewhere: in the client, the driver's TEE, or an executor's."""

    step: Step
    detail: str
    elapsed_ms: int
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutcome:
    """How a run ended.

    Attributes:
        status: The application's exit status; negative for a signal.
        receipt: The receipt's file.
        output: The application's output, sealed to the approved recipients; None where nobody is.
        lines: Lines it printed.
    """

    run_id: str
    status: int
    receipt: Path
    output: Path | None
    lines: int
    replaced_executors: int


def load_trust(path: Path) -> Trust:
    """Read a trust file.

    Raises:
        ConfigurationError: There is none.
        FormatError: It is not one.
    """
    try:
        return Trust.from_json(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(
            f"there is no trust file at {path}", action="start the services with: strongroom up", step=Step.POLICY
        ) from error


def pack(request: SubmitRequest, *, trust: Trust, packages: Path) -> Packed:
    """Pack an application: its files and its canonical description, in a folder named by the digest.

    Raises:
        StrongroomError: What may not be part of an application, by name (step 1).
    """
    pinned = {name: keeper.identity for name, keeper in _keepers(request, trust).items()}
    pinned |= {name: vault_identity(address) for name, address in request.vaults.items()}
    bindings = {
        **{name: _binding(pinned[name], "read") for name in request.datasets},
        **{name: _binding(pinned[name], "write") for name in request.outputs},
    }
    sources = ApplicationSources(
        script=str(request.script),
        arguments=request.arguments,
        py_files=request.py_files,
        files=request.files,
        archives=request.archives,
        settings=request.settings,
        environment=request.environment,
        name=request.name,
        datasets=bindings,
    )
    fresh = packages / f".{random_id()}"
    try:
        packages.mkdir(mode=0o700, parents=True, exist_ok=True)
        description = pack_sources(sources, output=fresh)
        folder = packages / description.digest
        if folder.exists():  # what lies there may have been changed since; it is not worth a comparison
            shutil.rmtree(folder)
        fresh.rename(folder)
    except StrongroomError as error:
        raise error.at(Step.SUBMIT) from error.__cause__
    return Packed(digest=description.digest, description=description, folder=folder)


def submit(
    request: SubmitRequest,
    *,
    places: Places,
    submitter: SigningKey,
    on_event: Callable[[SubmitEvent], None],
    clock: Clock,
) -> RunOutcome:
    """Run an application on this machine, each process in its own (simulated) TEE.

    Args:
        request: What to run.
        places: Where things lie.
        submitter: The key that signs the ticket; the approvals name it.
        on_event: Called as steps end.
        clock: The time.

    Returns:
        How the application ended, and where receipt and sealed output lie.

    Raises:
        StrongroomError: The run did not take place or could not be finished; the error names the step.
    """
    start = time.monotonic()

    def told(step: Step, detail: str) -> None:
        nonlocal start
        now = time.monotonic()
        on_event(SubmitEvent(step=step, detail=detail, elapsed_ms=round((now - start) * 1000), source="client"))
        start = now

    _check_machine(request)
    trust = load_trust(places.trust)
    packed = pack(request, trust=trust, packages=places.packages)
    told(Step.SUBMIT, f"application {packed.digest[:12]}… packed")
    try:
        verify_parties(request, trust, clock=clock)
        ticket, run_id = sign_ticket(request, packed, places=places, trust=trust, submitter=submitter, clock=clock)
    except StrongroomError as error:
        raise error.at(Step.POLICY) from error.__cause__
    told(Step.POLICY, f"services verified ({trust.hardware} hardware), run {run_id[:12]}… signed")
    folder = places.runs / run_id
    folder.mkdir(mode=0o700, parents=True)
    descriptor = _descriptor(request, packed, trust=trust, ticket=ticket, folder=folder, device=places.device)

    def relay(source: str, event: Event) -> None:
        if isinstance(event, StepDone) and (step := Step.from_slug(event.step)) is not None:
            on_event(SubmitEvent(step=step, detail=event.detail, elapsed_ms=event.elapsed_ms, source=source))

    cluster = LocalCluster(folder=folder, memory=_MEMORY, on_event=relay, max_executors=most_executors(request))
    outcome = cluster.run(descriptor, executors=request.executors)
    finished = outcome.finished
    return RunOutcome(
        run_id=run_id,
        status=finished.status,
        receipt=folder / finished.receipt,
        output=folder / finished.output if finished.output else None,
        lines=finished.lines,
        replaced_executors=outcome.replaced_executors,
    )


def _keepers(request: SubmitRequest, trust: Trust) -> dict[str, TrustedService]:
    """Return the key service of each dataset that is read or written, but for those whose key is in a vault.

    Raises:
        ConfigurationError: A partner is not in the trust file, or a party has no key service.
    """
    return {
        name: trusted_service(party_named(trust, request.partners.get(name)), "key-service")
        for name in (*request.datasets, *request.outputs)
        if name not in request.vaults
    }


def _binding(keeper: str, access: Literal["read", "write"]) -> DatasetBinding:
    return DatasetBinding(key_service=keeper, access=access, version=None)


def verify_parties(request: SubmitRequest, trust: Trust, *, clock: Clock) -> None:
    """Verify the services that the run needs, each with its own party's anchors.

    Raises:
        StrongroomError: One of them does not answer, or is not what was pinned.
    """
    attestation = attesting_service(trust, request.attested_by)
    needed = {keeper.identity for keeper in _keepers(request, trust).values()}
    if isinstance(attestation, TrustedAzureAttestation):
        verify_azure_attestation(attestation)
    else:
        needed.add(attestation.identity)
    for party in trust.parties():
        verify_services(party, clock=clock, only=needed)


def sign_ticket(
    request: SubmitRequest,
    packed: Packed,
    *,
    places: Places,
    trust: Trust,
    submitter: SigningKey,
    clock: Clock,
    lifetime: timedelta = TICKET_LIFETIME,
) -> tuple[str, str]:
    """Sign the ticket of one run, for the versions that are to be read.

    Args:
        request: What to run.
        packed: The application.
        places: Where what was seen of the key services' logs is kept.
        trust: The trust file.
        submitter: Who signs.
        clock: The time.
        lifetime: How long the run may be opened.

    Returns:
        The ticket, a JWS, and the run's id.

    Raises:
        NotFoundError: A dataset has no version to read.
        StrongroomError: A key service does not answer, or its log was tampered with.
    """
    keepers = _keepers(request, trust)
    services = {keeper.identity: (keeper, connect(keeper)) for keeper in keepers.values()}
    versions: dict[str, int | None] = {**dict.fromkeys(request.outputs), **request.versions}
    for name, location in request.datasets.items():
        if name in request.versions:
            continue
        if name in request.vaults:
            versions[name] = newest_number(name, location=location)
            continue
        identity = keepers[name].identity
        try:
            statements = ServiceStatements(identity=identity, now=clock.now, predecessors=keepers[name].predecessors)
            versions[name] = dataset_head(services[identity][1], statements=statements, name=name)[1].number
        except NotFoundError as error:
            raise NotFoundError(
                f"dataset {name} has no version to read",
                action=f"encrypt it first: strongroom dataset encrypt {name} FILES",
            ) from error
    checkpoints = {
        identity: fetch_checkpoint(keeper, http, file=places.seen_logs) for identity, (keeper, http) in services.items()
    }
    run_id = random_id()
    ticket = RunTicket(
        run_id=run_id,
        application=packed.digest,
        datasets=versions,
        max_executors=most_executors(request),
        not_after=to_rfc3339(clock.now() + lifetime),
        submitter=submitter.verifying_key.thumbprint,
        checkpoints=checkpoints,
    )
    header = {"typ": TICKET_TYP, "jwk": submitter.verifying_key.to_jwk()}
    return sign_jws(ticket.to_json(), key=submitter, header=header), run_id


def most_executors(request: SubmitRequest) -> int:
    """Return how many executors may join over the whole run, replacements included."""
    return request.max_executors or request.executors + _REPLACEMENTS


def service_addresses(
    request: SubmitRequest, trust: Trust, *, in_cluster: bool
) -> tuple[AttestationAddress, dict[str, ServiceAddress]]:
    """Return where agents reach the attestation service, ours or Azure's, and the key services by their identities.

    Args:
        request: What to run.
        trust: The trust file.
        in_cluster: Whether the agents are in the services' cluster; otherwise they are where this client is.
    """

    def address(service: TrustedService) -> ServiceAddress:
        url = service.own_url if in_cluster else service.url
        return ServiceAddress(url=url, certificate_pem=service.certificate_pem)

    attestation = attesting_service(trust, request.attested_by)
    keepers = {keeper.identity: address(keeper) for keeper in _keepers(request, trust).values()}
    return attestation.address if isinstance(attestation, TrustedAzureAttestation) else address(attestation), keepers


def sizes_of(request: SubmitRequest) -> Sizes:
    """Return the sizes of the run's TEEs."""
    return Sizes(
        driver_memory_mb=request.driver_memory_mb,
        executor_memory_mb=request.executor_memory_mb,
        executor_cores=request.executor_cores,
        executors=request.executors,
    )


def _descriptor(
    request: SubmitRequest, packed: Packed, *, trust: Trust, ticket: str, folder: Path, device: DeviceSetting
) -> Descriptor:
    attestation, keepers = service_addresses(request, trust, in_cluster=False)
    return Descriptor(
        role="driver",
        application=packed.digest,
        ticket=ticket,
        device=device,
        package=str(packed.folder),
        scratch="",
        attestation_service=attestation,
        key_services=keepers,
        vaults=vault_addresses(request.vaults),
        storage={**request.datasets, **request.outputs},
        sizes=sizes_of(request),
        host="127.0.0.1",
        report="",
        output=str(folder),
    )


def _check_machine(request: SubmitRequest) -> None:
    """Refuse early what would fail late: no memory file system, too little memory."""
    if os.uname().sysname != "Linux" or not _MEMORY.is_dir():
        raise ConfigurationError(
            "this machine is not supported: Linux with /dev/shm on a memory file system is needed", step=Step.SUBMIT
        )
    wanted_mb = request.driver_memory_mb + request.executors * request.executor_memory_mb + _OVERHEAD_MB
    available_mb = _available_memory_mb()
    free_mb = shutil.disk_usage(_MEMORY).free >> 20
    if wanted_mb > available_mb:
        raise ConfigurationError(
            f"the run asks for {wanted_mb} MiB of memory, {available_mb} MiB are available",
            action="lower --driver-memory, --executor-memory or --num-executors",
            step=Step.SUBMIT,
        )
    if free_mb < _SCRATCH_MIN_MB:
        raise ConfigurationError(
            f"{_MEMORY} has {free_mb} MiB left; the TEEs' scratch needs {_SCRATCH_MIN_MB}",
            action=f"free space in {_MEMORY}",
            step=Step.SUBMIT,
        )


def _available_memory_mb() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) >> 10
    return 0
