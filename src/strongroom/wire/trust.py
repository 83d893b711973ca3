"""The trust file: the anchors a client or an auditor starts from. Written by the owner, never by a service."""

from typing import Literal

from strongroom.wire.model import Hex32, Hex48, Message, TeeKind, Url
from strongroom.wire.service import Mode, ServiceKind


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
    """

    service: ServiceKind
    url: Url
    identity: Hex32
    certificate_pem: str
    mode: Mode
    measurement: Hex32 | None
    configuration: Hex32
    log_key: str | None


class Trust(Message):
    """Every anchor of an installation.

    Attributes:
        hardware: "simulated" allows roots that say so; shown wherever this file is used.
        owners: Thumbprints of the owners' signing keys.
        agent_measurements: The agents' reference values as SGX enclaves (MRENCLAVE).
        agent_mrtds: As TDX trust domains (MRTD).
        agent_launch_digests: As SEV-SNP guests (MEASUREMENT).
    """

    version: Literal[1] = 1
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
