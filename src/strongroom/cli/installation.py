"""An installation on one machine, for people who want to try: simulated platform, both services, one owner.

What runs here is the owner's and the operator's side at once; the state folder keeps the two apart.
"""

import contextlib
import os
import platform as machine
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from strongroom.attestation.evidence.simulated import entry_command
from strongroom.base.clock import Clock
from strongroom.base.encoding import parse_json_object
from strongroom.base.errors import ConfigurationError, FormatError
from strongroom.cli.clusters import read_clusters
from strongroom.cli.owner_keys import load_signing_key, make_owner_keys
from strongroom.cli.people import owner_thumbprints, read_people
from strongroom.cli.pinning import pinned_attestation_service, pinned_key_service
from strongroom.cli.policies import register_default_policy
from strongroom.cli.processes import ProcessRecord, Program, read_table, start, stop, write_table
from strongroom.cli.rotations import former_owners
from strongroom.cli.state import State, read_file
from strongroom.cli.witnesses import read_choice
from strongroom.crypto.random import random_bytes
from strongroom.crypto.x509 import parse_pem_chain, to_pem
from strongroom.datasets.storage import write_file
from strongroom.services import attestation_service, key_service
from strongroom.services.attestation_service import AttestationServiceConfig
from strongroom.services.endorsement_sources import FolderSettings
from strongroom.services.evidence import PlatformSettings
from strongroom.services.files import prepare_folder
from strongroom.services.identity import open_identity
from strongroom.services.issuers import AttestationServiceSettings
from strongroom.services.key_service import KeyServiceSettings
from strongroom.services.people import PeopleSettings
from strongroom.simulation.server import endorsements_of, expected_measurement, socket_of
from strongroom.submit.services import verify_services
from strongroom.wire.model import TeeKind
from strongroom.wire.trust import Partner, Trust, TrustedRootEntry, TrustedService

_HOST: Final = "127.0.0.1"
_GIVEN_AWAY: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_FIRST_PORT: Final = 20_000
_TRIES: Final = 100
_PLATFORM: Final = "simulated-platform"
_CONFIG: Final = "config.json"
_MACHINES: Final = frozenset({"x86_64", "aarch64"})


@dataclass(frozen=True, slots=True, kw_only=True)
class BroughtUp:
    """What `bring_up` did.

    Attributes:
        trust: What is in the trust file now.
        processes: Everything that runs.
        started: Names of what was not running before.
        notes: What the person should know.
    """

    trust: Trust
    processes: tuple[ProcessRecord, ...]
    started: tuple[str, ...]
    notes: tuple[str, ...]


def bring_up(state: State, *, clock: Clock, tell: Callable[[str], None]) -> BroughtUp:
    """Start what does not run yet; write the trust file; register the default evidence policy if there is none.

    1. Make the owner's keys, if there are none.
    2. Start the simulated platform, and ask it what our software measures: the owner's reference values.
    3. Write each service's configuration and start it; keep it if it runs with this very configuration.
    4. Write the trust file, from the configurations and the reference values, never from what a service says.
    5. Verify both services against it, as every client will.
    6. Register the default evidence policy, if none is registered.
    If a step fails, what this call started is stopped again.

    Args:
        state: The installation.
        clock: The time.
        tell: Told in a few words what is being done.

    Raises:
        ConfigurationError: This system is not supported, a port is taken, or the folder cannot be used.
        UnavailableError: A process did not start.
        RefusedError: A service is not what the trust file says.
    """
    require_supported_system()
    if state.kubernetes.exists():
        raise ConfigurationError(
            "the services of this installation run on Kubernetes",
            action="choose another folder with --state; to write its trust file anew: strongroom chart trust",
        )
    if not state.owner_key.exists():  # 1
        make_owner_keys(state)
    before = _read_trust(state)
    run = _Running(state=state, clock=clock, tell=tell)
    with ExitStack() as undo:
        undo.callback(run.stop_started)
        _start_platform(state, run)  # 2
        trust = _configure_and_start(state, run, before=before, clock=clock)  # 3
        if trust != before:
            write_file(state.trust, trust.to_json())  # 4
        tell("verifying the services")
        verify_services(trust, clock=clock)  # 5
        undo.pop_all()
    owner = load_signing_key(state.owner_key)
    notes = register_default_policy(trust, before=before, key=owner, clock=clock)  # 6
    return BroughtUp(trust=trust, processes=tuple(run.records.values()), started=tuple(run.started), notes=notes)


def take_down(state: State) -> tuple[str, ...]:
    """Stop exactly the processes that `bring_up` started, the last one first.

    Returns:
        The names of those that were running.
    """
    records = read_table(state.processes)
    stopped = tuple(record.name for record in reversed(records) if stop(record))
    write_table(state.processes, ())
    return stopped


def require_supported_system() -> None:
    """Refuse systems that nothing of this works on.

    Raises:
        ConfigurationError: Not Linux on x86-64 or ARM64 with a memory file system.
    """
    if sys.platform != "linux" or machine.machine() not in _MACHINES or not hasattr(os, "pidfd_open"):
        raise ConfigurationError(
            f"{machine.system()} on {machine.machine()} is not supported",
            action="use Linux (kernel 5.4 or newer) on x86-64 or ARM64",
        )


@dataclass(slots=True, kw_only=True)
class _Running:
    """The processes of the installation while `bring_up` works; its table on disk is always up to date."""

    state: State
    clock: Clock
    tell: Callable[[str], None]
    records: dict[str, ProcessRecord] = field(init=False)
    started: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        found = read_table(self.state.processes)
        self.records = {record.name: record for record in found if record.is_running}

    def start(self, name: str, command: list[str], *, url: str) -> None:
        """Start a process, in the place of one of this name that runs."""
        self.tell(f"starting the {name.replace('-', ' ')}")
        if name in self.records:
            stop(self.records.pop(name))
        program = Program(name=name, command=command, url=url, log=self.state.logs / f"{name}.log")
        self.records[name] = start(program, clock=self.clock)
        self.started.append(name)
        write_table(self.state.processes, tuple(self.records.values()))

    def stop_started(self) -> None:
        """Stop what was started here."""
        for name in reversed(self.started):
            stop(self.records.pop(name))
        write_table(self.state.processes, tuple(self.records.values()))


def _start_platform(state: State, run: _Running) -> None:
    prepare_folder(state.platform)
    if _PLATFORM not in run.records:
        command = [sys.executable, "-I", "-m", "strongroom.cli.main", _PLATFORM, "--folder", str(state.platform)]
        run.start(_PLATFORM, command, url=str(socket_of(state.platform)))


def _configure_and_start(state: State, run: _Running, *, before: Trust | None, clock: Clock) -> Trust:
    owner = load_signing_key(state.owner_key).verifying_key
    people = read_people(state, owner=owner)
    run.tell("measuring the software")
    attestation, attestation_config = _attestation_service(state, people=people, clock=clock)
    partners = before.partners if before is not None else ()
    believed = [attestation, *_believed(partners)]
    keys, keys_config = _key_service(state, people=people, issuers=believed, clock=clock)
    for service, config in ((attestation, attestation_config), (keys, keys_config)):
        path = _folder(state, service) / _CONFIG
        is_pinned = before is not None and service in before.services
        is_current = path.exists() and path.read_bytes() == config.to_json()
        if service.service in run.records and is_pinned and is_current:
            continue
        if service.service not in run.records:
            _demand_free_port(service)
        write_file(path, config.to_json())
        command = [*entry_command(sys.executable, _entry(service)), "--config", str(path)]
        run.start(service.service, command, url=service.url)
    return Trust(
        hardware="simulated",
        roots=_roots(state),
        services=(attestation, keys),
        owners=(*owner_thumbprints(people), *former_owners(state)),
        agent_measurements=(_agent_measurement(state, "sgx"),),
        agent_mrtds=(_agent_measurement(state, "tdx"),),
        agent_launch_digests=(_agent_measurement(state, "snp"),),
        pods=before.pods if before is not None else (),
        nodes=before.nodes if before is not None else (),
        partners=partners,
        azure_attestation=before.azure_attestation if before is not None else (),
    )


def _believed(partners: Sequence[Partner]) -> list[TrustedService]:
    """Return the partners' attestation services whose results our key service believes."""
    services = [each for partner in partners if partner.accept_results for each in partner.anchors.services]
    return [each for each in services if each.service == "attestation-service"]


def _agent_measurement(state: State, tee: TeeKind) -> str:
    return expected_measurement(socket_of(state.platform), entry="strongroom.agent", tee=tee)


def _attestation_service(
    state: State, *, people: PeopleSettings, clock: Clock
) -> tuple[TrustedService, AttestationServiceConfig]:
    folder = state.attestation_service
    identity = open_identity(folder, common_name=attestation_service.COMMON_NAME, sans=[_HOST], now=clock.now())
    port = _port_of(folder / _CONFIG)
    config = AttestationServiceConfig(
        url=f"https://{_HOST}:{port}",
        host=_HOST,
        port=port,
        names=("localhost",),
        state=str(folder),
        mode="owner-operated",
        owners=people.owners,
        people=people.people,
        issuers=people.issuers,
        roots=_roots(state),
        endorsements=FolderSettings(path=str(endorsements_of(state.platform))),
        platform=_platform_settings(state),
    )
    measurement = expected_measurement(socket_of(state.platform), entry=attestation_service.__name__)
    return pinned_attestation_service(config, identity, measurement=measurement), config


def _key_service(
    state: State, *, people: PeopleSettings, issuers: Sequence[TrustedService], clock: Clock
) -> tuple[TrustedService, KeyServiceSettings]:
    folder, choice = state.key_service, read_choice(state)
    identity = open_identity(folder, common_name=key_service.COMMON_NAME, sans=[_HOST], now=clock.now())
    port = _port_of(folder / _CONFIG)
    config = KeyServiceSettings(
        url=f"https://{_HOST}:{port}",
        host=_HOST,
        port=port,
        names=("localhost",),
        state=str(folder),
        master_key=_master_key_of(folder),
        owners=people.owners,
        people=people.people,
        issuers=people.issuers,
        attestation_services=tuple(
            AttestationServiceSettings(url=each.own_url, identity=each.identity, certificate_pem=each.certificate_pem)
            for each in issuers
        ),
        mode="owner-operated",
        hardware="simulated",
        platform=_platform_settings(state),
        witnesses=choice.witnesses,
        witnesses_required=choice.required,
        workload_issuers=read_clusters(state),
    )
    measurement = expected_measurement(socket_of(state.platform), entry=key_service.__name__)
    return pinned_key_service(config, identity, measurement=measurement), config


def _master_key_of(folder: Path) -> str:
    """Return where the key service's master key is: what its configuration names, or a file beside its state."""
    path = folder / _CONFIG
    named = parse_json_object(path.read_bytes()).get("master_key") if path.exists() else None
    return named if isinstance(named, str) else (folder / "master.key").as_uri()


def _folder(state: State, service: TrustedService) -> Path:
    return state.attestation_service if service.service == "attestation-service" else state.key_service


def _entry(service: TrustedService) -> str:
    return (attestation_service if service.service == "attestation-service" else key_service).__name__


def _platform_settings(state: State) -> PlatformSettings:
    return PlatformSettings(socket=str(socket_of(state.platform)), endorsements=str(endorsements_of(state.platform)))


def _roots(state: State) -> tuple[TrustedRootEntry, ...]:
    pem = read_file(endorsements_of(state.platform) / "roots.pem", what="the platform's root")
    return tuple(
        TrustedRootEntry(certificate_pem=to_pem(certificate), simulated=True) for certificate in parse_pem_chain(pem)
    )


def _read_trust(state: State) -> Trust | None:
    return Trust.from_json(state.trust.read_bytes()) if state.trust.exists() else None


def _port_of(config: Path) -> int:
    """Return the port that an earlier `up` chose, so that addresses stay; a free one at the first time."""
    if config.exists():
        with contextlib.suppress(FormatError):
            port = parse_json_object(config.read_bytes()).get("port")
            if isinstance(port, int):
                return port
        raise ConfigurationError(f"{config} is not a service's configuration", action="restore it, or delete it")
    return free_port()


def free_port() -> int:
    """Return a port of this machine that is free, if possible one that the kernel gives to nobody who asks for any.

    A service keeps its address while it is stopped, and others that ask for any port meanwhile are not to get it.

    Source: `ip_local_port_range` in the kernel's networking documentation.
    """
    first, last = map(int, _GIVEN_AWAY.read_text(encoding="ascii").split())
    kept = [port for port in range(_FIRST_PORT, 1 << 16) if not first <= port <= last]
    for _ in range(_TRIES if kept else 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            port = kept[int.from_bytes(random_bytes(4), "big") % len(kept)]
            probe.bind((_HOST, port))
            return port
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])


def _demand_free_port(service: TrustedService) -> None:
    port = int(service.url.rpartition(":")[2])
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError as error:
            raise ConfigurationError(
                f"port {port} of the {service.service} is taken by another program",
                action=f"stop that program (`ss -ltnp 'sport = :{port}'` names it); approvals name this address",
            ) from error
