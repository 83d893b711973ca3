"""The key service: `python -m strongroom.services.key_service --config FILE`."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pydantic import Field
from starlette.applications import Starlette
from starlette.middleware import Middleware

from strongroom.base.clock import Clock, SystemClock
from strongroom.base.encoding import Json
from strongroom.base.errors import ConfigurationError, FormatError, StrongroomError
from strongroom.crypto.x509 import to_pem
from strongroom.keys.providers import MasterKey, open_master_key
from strongroom.keys.store import LogSigner, Store, open_store
from strongroom.keys.store.rotations import rotation_of
from strongroom.log.note import verification_key
from strongroom.services.approvals import ApprovalDesk
from strongroom.services.custody import LockedService, certificate_of_this_start
from strongroom.services.datasets import DatasetDesk
from strongroom.services.errors import ErrorShape, Reply, strongroom_error
from strongroom.services.evidence import (
    Platform,
    PlatformSettings,
    ServiceEvidenceSource,
    configuration_digest,
    launch_platform,
)
from strongroom.services.files import prepare_folder
from strongroom.services.http import Call, application, endpoint, json_reply, log_to_stderr, serve
from strongroom.services.identity import (
    ServiceIdentity,
    has_sealed_identity,
    has_successor,
    install_successor,
    open_identity,
    prepare_successor,
    tls_names,
)
from strongroom.services.issuers import AttestationServiceSettings, AzureAttestationSettings, configured_issuers
from strongroom.services.key_care import KeyCare
from strongroom.services.key_desk import KeyDesk
from strongroom.services.key_vault import VAULT_PATHS, KeyVault
from strongroom.services.key_vault_desk import Recovery
from strongroom.services.leases import LeaseDesk
from strongroom.services.log_clock import LogClock
from strongroom.services.log_desk import LogDesk
from strongroom.services.master_key import demand_fitting, holder_of, pinned_parts, read_roster
from strongroom.services.owners import OwnerDesk
from strongroom.services.people import People, PeopleSettings, configuration_of_people, configured_people
from strongroom.services.restores import RestoreDesk
from strongroom.services.rosters import RosterDesk
from strongroom.services.rotations import OwnSuccessor, RotationDesk
from strongroom.services.runs import PREFIX, RunDesk
from strongroom.services.sign_in import TokenIssuers
from strongroom.services.sign_in_desk import SignInDesk
from strongroom.services.soundness import SoundnessGate, start_audit
from strongroom.services.witnessing import Witnesses, WitnessSettings, open_witnesses, pinned_witnesses
from strongroom.services.workloads import (
    WorkloadIssuers,
    WorkloadIssuerSettings,
    pinned_workload_issuers,
    with_key_sets,
)
from strongroom.wire.custody import CustodyRoster
from strongroom.wire.model import Url
from strongroom.wire.service import Mode

COMMON_NAME: Final = "Strongroom key service"
_MAX_CONFIG_BYTES: Final = 1 << 20
_ALWAYS_OPEN: Final = ("/healthz", "/readyz", f"{PREFIX}/evidence", f"{PREFIX}/log/")
"""Answered while nothing is released: who the service is, what its log says, an owner's word about a restore."""


class KeyServiceSettings(PeopleSettings):
    """The key service's configuration file (JSON).

    Attributes:
        url: Where clients reach it; its host stands in the TLS certificate.
        host: Address to listen on.
        port: Port to listen on.
        names: Further host names and addresses for the TLS certificate.
        state: The state folder, its owner's alone: the service's keys, and its database where that is no other.
        state_database: `postgresql://…` of a database that several replicas share, without a password; null for SQLite
            in the state folder.
        master_key: Where the master key is, such as `file:///…` (docs/how-to/master-key.md).
        attestation_services: Whose attestation results are believed.
        mode: Who is trusted: the operator, who is the owner; or the measured service itself.
        hardware: The one kind of hardware whose evidence is accepted.
        platform: The (simulated) platform this service itself runs on, or null.
        recoverable_days: How long a deleted key of Key Vault's contract can be recovered.
        purge_protection: Whether nobody destroys such a key before.
        witnesses: Who cosigns the log's checkpoints.
        witnesses_required: How many of them must have cosigned before a run is opened or closed.
        witness_patience_s: How long an opening or a closing waits for them, in seconds.
        workload_issuers: The clusters whose service accounts' tokens are believed, where approvals name such accounts.
    """

    version: Literal[1] = 1
    url: Url
    host: str
    port: int = Field(ge=1, le=65535)
    names: tuple[str, ...] = ()
    state: str
    state_database: str | None = None
    master_key: str
    attestation_services: tuple[AttestationServiceSettings | AzureAttestationSettings, ...] = Field(min_length=1)
    mode: Mode
    hardware: Literal["simulated", "real"]
    platform: PlatformSettings | None
    recoverable_days: int = Field(default=90, ge=7, le=90)
    purge_protection: bool = False
    witnesses: tuple[WitnessSettings, ...] = Field(default=(), max_length=32)
    witnesses_required: int = Field(default=0, ge=0, le=32)
    witness_patience_s: int = Field(default=5, ge=1, le=60)
    workload_issuers: tuple[WorkloadIssuerSettings, ...] = Field(default=(), max_length=64)


def read_settings(path: Path) -> KeyServiceSettings:
    """Read the configuration file.

    Raises:
        ConfigurationError: It cannot be read, or is not such a configuration.
    """
    try:
        with path.open("rb") as file:
            return KeyServiceSettings.from_json(file.read(_MAX_CONFIG_BYTES))
    except OSError as error:
        raise ConfigurationError(f"the configuration {path} cannot be read: {error.strerror}") from error
    except FormatError as error:
        raise ConfigurationError(f"the configuration {path} is {error.message}") from error


def configuration_of(settings: KeyServiceSettings, *, roster: CustodyRoster | None = None) -> str:
    """Return the digest of what decides whom this key service believes: what clients pin.

    Not in it: addresses and places of its own state, which a client pins otherwise or need not know.

    Args:
        settings: The configuration.
        roster: The custodians, where the master key is in custody; None reads them from where the configuration says.

    Raises:
        ConfigurationError: A person's key is not a public JWK, nobody is an owner, or the custodians' roster or a
            cluster's keys cannot be read.
    """
    return _configuration(settings, roster or read_roster(settings.master_key))


def log_origin(identity: ServiceIdentity) -> str:
    """Return the name of a key service's log: after its first identity, so that rotations leave the log what it is."""
    return f"strongroom-key-service/{(*identity.predecessors, identity.identity)[0]}"


def log_key(identity: ServiceIdentity) -> str:
    """Return the log's verification key as one line (C2SP signed-note, "Verification keys")."""
    return verification_key(log_origin(identity), identity.statement.key.verifying_key)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyService:
    """A key service that is ready to serve."""

    settings: KeyServiceSettings
    identity: ServiceIdentity
    configuration: str
    store: Store
    vault: KeyVault
    app: Starlette
    witnesses: Witnesses | None

    def close(self) -> None:
        """Stop what works in the background, and close the state."""
        if self.witnesses is not None:
            self.witnesses.stop()
        self.store.close()


def database_of(settings: KeyServiceSettings) -> Path | str:
    """Return where a key service's database is: a file, or a PostgreSQL URL."""
    return settings.state_database or Path(settings.state) / "keys.db"


def open_state(settings: KeyServiceSettings, identity: ServiceIdentity, *, opened: MasterKey | None = None) -> Store:
    """Open a key service's database, or make it.

    Args:
        settings: The configuration.
        identity: Who signs the log.
        opened: The master key, where it is open already; None opens it as the configuration says.

    Raises:
        ConfigurationError: The database or the master key cannot be used.
        IntegrityError: The state was damaged or edited.
        UnavailableError: The database's server does not answer.
    """

    def master_key(create: bool) -> MasterKey:  # noqa: FBT001 - the store's callback
        return opened or open_master_key(settings.master_key, create=create)

    signer = LogSigner(origin=log_origin(identity), key=identity.statement.key)
    return open_store(database_of(settings), open_master_key=master_key, signer=signer)


@dataclass(frozen=True, slots=True, kw_only=True)
class Launched:
    """A key service's process, bound to its configuration. What that says is read once, and used as it was read.

    Attributes:
        configuration: The effective configuration's digest.
        platform: What quotes this process; None outside any TEE.
        roster: The custodians, where the master key is in custody.
    """

    settings: KeyServiceSettings
    configuration: str
    platform: Platform | None
    roster: CustodyRoster | None


def launch(settings: KeyServiceSettings) -> Launched:
    """Check that mode, master key and platform go together, and bind this process to its platform.

    Raises:
        ConfigurationError: They do not go together, or the roster or a cluster's keys cannot be read.
        UnavailableError: The platform does not answer.
    """
    demand_fitting(settings.master_key, mode=settings.mode, has_platform=settings.platform is not None)
    settings = settings.model_copy(update={"workload_issuers": with_key_sets(settings.workload_issuers)})
    roster = read_roster(settings.master_key)
    configuration = _configuration(settings, roster)
    platform = launch_platform(settings.platform, configuration=configuration)
    return Launched(settings=settings, configuration=configuration, platform=platform, roster=roster)


def unlock(launched: Launched, *, clock: Clock) -> MasterKey | None:
    """Serve as a locked service until enough custodians gave their shares.

    Returns:
        The master key; None when the process was told to end before.

    Raises:
        ConfigurationError: The address cannot be listened on, or the service has no custodians.
    """
    settings = launched.settings
    if launched.roster is None or launched.platform is None:
        raise ConfigurationError("this key service's master key is not in custody")
    locked = LockedService(roster=launched.roster, configuration=launched.configuration, platform=launched.platform)
    names = tuple(tls_names(settings.url, settings.names))
    tls = certificate_of_this_start(common_name=COMMON_NAME, sans=names, clock=clock)
    serve(
        locked.app(),
        host=settings.host,
        port=settings.port,
        certificate_chain_pem="".join(to_pem(certificate) for certificate in tls.chain_der),
        key_pem=tls.key.to_pem(),
        ready=lambda: _say_locked(launched),
        done=lambda: locked.master_key is not None,
    )
    return locked.master_key


def build(launched: Launched, *, clock: Clock, unlocked: MasterKey | None) -> KeyService:
    """Open a key service's state and make its application.

    Args:
        launched: The process and its configuration.
        clock: The time.
        unlocked: The master key that custodians unlocked; None where it is held otherwise.

    Raises:
        ConfigurationError: Something is not set up right.
        IntegrityError: The state was damaged or edited.
        UnavailableError: The master key's holder does not answer.
    """
    settings = launched.settings
    prepare_folder(Path(settings.state))
    sealing = unlocked
    if settings.mode == "attested" and unlocked is None:
        sealing = open_master_key(settings.master_key, create=not has_sealed_identity(Path(settings.state)))
    folder, sans = Path(settings.state), tls_names(settings.url, settings.names)

    def opened() -> ServiceIdentity:
        return open_identity(folder, common_name=COMMON_NAME, sans=sans, now=clock.now(), sealing=sealing)

    identity = opened()
    store = open_state(settings, identity, opened=sealing)
    if sealing is not None and _finish_rotation(store, identity, folder=folder, sealing=sealing):
        identity = opened()
    clock = LogClock(clock, newest_time=lambda: store.newest_time)
    store.end_master_key_rotation(now=clock.now())
    with store.transaction() as tx:
        tx.append_leaf("started", now=clock.now(), what={"configuration": launched.configuration})
    witnesses = open_witnesses(
        settings.witnesses,
        store,
        origin=log_origin(identity),
        key=identity.statement.key.verifying_key,
        required=settings.witnesses_required,
        patience_s=settings.witness_patience_s,
        kept=Path(settings.state) / "cosigned-checkpoint",
    )
    desk = KeyDesk(
        store=store,
        identity=identity,
        people=People(
            configured_people(settings.owners, settings.people),
            audience=identity.identity,
            issuers=TokenIssuers(settings.issuers, clock=clock),
            clock=clock,
        ),
        issuers=configured_issuers(settings.attestation_services, clock=clock),
        hardware=settings.hardware,
        clock=clock,
        url=settings.url.rstrip("/"),
        mode=settings.mode,
        master_key=holder_of(settings.master_key),
        witnesses=witnesses,
        workloads=WorkloadIssuers(settings.workload_issuers, key_service=identity.identity, clock=clock),
    )
    recovery = Recovery(days=settings.recoverable_days, purge_protection=settings.purge_protection)
    vault = KeyVault(desk, recovery=recovery)
    return KeyService(
        settings=settings,
        identity=identity,
        configuration=launched.configuration,
        store=store,
        vault=vault,
        witnesses=witnesses,
        app=_application(desk, vault, launched, successor=_successor(identity, folder=folder, sealing=sealing)),
    )


def _finish_rotation(store: Store, identity: ServiceIdentity, *, folder: Path, sealing: MasterKey) -> bool:
    """Put the new identity in its place if its rotation is logged and a crash came before that.

    Returns:
        Whether there was something to do.

    Raises:
        ConfigurationError: The identity was replaced, and the new one is not in the state folder.
    """
    with store.reading() as tx:
        logged = rotation_of(tx, identity.identity)
    if logged is None:
        return False
    if not has_successor(folder, new=logged.new, sealing=sealing):
        raise ConfigurationError(
            f"the log says that this service's identity was replaced by {logged.new}, whose key is not here",
            action=f"Restore {folder} as it was after the rotation.",
        )
    install_successor(folder, old=identity.identity, sealing=sealing)
    return True


def _successor(identity: ServiceIdentity, *, folder: Path, sealing: MasterKey | None) -> OwnSuccessor | None:
    """Return how an attested service replaces its identity; None where the key is its operator's."""
    if sealing is None:
        return None
    return OwnSuccessor(
        prepare=lambda now: prepare_successor(folder, common_name=COMMON_NAME, now=now, sealing=sealing),
        install=lambda: install_successor(folder, old=identity.identity, sealing=sealing),
    )


def _believed(settings: KeyServiceSettings) -> list[str]:
    return [each.identity for each in settings.attestation_services if isinstance(each, AttestationServiceSettings)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the key service until it is told to end; print one JSON line when it is ready.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(prog="strongroom key-service", description="Strongroom's key service.")
    parser.add_argument("--config", type=Path, required=True, help="configuration file (JSON)")
    options = parser.parse_args(arguments)
    log_to_stderr()
    try:
        launched, clock, unlocked = launch(read_settings(options.config)), SystemClock(), None
        if launched.roster is not None:
            unlocked = unlock(launched, clock=clock)
            if unlocked is None:
                return 0
        service = build(launched, clock=clock, unlocked=unlocked)
        try:
            if service.witnesses is not None:
                service.witnesses.demand_not_behind()
                service.witnesses.start()
            with service.vault.watching_the_clock():
                serve(
                    service.app,
                    host=service.settings.host,
                    port=service.settings.port,
                    certificate_chain_pem=service.identity.tls_chain_pem,
                    key_pem=service.identity.tls.key.to_pem(),
                    ready=lambda: _begin(service),
                )
        finally:
            service.close()
    except StrongroomError as error:
        sys.stderr.write(f"strongroom key-service: {error.message}\n")
        if error.action:
            sys.stderr.write(f"  → {error.action}\n")
        return 1
    return 0


def _application(desk: KeyDesk, vault: KeyVault, launched: Launched, *, successor: OwnSuccessor | None) -> Starlette:
    evidence = ServiceEvidenceSource(
        service="key-service",
        mode=desk.mode,
        identity=desk.identity,
        configuration=launched.configuration,
        signing_key=lambda: desk.identity.signing.thumbprint,
        has_statement_key=True,
        platform=launched.platform,
        master_key=desk.master_key,
        log_key=log_key(desk.identity),
    )

    def show_evidence(call: Call) -> Reply:
        return json_reply(evidence.answer(call.required("nonce")))

    def ready(_call: Call) -> Reply:
        desk.store.demand_sound()
        return json_reply({"status": "ready", "service": "key-service"})

    def health(_call: Call) -> Reply:
        return json_reply(
            {
                "status": "ok",
                "service": "key-service",
                "mode": desk.mode,
                "master_key": desk.master_key,
                "hardware": desk.hardware,
            }
        )

    def shape_for(path: str) -> ErrorShape:
        return vault.error if path.startswith(VAULT_PATHS) else strongroom_error

    routes = [
        *RunDesk(desk).routes(),
        *DatasetDesk(desk).routes(),
        *KeyCare(desk).routes(),
        *OwnerDesk(desk).routes(),
        *SignInDesk(desk.people).routes(),
        *RestoreDesk(desk).routes(),
        *ApprovalDesk(desk).routes(),
        *RosterDesk(desk).routes(),
        *LeaseDesk(desk).routes(),
        *LogDesk(desk).routes(),
        *RotationDesk(desk, believed=_believed(launched.settings), successor=successor).routes(),
        endpoint(f"{PREFIX}/evidence", show_evidence, errors=strongroom_error),
        endpoint("/healthz", health, errors=strongroom_error),
        endpoint("/readyz", ready, errors=strongroom_error),
        *vault.routes(),
    ]
    gate = Middleware(SoundnessGate, store=desk.store, shape_for=shape_for, open_paths=_ALWAYS_OPEN)
    return application(routes, shape_for=shape_for, middleware=[gate])


def _say_locked(launched: Launched) -> None:
    settings = launched.settings
    line = {
        "ready": False,
        "locked": True,
        "service": "key-service",
        "url": settings.url,
        "configuration": launched.configuration,
        "mode": settings.mode,
        "hardware": settings.hardware,
    }
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def _begin(service: KeyService) -> None:
    """Say that the port is open, and audit what is behind it: that takes minutes, and would only delay the start."""
    _say_ready(service)
    start_audit(service.store)


def _say_ready(service: KeyService) -> None:
    line = {
        "ready": True,
        "service": "key-service",
        "url": service.settings.url,
        "identity": service.identity.identity,
        "certificate_pem": service.identity.certificate_pem,
        "configuration": service.configuration,
        "mode": service.settings.mode,
        "master_key": holder_of(service.settings.master_key),
        "hardware": service.settings.hardware,
        "log_key": log_key(service.identity),
    }
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def _configuration(settings: KeyServiceSettings, roster: CustodyRoster | None) -> str:
    services: list[Json] = [
        {"url": each.url, "identity": each.identity if isinstance(each, AttestationServiceSettings) else each.kind}
        for each in sorted(settings.attestation_services, key=lambda each: each.url)
    ]
    return configuration_digest(
        {
            "version": 1,
            "service": "key-service",
            "mode": settings.mode,
            "hardware": settings.hardware,
            **configuration_of_people(settings.owners, settings.people, settings.issuers),
            "attestation_services": services,
            **pinned_parts(settings.master_key, mode=settings.mode, roster=roster),
            **pinned_witnesses(settings.witnesses, required=settings.witnesses_required),
            **pinned_workload_issuers(with_key_sets(settings.workload_issuers)),
        }
    )


if __name__ == "__main__":
    sys.exit(main())
