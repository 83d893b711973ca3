"""What the host hands an agent. Everything in it is the host's word: a wrong one yields another digest or no key."""

from typing import Final, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from strongroom.wire.model import CompactJws, DatasetName, Hex32, Message, Url
from strongroom.wire.runtime_data import Role
from strongroom.wire.vault_key import VaultAddress

DeviceKind: TypeAlias = Literal[
    "simulated-sgx", "simulated-tdx", "simulated-snp", "gramine", "occlum", "tsm", "sev-guest", "tdx-guest"
]
"""What quotes a TEE: the simulated platform as one of three kinds, or an interface of real hardware."""
_SIMULATED: Final = frozenset({"simulated-sgx", "simulated-tdx", "simulated-snp"})


class DeviceSetting(Message):
    """Which device quotes this TEE. It is always said, never guessed: a wrong one yields no evidence or no key.

    Attributes:
        kind: The device; what each needs is in `docs/reference/devices.md`.
        socket: Path of the simulated platform's socket; for the simulated kinds only.
    """

    kind: DeviceKind
    socket: str | None = None

    @model_validator(mode="after")
    def _only_simulated_devices_have_a_socket(self) -> Self:
        if (self.kind in _SIMULATED) != (self.socket is not None):
            msg = "a simulated device names its socket, a real one does not"
            raise ValueError(msg)
        return self


class ServiceAddress(Message):
    """Where a service answers, and the identity certificate it shows (checked against what bindings pin)."""

    url: Url
    certificate_pem: str


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
    attestation_service: ServiceAddress
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
