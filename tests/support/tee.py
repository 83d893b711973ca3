"""A whole run without Spark: an agent's own code in this process, on a simulated platform, against real services."""

from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.support.azure_node import SimulatedVtpm
from tests.support.platform import MRENCLAVE, MRTD
from tests.support.service_processes import CLOCK, LAUNCH_DIGEST, POLICY_HASH, Installation

from strongroom.agent.finish import Ended, Kept, finish_run
from strongroom.agent.member import Membership, become_member, launch_identity
from strongroom.agent.report import Report
from strongroom.agent.standalone import StandalonePlace, begin_on_machine
from strongroom.application.description import ApplicationDescription, DatasetBinding
from strongroom.application.package import ApplicationSources, pack
from strongroom.attestation.attester import Device, Quote
from strongroom.attestation.attester.azure_vtpm import AzureVtpmDevice
from strongroom.attestation.evidence.fields import launch_value
from strongroom.base.clock import to_rfc3339
from strongroom.clients.owner import OwnerClient, dataset_head
from strongroom.clients.statements import ServiceStatements
from strongroom.crypto.jose import sign_jws
from strongroom.crypto.keys import ReceivingKey, SigningKey, VerifyingKey
from strongroom.crypto.random import random_id
from strongroom.crypto.x509 import to_pem
from strongroom.datasets.identity import DatasetWrite
from strongroom.datasets.manifest import build_manifest
from strongroom.datasets.storage import Storage
from strongroom.policy.approval import Approval
from strongroom.services.attestation_service import AttestationServiceConfig
from strongroom.simulation.azure_vm import SimulatedAzureVm
from strongroom.wire.descriptor import Descriptor, DeviceSetting, DriverAddress, ServiceAddress, Sizes
from strongroom.wire.key_service import Commit
from strongroom.wire.manifest import FileEntry
from strongroom.wire.model import TeeKind, VirtualTeeKind
from strongroom.wire.ticket import TICKET_TYP, RunTicket
from strongroom.wire.trust import Trust, TrustedRootEntry, TrustedService

SCRIPT = b"print('an application')\n"


def place_of(descriptor: Descriptor) -> StandalonePlace:
    """What an agent that is given this descriptor starts with."""
    return begin_on_machine(descriptor, report=Report.in_file(Path(descriptor.report)))


@dataclass(kw_only=True)
class PlatformDevice:
    """The quote device of one simulated TEE. `changed` are fields of its report that differ from a good one's."""

    services: Installation
    kind: TeeKind = "sgx"
    changed: dict[str, Any] = field(default_factory=dict)
    config_id: bytes = b""

    def launch(self, config_id: bytes) -> None:
        self.config_id = config_id

    def quote(self, report_data: bytes) -> Quote:
        platform, amd = self.services.platform, self.services.amd
        value = launch_value(self.kind, self.config_id)
        match self.kind:
            case "sgx":
                fields = {"mrenclave": MRENCLAVE, "config_id": value, "report_data": report_data}
                return Quote(kind="sgx", data=platform.quote(**(fields | self.changed)))
            case "tdx":
                fields = {"mrtd": MRTD, "mrconfigid": value, "report_data": report_data}
                return Quote(kind="tdx", data=platform.td_quote(**(fields | self.changed)))
            case "snp":
                report = amd.report(report_data=report_data)
                good = replace(report, measurement=LAUNCH_DIGEST, host_data=value)
                data = amd.sign(replace(good, **self.changed))
                return Quote(kind="snp", data=data, certificate_chain=amd.certificate_chain("VCEK"))


def azure_node(services: Installation, kind: VirtualTeeKind) -> AzureVtpmDevice:
    """The vTPM of a new Azure confidential VM on this installation's hardware."""
    machine = services.amd if kind == "snp" else services.platform.platform
    return AzureVtpmDevice(SimulatedVtpm(SimulatedAzureVm.create(machine)))


class Runner:
    """An owner with the datasets `trips` and `report`, an approved application, and runs of it without an engine."""

    def __init__(
        self, services: Installation, folder: Path, *, script: bytes = SCRIPT, arguments: tuple[str, ...] = ()
    ) -> None:
        self.services, self.folder, self.script = services, folder, script
        self.predecessors: tuple[str, ...] = ()
        self.recipient = ReceivingKey.generate_p256()
        self.storage = {name: (folder / "storage" / name).as_uri() for name in ("trips", "report")}
        self.owner = services.owner_client()
        for name in self.storage:
            self.owner.create_dataset(name)
        self.import_version("trips")
        self.package = folder / "package"
        self.description = self._pack(*arguments)

    def import_version(self, name: str) -> None:
        """Make a version of a dataset with one listed file."""
        write = DatasetWrite.from_message(self.owner.start_write(name))
        file = FileEntry(path="part-0.parquet", write_id=write.write_id, file_id=random_id(), length_bytes=10)
        data, digest = build_manifest(
            dataset=name, key_service=self.services.keys.identity, base=None, write=write, files=[file]
        )
        Storage(self.storage[name]).write_manifest(data, digest)
        self.owner.commit(
            name, Commit(dataset=name, base=write.base, manifest_digest=digest, write_ids=(write.write_id,))
        )

    def pack_again(self, argument: str) -> None:
        """Go on with another application, of which no approval speaks: the same one with another argument."""
        self.package = self.folder / f"package-{argument}"
        self.description = self._pack(argument)

    def _pack(self, *arguments: str) -> ApplicationDescription:
        script = self.folder / "application.py"
        script.write_bytes(self.script)
        identity = self.services.keys.identity
        return pack(
            ApplicationSources(
                script=str(script),
                arguments=("strongroom://trips", "strongroom://report", *arguments),
                datasets={
                    "trips": DatasetBinding(key_service=identity, access="read", version=None),
                    "report": DatasetBinding(key_service=identity, access="write", version=None),
                },
            ),
            output=self.package,
        )

    def approve(self, name: str, access: Any, *, by: OwnerClient | None = None, **changed: Any) -> str:
        fields: dict[str, Any] = {
            "dataset": name,
            "key_service": self.services.keys.identity,
            "application": self.description.digest,
            "access": access,
            "evidence_policy_hash": POLICY_HASH,
            "attestation_issuer": self.services.attestation.url,
            "hardware": "simulated",
            "shape": "process",
            "max_runs": 100,
            "submitters": (self.services.submitter.verifying_key.thumbprint,),
            "recipients": (VerifyingKey.from_jwk(self.recipient.public_jwk).to_jwk(),),
            "issued_at": to_rfc3339(CLOCK.now()),
            **changed,
        }
        return (by or self.owner).approve(Approval(**fields), application=self.description.to_json().decode())

    def approve_all(self, **changed: Any) -> None:
        """Approve both datasets for what the application does with them."""
        for name, access in (("trips", "read"), ("report", "write")):
            self.approve(name, access, **changed)

    def ticket(self, *, submitter: SigningKey | None = None, **changed: Any) -> str:
        key = submitter or self.services.submitter
        identity = self.services.keys.identity
        statements = ServiceStatements(identity=identity, now=CLOCK.now, predecessors=self.predecessors)
        head = dataset_head(self.services.keys.http(), statements=statements, name="trips")[1]
        fields: dict[str, Any] = {
            "run_id": random_id(),
            "application": self.description.digest,
            "datasets": {"trips": head.number, "report": None},
            "max_executors": 2,
            "not_after": to_rfc3339(CLOCK.now() + timedelta(hours=1)),
            "submitter": key.verifying_key.thumbprint,
            "checkpoints": {},
            **changed,
        }
        header = {"typ": TICKET_TYP, "jwk": key.verifying_key.to_jwk()}
        return sign_jws(RunTicket(**fields).to_json(), key=key, header=header)

    def descriptor(self, ticket: str, *, driver: Membership | None = None, **changed: Any) -> Descriptor:
        keys, attestation = self.services.keys, self.services.attestation
        (self.folder / "out").mkdir(exist_ok=True)
        fields: dict[str, Any] = {
            "role": "executor" if driver else "driver",
            "application": self.description.digest,
            "ticket": ticket,
            "device": DeviceSetting(kind="gramine"),
            "package": str(self.package),
            "scratch": "unused",
            "attestation_service": ServiceAddress(url=attestation.url, certificate_pem=attestation.certificate_pem),
            "key_services": {keys.identity: ServiceAddress(url=keys.url, certificate_pem=keys.certificate_pem)},
            "storage": self.storage,
            "sizes": Sizes(driver_memory_mb=512, executor_memory_mb=512, executor_cores=1, executors=1),
            "host": "127.0.0.1",
            "driver": DriverAddress(
                master_url="spark://127.0.0.1:7077", driver_key=driver.signing_key.verifying_key.thumbprint
            )
            if driver
            else None,
            "report": str(self.folder / "events.jsonl"),
            "output": str(self.folder / "out"),
            **changed,
        }
        return Descriptor(**fields)

    def join(
        self, descriptor: Descriptor, *, device: Device | None = None, workload_token: str | None = None
    ) -> Membership:
        """Do an agent's steps 4 to 6 in a new TEE."""
        tee = device or PlatformDevice(services=self.services)
        tee.launch(launch_identity(descriptor.application, descriptor.device))
        scratch = self.folder / f"tee-{random_id()}"
        scratch.mkdir(mode=0o700)
        place = place_of(descriptor)
        return become_member(
            place.start,
            device=tee,
            scratch=scratch,
            clock=CLOCK,
            report=place.report,
            workload_token=place.workload_token if workload_token is None else lambda _: workload_token,
        )

    def write(self, member: Membership) -> None:
        """Pretend that the engine wrote one file of the report."""
        view = member.datasets["report"].view
        path, _ = view.create("by_month/part-0.parquet")
        view.claim(path)
        view.commit({path: 1000})

    def finish(self, member: Membership, descriptor: Descriptor, *, status: int = 0) -> Kept:
        log = self.folder / "log"
        log.write_bytes(b"hello\nauditor\n")
        ended = Ended(exit_status=status, started_at=CLOCK.now(), log=log)
        place = place_of(descriptor)
        return finish_run(member, start=place.start, ended=ended, clock=CLOCK, keep=place.keep)

    def trust(self, **changed: Any) -> Trust:
        """The trust file of this installation."""
        keys, attestation = self.services.keys, self.services.attestation
        config = AttestationServiceConfig.from_json(attestation.config.read_bytes())
        common: dict[str, Any] = {"mode": "owner-operated", "measurement": None}
        fields: dict[str, Any] = {
            "hardware": "simulated",
            "roots": tuple(
                TrustedRootEntry(certificate_pem=to_pem(root), simulated=True) for root in self.services.roots
            ),
            "services": (
                TrustedService(
                    service="attestation-service",
                    url=attestation.url,
                    identity=attestation.identity,
                    certificate_pem=attestation.certificate_pem,
                    configuration=config.digest(),
                    log_key=None,
                    **common,
                ),
                TrustedService(
                    service="key-service",
                    url=keys.url,
                    identity=keys.identity,
                    certificate_pem=keys.certificate_pem,
                    configuration=str(keys.ready["configuration"]),
                    log_key=str(keys.ready["log_key"]),
                    **common,
                ),
            ),
            "owners": (self.services.owner.verifying_key.thumbprint,),
            "agent_measurements": (MRENCLAVE.hex(),),
            "agent_mrtds": (MRTD.hex(),),
            "agent_launch_digests": (LAUNCH_DIGEST.hex(),),
            **changed,
        }
        return Trust(**fields)
