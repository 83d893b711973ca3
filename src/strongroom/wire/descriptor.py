"""What the host hands an agent. Everything in it is the host's word: a wrong one yields another digest or no key."""

from typing import Final, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from strongroom.base.limits import LIMITS
from strongroom.wire.azure_attestation import AzureAttestationAddress
from strongroom.wire.model import B64Url, CompactJws, DatasetName, Hex32, Message, Shape, Url
from strongroom.wire.runtime_data import Role
from strongroom.wire.vault_key import VaultAddress

DeviceKind: TypeAlias = Literal[
    "simulated-sgx",
    "simulated-tdx",
    "simulated-snp",
    "gramine",
    "occlum",
    "tsm",
    "sev-guest",
    "tdx-guest",
    "azure-vtpm",
]
"""What quotes a TEE: the simulated platform as one of three kinds, or an interface of real hardware."""
_SIMULATED: Final = frozenset({"simulated-sgx", "simulated-tdx", "simulated-snp"})
_ENCLAVES: Final = frozenset({"simulated-sgx", "gramine", "occlum"})


class DeviceSetting(Message):
    """Which device quotes this TEE. It is always said, never guessed: a wrong one yields no evidence or no key.

    Attributes:
        kind: The device; what each needs is in `docs/reference/devices.md`.
        socket: Path of the simulated platform's socket; for the simulated kinds only.
        shape: As what this TEE was launched, so that a wrong launch is noticed here; what it counts as follows from its
            evidence (`policy.shapes`).
        initdata: What a pod was launched with; for that shape only.
    """

    kind: DeviceKind
    socket: str | None = None
    shape: Shape = Field(default="process", exclude_if=lambda shape: shape == "process")
    initdata: B64Url | None = Field(
        default=None, max_length=LIMITS.initdata_bytes * 4 // 3 + 4, exclude_if=lambda document: document is None
    )

    @model_validator(mode="after")
    def _only_simulated_devices_have_a_socket(self) -> Self:
        if (self.kind in _SIMULATED) != (self.socket is not None):
            msg = "a simulated device names its socket, a real one does not"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _can_have_its_shape(self) -> Self:
        if (self.shape == "pod") != (self.initdata is not None):
            raise ValueError("a pod names its initdata, another shape has none")
        if self.shape != "process" and self.kind in _ENCLAVES:
            raise ValueError("an enclave is a process's TEE")
        if self.shape != "confidential-node" and self.kind == "azure-vtpm":
            raise ValueError("an Azure confidential VM is a confidential node")
        return self


class ServiceAddress(Message):
    """Where a service answers, and the identity certificate it shows (checked against what bindings pin)."""

    url: Url
    certificate_pem: str


AttestationAddress: TypeAlias = ServiceAddress | AzureAttestationAddress
"""Which attestation service appraises a run's TEEs: one of ours, or a provider of Azure Attestation."""


class DriverAddress(Message):
    """For executors: the driver's Spark master and the key the driver's TEE signs with."""

    master_url: str = Field(pattern=r"^spark://[A-Za-z0-9.\-\[\]:]+:[0-9]{1,5}\Z")
    driver_key: Hex32


class Sizes(Message):
    """Resources: cores and memory (MiB) of this TEE's Spark processes; `total_cores` of all executors (driver only)."""

    driver_memory_mb: int = Field(ge=256, le=1 << 20)
    executor_memory_mb: int = Field(ge=256, le=1 << 20)
    executor_cores: int = Field(ge=1, le=1024)
    executors: int = Field(ge=1, le=10_000)


class Descriptor(Message):
    """One agent's start.

    Attributes:
        device: What quotes this TEE.
        package: Folder with the packed application.
        scratch: A folder on a memory file system, private to this TEE; the agent works only there.
        attestation_service: Who appraises this TEE.
        key_services, vaults: What keeps the keys of the application's datasets, by what its bindings pin: key services
            of Strongroom's by identity, vaults' keys by the digest of their statement. At least one.
        storage: For each dataset: a `file:///…` location.
        host: The address Spark's processes of this TEE bind to.
        report: A file in which the agent tells the host what the host must know (JSON lines of events; no secret).
        output: For the driver: the folder that receives the receipt and the sealed output.
        lifeline: True: the agent ends when its standard input closes (the supervisor died).
    """

    version: Literal[1] = 1
    role: Role
    application: Hex32
    ticket: CompactJws
    device: DeviceSetting
    package: str
    scratch: str
    attestation_service: AttestationAddress
    key_services: dict[Hex32, ServiceAddress] = Field(default={}, max_length=16)
    vaults: dict[Hex32, VaultAddress] = Field(default={}, max_length=16)
    storage: dict[DatasetName, str]
    sizes: Sizes
    host: str = Field(pattern=r"^[A-Za-z0-9.\-:]+\Z")
    driver: DriverAddress | None = None
    report: str
    output: str
    lifeline: bool = False

    @model_validator(mode="after")
    def _something_keeps_the_keys(self) -> Self:
        if not self.key_services and not self.vaults:
            msg = "a descriptor names at least one key service or vault"
            raise ValueError(msg)
        return self
