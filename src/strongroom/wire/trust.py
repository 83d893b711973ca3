"""The trust file: the anchors a client or an auditor starts from. Written by the owner, never by a service."""

from typing import Literal, Self

from pydantic import Field, model_validator

from strongroom.wire.model import DatasetName, Hex32, Hex48, Message, TeeKind, Url
from strongroom.wire.service import HOLDERS_WHEN_ATTESTED, MasterKeyHolder, Mode, ServiceKind


class TrustedRootEntry(Message):
    """A hardware vendor's root; `simulated` must be said, and the root must say it too."""

    certificate_pem: str
    simulated: bool


class TrustedService(Message):
    """A service as it was pinned.

    Attributes:
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


class Anchors(Message):
    """Every anchor of one owner's installation.

    Attributes:
        hardware: "simulated" allows roots that say so; shown wherever this file is used.
        owners: Thumbprints of the owners' signing keys.
        agent_measurements: The agents' reference values as SGX enclaves (MRENCLAVE).
        agent_mrtds: As TDX trust domains (MRTD).
        agent_launch_digests: As SEV-SNP guests (MEASUREMENT).
    """

    hardware: Literal["simulated", "real"]
    roots: tuple[TrustedRootEntry, ...]
    services: tuple[TrustedService, ...]
    owners: tuple[Hex32, ...]
    agent_measurements: tuple[Hex32, ...]
    agent_mrtds: tuple[Hex48, ...] = ()
    agent_launch_digests: tuple[Hex48, ...] = ()

    def agents(self, tee: TeeKind) -> tuple[str, ...]:
        """Return the agents' reference values as one kind of TEE; empty where none of that kind is trusted."""
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
