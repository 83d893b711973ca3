"""Becoming a member of a run: measure, attest, join, receive keys (steps 4 to 6).

The order is the defence: nothing of the host's descriptor is used for more than finding things, until the
measured application, the evidence and each key service's signed answer agree.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from strongroom.agent.key_socket import BoundDataset
from strongroom.agent.report import Report
from strongroom.agent.start import Start
from strongroom.agent.vault import JoinedVault, VaultAdmission, VaultMember, bindings_of, pinned_key
from strongroom.application.package import MeasuredApplication, measure_package
from strongroom.attestation.attester import Device, collect_evidence
from strongroom.attestation.evidence.fields import CONFIG_ID_BYTES, launch_value, read_fields
from strongroom.attestation.evidence.initdata import parse_initdata
from strongroom.attestation.evidence.unverified import UnverifiedEvidence
from strongroom.base.clock import Clock
from strongroom.base.encoding import from_b64url, to_b64url
from strongroom.base.errors import ConfigurationError, IntegrityError, Mismatch, RefusedError, VerificationError
from strongroom.base.secret import SecretBytes
from strongroom.base.workflow import Step
from strongroom.clients.attestation import AttestationClient, AttestationService
from strongroom.clients.azure_attestation import AzureAttestation
from strongroom.clients.azure_key_vault import connect_vault
from strongroom.clients.key_service import TeeKeyServiceClient, run_digest
from strongroom.clients.pinned import PinnedHttp
from strongroom.clients.statements import ServiceStatements
from strongroom.crypto.jose import unverified_payload
from strongroom.crypto.keys import ReceivingKey, SigningKey
from strongroom.crypto.x509 import parse_pem_chain, spki_sha256
from strongroom.datasets.identity import DatasetWrite
from strongroom.datasets.manifest import ColumnKeys, Manifest, open_manifest, verify_header
from strongroom.datasets.storage import Storage
from strongroom.datasets.view import DatasetView
from strongroom.keys.hierarchy import run_secret
from strongroom.keys.release import verify_ticket
from strongroom.wire.azure_attestation import AzureAttestationAddress
from strongroom.wire.descriptor import AttestationAddress, DeviceSetting
from strongroom.wire.key_service import (
    DatasetVersion,
    Evidence,
    JoinRequest,
    NewWrite,
    Release,
    VtpmEvidence,
    WrittenDataset,
)
from strongroom.wire.runtime_data import RuntimeData
from strongroom.wire.ticket import RunTicket


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """What a TEE holds once every owner's key service has let it in.

    Attributes:
        application: The measured application; its files lie in this TEE's memory.
        run: Digest of the run ticket.
        signing_key: This TEE's ephemeral signing key.
        result: The attestation result, a JWT.
        evidence: What it was made from.
        joined_at: When this TEE asked for its keys.
        services: The key services, by identity.
        vaults: The vaults' keys, by the digest of their statement.
        attestation: Who appraised this TEE.
        releases: Each key service's signed release.
        secret: The run's RPC secret.
        datasets: Every bound dataset with its keys.
        inputs: The countersigned version statements that were read, as signed.
    """

    application: MeasuredApplication
    ticket: RunTicket
    run: str
    signing_key: SigningKey
    result: str
    evidence: Evidence
    joined_at: datetime
    services: Mapping[str, TeeKeyServiceClient]
    vaults: Mapping[str, JoinedVault]
    attestation: AttestationService
    releases: Mapping[str, Release]
    secret: SecretBytes
    datasets: Mapping[str, BoundDataset]
    inputs: Mapping[str, str]


def launch_identity(application: str, device: DeviceSetting | None = None) -> bytes:
    """Return what a TEE of an application is launched with, filled up with zeros.

    Args:
        application: The application digest, hexadecimal.
        device: What the host says of the TEE. A process's is launched with the digest, a pod's with the hash of
            initdata that name it, a confidential node for nothing.

    Raises:
        FormatError: Not initdata.
        RefusedError: They are of another application.
        ConfigurationError: They are hashed otherwise than every field can hold.
    """
    match device:
        case DeviceSetting(shape="confidential-node"):
            return bytes(CONFIG_ID_BYTES)
        case DeviceSetting(initdata=str(encoded)):
            document = from_b64url(encoded)
            initdata = parse_initdata(document)
            if initdata.application != application:
                raise RefusedError(
                    "the pod was launched for another application",
                    action="Launch it with initdata of this one: strongroom app initdata",
                    mismatches=(
                        Mismatch(name="application digest", expected=application, actual=initdata.application),
                    ),
                )
            if initdata.algorithm != "sha256":
                raise ConfigurationError(
                    "the pod's initdata are hashed otherwise than with SHA-256",
                    action="Write them with: strongroom app initdata --algorithm sha256",
                )
            return hashlib.sha256(document).digest().ljust(CONFIG_ID_BYTES, b"\0")
        case _:
            return bytes.fromhex(application).ljust(CONFIG_ID_BYTES, b"\0")


def become_member(
    start: Start,
    *,
    device: Device,
    scratch: Path,
    clock: Clock,
    report: Report,
    workload_token: Callable[[str], str | None],
) -> Membership:
    """Do steps 4 to 6 in this TEE.

    1. Start making the ephemeral keys.
    2. Copy and measure the application; refuse to go on if it is not the one fixed at launch.
    3. Get a nonce of each key service that the application's bindings pin.
    4. Collect evidence over the runtime data and have it appraised.
    5. Open or join the run at every key service, have every vault release its key; combine their shares.
    6. Receive the write keys of the bound versions and open their manifests.

    The caller has launched this TEE: the device fixed the identity that the host's descriptor names.

    Raises:
        StrongroomError: With the step it happened in.
    """
    with ThreadPoolExecutor(max_workers=1) as background:
        receiving: Future[ReceivingKey] = background.submit(ReceivingKey.generate_rsa)  # 1
        with report.step(Step.ATTEST, "application measured"):
            application = measure_package(start.package, scratch / "application")  # 2
            _demand_launched_application(start, application.digest)
            ticket, run = _ticket(start, application)
        keys = TeeKeys(signing=SigningKey.generate("ES256"), receiving=receiving.result())
    services = _connect(start, application, keys=keys, run=run, clock=clock)
    vaults = _connect_vaults(start, application, keys=keys, clock=clock)
    attestation = _attestation_service(start.attestation_service, clock=clock)
    with report.step(Step.ATTEST, "evidence verified and appraised"):
        keepers: dict[str, TeeKeyServiceClient | VaultMember] = {**services, **vaults}
        nonces = {identity: each.nonce() for identity, each in keepers.items()}  # 3
        evidence = _evidence(start, device, application, run=run, keys=keys, nonces=nonces)  # 4
        result = attestation.attest(evidence)
    with report.step(Step.RELEASE, "keys released"):
        joined_at, driver_key = clock.now(), start.key_of_driver(keys.signing.verifying_key.thumbprint)
        releases, shares, writes = _join(  # 5
            start,
            ticket,
            application,
            services,
            request=JoinRequest(ticket=start.ticket, result=result, evidence=_message(evidence)),
            workload_token=workload_token,
        )
        joined: dict[str, JoinedVault] = {}
        for identity, vault in vaults.items():
            admission = vault.join(result, role=start.role, driver_key=driver_key)
            joined[identity] = JoinedVault(member=vault, admission=admission)
            shares[identity] = admission.share
            writes |= admission.writes
        secret = run_secret(shares, run=run, application=application.digest, driver_key=driver_key)
    with report.step(Step.DECRYPT, "manifests opened"):
        bases = _open_bases(start, application, {**services, **joined}, releases=releases, clock=clock)  # 6
        datasets = _bind(start, application, bases=bases, writes=writes)
    admitted: list[Release | VaultAdmission] = [*releases.values(), *(each.admission for each in joined.values())]
    return Membership(
        application=application,
        ticket=ticket,
        run=run,
        signing_key=keys.signing,
        result=result,
        evidence=_message(evidence),
        joined_at=joined_at,
        services=services,
        vaults=joined,
        attestation=attestation,
        releases=releases,
        secret=secret,
        datasets=datasets,
        inputs={name: text for each in admitted for name, text in each.versions.items()},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedBase:
    """A version that was read, unlocked and opened."""

    manifest: Manifest
    write_keys: Mapping[str, SecretBytes]
    column_keys: ColumnKeys


@dataclass(frozen=True, slots=True, kw_only=True)
class TeeKeys:
    """The TEE's two ephemeral key pairs."""

    signing: SigningKey
    receiving: ReceivingKey


def _demand_launched_application(start: Start, digest: str) -> None:
    if digest != start.application:
        raise RefusedError(
            "the application is not the one this TEE was launched for",
            action="submit again: the package was changed after it was signed",
            mismatches=(Mismatch(name="application digest", expected=start.application, actual=digest),),
        )


def _ticket(start: Start, application: MeasuredApplication) -> tuple[RunTicket, str]:
    payload = unverified_payload(start.ticket)  # its signature is the key service's to check
    ticket = RunTicket.from_json(payload)
    if ticket.application != application.digest or set(ticket.datasets) != set(application.description.datasets):
        raise RefusedError(
            "the run ticket is for another application",
            mismatches=(Mismatch(name="application", expected=application.digest, actual=ticket.application),),
        )
    return ticket, run_digest(payload)


def _connect(
    start: Start, application: MeasuredApplication, *, keys: TeeKeys, run: str, clock: Clock
) -> dict[str, TeeKeyServiceClient]:
    services: dict[str, TeeKeyServiceClient] = {}
    for name, binding in application.description.datasets.items():
        if binding.key_service in start.vaults:
            continue
        address = start.key_services.get(binding.key_service)
        if address is None or name not in start.storage:
            raise ConfigurationError(
                f"the key service or the storage of dataset {name} is not known",
                action=f"name its storage with --dataset {name}=LOCATION and its key service in the trust file",
            )
        services[binding.key_service] = TeeKeyServiceClient(
            PinnedHttp(address.url, address.certificate_pem, binding.key_service, service="the key service"),
            statements=ServiceStatements(identity=binding.key_service, now=clock.now, knows_predecessors=False),
            signing_key=keys.signing,
            receiving_key=keys.receiving,
            run=run,
        )
    return services


def _connect_vaults(
    start: Start, application: MeasuredApplication, *, keys: TeeKeys, clock: Clock
) -> dict[str, VaultMember]:
    """Return the vaults' keys that the application's bindings pin; what else the host names is passed over."""
    vaults: dict[str, VaultMember] = {}
    for identity, address in start.vaults.items():
        bindings = bindings_of(application.description, identity=identity)
        if not bindings:
            continue
        missing = [name for name in bindings if name not in start.storage]
        if missing:
            raise ConfigurationError(
                f"the storage of dataset {', '.join(missing)} is not known", action="name it: --dataset NAME=LOCATION"
            )
        key = pinned_key(address, identity=identity)
        vaults[identity] = VaultMember(
            key=key,
            address=address,
            client=connect_vault(key, address, receiving_key=keys.receiving, now=clock.now),
            ticket=verify_ticket(start.ticket),
            bindings=bindings,
            storage={name: start.storage[name] for name in bindings},
        )
    return vaults


def _attestation_service(address: AttestationAddress, *, clock: Clock) -> AttestationService:
    # Whose results are accepted is what keeps the keys to decide: a false attestation service gains nothing here.
    if isinstance(address, AzureAttestationAddress):
        return AzureAttestation(address, clock=clock)
    identity = spki_sha256(parse_pem_chain(address.certificate_pem.encode())[0])
    return AttestationClient(
        PinnedHttp(address.url, address.certificate_pem, identity, service="the attestation service")
    )


def _evidence(
    start: Start,
    device: Device,
    application: MeasuredApplication,
    *,
    run: str,
    keys: TeeKeys,
    nonces: Mapping[str, str],
) -> UnverifiedEvidence:
    runtime_data = RuntimeData(
        application=application.digest,
        role=start.role,
        run=run,
        nonces=dict(nonces),
        keys=(keys.receiving.public_jwk,),
        signing_key=keys.signing.verifying_key.to_jwk(),
        driver_key=start.driver_key,
    )
    initdata = None if start.device.initdata is None else from_b64url(start.device.initdata)
    evidence = collect_evidence(device, runtime_data=runtime_data.to_json(), initdata=initdata)
    expected = launch_value(evidence.kind, launch_identity(application.digest, start.device))
    if evidence.vtpm is None and read_fields(evidence.kind, evidence.quote).launched_with != expected:
        raise RefusedError("this TEE was launched for another application than it measured")
    return evidence


def _join(
    start: Start,
    ticket: RunTicket,
    application: MeasuredApplication,
    services: Mapping[str, TeeKeyServiceClient],
    *,
    request: JoinRequest,
    workload_token: Callable[[str], str | None],
) -> tuple[dict[str, Release], dict[str, SecretBytes], dict[str, NewWrite]]:
    releases: dict[str, Release] = {}
    shares: dict[str, SecretBytes] = {}
    writes: dict[str, NewWrite] = {}
    for identity, service in services.items():
        own = request.model_copy(update={"workload_token": workload_token(identity)})
        release, secrets = service.join(own, role=start.role, seen=ticket.checkpoints.get(identity))
        releases[identity] = release
        shares[identity] = SecretBytes(from_b64url(secrets.share))
        _demand_own_writes(application, secrets.writes, identity=identity)
        writes |= secrets.writes
    return releases, shares, writes


def _demand_own_writes(application: MeasuredApplication, writes: Mapping[str, NewWrite], *, identity: str) -> None:
    """Refuse keys for what another owner's dataset is written with: whoever gave them could read what is written."""
    bindings = application.description.datasets
    own = {name for name, each in bindings.items() if each.key_service == identity and each.access == "write"}
    if set(writes) != own:
        raise VerificationError(
            "the key service gives keys to write other datasets than those that are bound to it",
            action="do not use this key service; compare its identity with the one in the trust file",
            mismatches=(Mismatch(name="datasets", expected=_listed(own), actual=_listed(writes)),),
        )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _message(evidence: UnverifiedEvidence) -> Evidence:
    """Return evidence as it travels."""
    vtpm = None
    if evidence.vtpm is not None:
        vtpm = VtpmEvidence(
            hcl_report=to_b64url(evidence.vtpm.hcl_report),
            tpm_quote=to_b64url(evidence.vtpm.tpm_quote),
            tpm_signature=to_b64url(evidence.vtpm.tpm_signature),
            pcrs={str(number): value.hex() for number, value in evidence.vtpm.pcrs.items()},
        )
    return Evidence(
        kind=evidence.kind,
        quote=to_b64url(evidence.quote),
        runtime_data=to_b64url(evidence.runtime_data or b""),
        certificate_chain=evidence.certificate_chain,
        initdata=None if evidence.initdata is None else to_b64url(evidence.initdata),
        vtpm=vtpm,
    )


def _bind(
    start: Start,
    application: MeasuredApplication,
    *,
    bases: Mapping[str, OpenedBase],
    writes: Mapping[str, NewWrite],
) -> dict[str, BoundDataset]:
    bound: dict[str, BoundDataset] = {}
    for name, binding in application.description.datasets.items():
        write = DatasetWrite.from_message(writes[name]) if name in writes else None
        base = bases.get(name)
        bound[name] = BoundDataset(
            name=name,
            access=binding.access,
            location=start.storage[name],
            view=DatasetView(base.manifest if base else None, write_id=write.write_id if write else None),
            write_keys=base.write_keys if base else {},
            write=write,
            column_keys=base.column_keys if base else {},
        )
    return bound


def _open_bases(
    start: Start,
    application: MeasuredApplication,
    services: Mapping[str, TeeKeyServiceClient | JoinedVault],
    *,
    releases: Mapping[str, Release],
    clock: Clock,
) -> dict[str, OpenedBase]:
    """Read, unlock and open the manifest of every bound version."""
    opened: dict[str, OpenedBase] = {}
    for identity, service in services.items():
        versions: dict[str, DatasetVersion] = {}
        stated = service.admission.versions if isinstance(service, JoinedVault) else releases[identity].versions
        for name, statement in stated.items():
            if (
                name not in application.description.datasets
                or application.description.datasets[name].key_service != identity
            ):
                raise VerificationError(f"the key service speaks of dataset {name}, which is not bound to it")
            versions[name] = service.version(statement, dataset=name)
        missing = [
            name
            for name, binding in application.description.datasets.items()
            if binding.key_service == identity and binding.access == "read" and name not in versions
        ]
        if missing:
            raise IntegrityError(
                f"the key service names no version of {', '.join(missing)}",
                action="encrypt the dataset first: strongroom dataset encrypt",
            )
        opened |= open_bases(service, versions, storage=start.storage, clock=clock)
    return opened


def open_bases(
    service: TeeKeyServiceClient | JoinedVault,
    versions: Mapping[str, DatasetVersion],
    *,
    storage: Mapping[str, str],
    clock: Clock,
) -> dict[str, OpenedBase]:
    """Read manifests, have one key service unlock them, and open them.

    Args:
        service: The key service of these datasets, or the vault's key.
        versions: The statements of the versions, by dataset.
        storage: Where each dataset's storage lies.
        clock: The present time.

    Raises:
        RefusedError: Keys are not released any more.
        IntegrityError: A manifest is missing or is another one.
    """
    if not versions:
        return {}
    manifests = {name: Storage(storage[name]).read_manifest(each.manifest_digest) for name, each in versions.items()}
    wanted: dict[str, WrittenDataset] = {}
    for name, version in versions.items():
        header = verify_header(manifests[name], statement=version)
        wanted[name] = WrittenDataset(
            number=version.number, write_keys=header.write_keys, column_keys=header.column_keys
        )
    keys = service.write_keys(wanted, now=clock.now())
    return {
        name: OpenedBase(
            manifest=open_manifest(manifests[name], statement=version, write_keys=keys.write_keys[name]),
            write_keys=keys.write_keys[name],
            column_keys=keys.column_keys.get(name, {}),
        )
        for name, version in versions.items()
    }
