"""The trust file: the anchors a client or an auditor starts from. Written by the owner, never by a service."""

from typing import Literal, Self

from pydantic import Field, model_validator

from strongroom.wire.azure_attestation import TrustedAzureAttestation
from strongroom.wire.model import DatasetName, Hex32, Hex48, ImageDigest, Message, TeeKind, Url, VirtualTeeKind
from strongroom.wire.service import HOLDERS_WHEN_ATTESTED, MasterKeyHolder, Mode, ServiceKind


class TrustedRootEntry(Message):
    """A hardware vendor's root; `simulated` must be said, and the root must say it too."""

    certificate_pem: str
    simulated: bool


class TrustedService(Message):
    """A service as it was pinned.

    Attributes:
        url: Where this client reaches it.
        cluster_url: Where pods and other services of its cluster reach it, and what it calls itself; None where that is
            `url` too.
        certificate_pem: The identity certificate; its key's SHA-256 is `identity`.
        measurement: The service's MRENCLAVE, where it runs in a (simulated) TEE; None means: the identity's word alone.
        log_key: For a key service: its checkpoint verification key, a C2SP vkey line.
        master_key: For a key service: how its master key is held; None accepts what an owner-operated one has.
        witnesses: For a key service: the verification key lines of its log's witnesses.
        witnesses_required: How many of them must have cosigned what a receipt shows.
        predecessors: The identities that it had before, oldest first: what they certified still holds.

    An attested service is one whose code is pinned, and whose master key its operator cannot read.
    """

    service: ServiceKind
    url: Url
    identity: Hex32
    certificate_pem: str
    mode: Mode
    measurement: Hex32 | None
    configuration: Hex32
    log_key: str | None
    master_key: MasterKeyHolder | None = None
    witnesses: tuple[str, ...] = Field(default=(), max_length=32)
    witnesses_required: int = Field(default=0, ge=0, le=32)
    predecessors: tuple[Hex32, ...] = ()
    cluster_url: Url | None = None

    @property
    def own_url(self) -> str:
        """The address by which the service knows itself: the issuer of its results, and where pods reach it."""
        return self.cluster_url or self.url

    def identities_until(self, identity: str) -> tuple[str, ...] | None:
        """Return the identities that the service had before one of its own, oldest first; None for a foreign one."""
        identities = (*self.predecessors, self.identity)
        return identities[: identities.index(identity)] if identity in identities else None

    @model_validator(mode="after")
    def _means_its_mode(self) -> Self:
        if self.mode == "attested" and self.measurement is None:
            raise ValueError("an attested service needs a measurement")
        if self.mode == "attested" and self.service == "key-service" and self.master_key not in HOLDERS_WHEN_ATTESTED:
            raise ValueError("an attested key service has its master key in an HSM, a vault or custody")
        return self


class PodReference(Message):
    """What a pod's TEE must be for its agent to be trusted.

    The virtual machine is measured at its launch. What runs in it is what its initdata let its guest components start;
    so neither is trusted without the other (`attestation.evidence.initdata`).

    Attributes:
        measurement: The virtual machine's: MRTD, or MEASUREMENT.
        configuration: Digest of its initdata but for the application. Either this, or the next two.
        template: Digest of its initdata but for application and image.
        image: The one image that these initdata start.
    """

    tee: VirtualTeeKind
    measurement: Hex48
    configuration: Hex32 | None = None
    template: Hex32 | None = None
    image: ImageDigest | None = None

    @model_validator(mode="after")
    def _says_what_runs(self) -> Self:
        if self.template is None:
            is_whole = self.configuration is not None and self.image is None
        else:
            is_whole = self.configuration is None and self.image is not None
        if not is_whole:
            raise ValueError("a pod is named by its configuration, or by template and image together")
        return self


class NodeReference(Message):
    """What a confidential node must be. It says nothing of the agent: whoever administers the node chooses that.

    Attributes:
        measurement: MRTD, or MEASUREMENT, of the virtual machine; with a paravisor below it, the paravisor's.
    """

    tee: VirtualTeeKind
    measurement: Hex48


class Anchors(Message):
    """Every anchor of one owner's installation.

    Attributes:
        hardware: "simulated" allows roots that say so; shown wherever this file is used.
        owners: Thumbprints of the owners' signing keys.
        agent_measurements: The agents' reference values as SGX enclaves (MRENCLAVE).
        agent_mrtds: As TDX trust domains (MRTD).
        agent_launch_digests: As SEV-SNP guests (MEASUREMENT).
        pods: As pods, each in a TEE of its own.
        nodes: Confidential nodes, on which the cluster's administrator is trusted as well.
        azure_attestation: Providers of Azure Attestation whose results are believed; these roots and agents count for
            what they appraised, too.
    """

    hardware: Literal["simulated", "real"]
    roots: tuple[TrustedRootEntry, ...]
    services: tuple[TrustedService, ...]
    owners: tuple[Hex32, ...]
    agent_measurements: tuple[Hex32, ...]
    agent_mrtds: tuple[Hex48, ...] = ()
    agent_launch_digests: tuple[Hex48, ...] = ()
    pods: tuple[PodReference, ...] = Field(default=(), max_length=1024, exclude_if=lambda pods: not pods)
    nodes: tuple[NodeReference, ...] = Field(default=(), max_length=1024, exclude_if=lambda nodes: not nodes)
    azure_attestation: tuple[TrustedAzureAttestation, ...] = Field(default=(), max_length=16)

    @model_validator(mode="after")
    def _attestation_services_are_told_apart(self) -> Self:
        ours = [each for each in self.services if each.service == "attestation-service"]
        urls = [url for each in ours for url in {each.url, each.own_url}]
        urls += [each.url for each in self.azure_attestation]
        if self.azure_attestation and len(set(urls)) != len(urls):
            raise ValueError("two attestation services have one address")
        return self

    def agents(self, tee: TeeKind) -> tuple[str, ...]:
        """Return the agents' reference values as one kind of TEE (a process's); empty where none of it is trusted."""
        return {"sgx": self.agent_measurements, "tdx": self.agent_mrtds, "snp": self.agent_launch_digests}[tee]


class Partner(Message):
    """Another owner, whose datasets stand beside one's own in an application.

    Attributes:
        name: What this side calls that owner, as in `--dataset NAME@PARTNER`.
        accept_results: Whether this side's key service believes that owner's attestation service.
        anchors: That owner's anchors. They count for that owner's own services and datasets alone.
    """

    name: DatasetName
    accept_results: bool
    anchors: Anchors


class Trust(Anchors):
    """A trust file: one's own anchors, and those of partners, never mixed.

    Attributes:
        partners: The other owners.
    """

    version: Literal[1] = 1
    partners: tuple[Partner, ...] = Field(default=(), max_length=63)

    @model_validator(mode="after")
    def _parties_are_told_apart(self) -> Self:
        names = [partner.name for partner in self.partners]
        identities = [service.identity for party in self.parties() for service in party.services]
        if len(set(names)) != len(names):
            raise ValueError("two partners have one name")
        if len(set(identities)) != len(identities):
            raise ValueError("a service is two parties' at once")
        if any(partner.anchors.hardware != self.hardware for partner in self.partners):
            raise ValueError("all parties trust the same kind of hardware")
        return self

    def parties(self) -> tuple[Anchors, ...]:
        """Return everybody's anchors, one's own first."""
        return (self, *(partner.anchors for partner in self.partners))

    def partner(self, name: str) -> Partner | None:
        """Return a partner, if there is one of this name."""
        return next((partner for partner in self.partners if partner.name == name), None)

    def party_of(self, identity: str) -> Anchors | None:
        """Return the anchors of the party whose service this is, if it is anybody's."""
        for party in self.parties():
            if any(each.identities_until(identity) is not None for each in party.services):
                return party
        return None
