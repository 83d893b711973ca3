"""What the host hands an agent in a pod, and where it stands there.

Everything here is the host's word, as on one machine (`wire.descriptor`): a wrong one yields another digest or no key.
The paths are the same in driver and executor pods of every run.
"""

from typing import Annotated, Final, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from strongroom.wire.descriptor import AttestationAddress, DeviceSetting, ServiceAddress, Sizes
from strongroom.wire.model import CompactJws, DatasetName, Hex32, Message
from strongroom.wire.vault_key import VaultAddress

RUN_FOLDER: Final = "/strongroom/run"
DESCRIPTOR_NAME: Final = "descriptor.json"
"""Key of the ConfigMap, and name of the file in `RUN_FOLDER`."""
PACKAGE_FOLDER: Final = "/strongroom/package"
PACKAGE_PART_BYTES: Final = 700 << 10
PACKAGE_PARTS: Final = 32
"""An object of Kubernetes holds at most 1 MiB; the package travels in so many of at most `PACKAGE_PART_BYTES` each."""
MEMORY_FOLDER: Final = "/strongroom/memory"
MEMORY_VOLUME: Final = "spark-local-dir-1"
"""The memory volume's name: with a volume of this name, Spark adds none of its own, which would lie on a disk."""
TOKEN_FOLDER: Final = "/strongroom/token"  # noqa: S105 - a folder
TOKEN_LIFETIME_S: Final = 600
PLATFORM_SOCKET: Final = "/strongroom/platform/platform.sock"
TERMINATION_LOG: Final = "/dev/termination-log"
DRIVER_KEY_ENV: Final = "STRONGROOM_DRIVER_KEY"
"""In executor pods: thumbprint of the driver's signing key, which the driver's agent writes into their template."""
POD_NAME_ENV: Final = "STRONGROOM_POD_NAME"
"""In the driver's pod: its own name, from the downward API (`metadata.name`)."""

NamespaceName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")]
"""A namespace of Kubernetes (RFC 1123 label)."""
FileLocation = Annotated[str, StringConstraints(pattern=r"^file:///[^\x00-\x1f\x7f]*\Z", max_length=1024)]
"""A folder on storage that is mounted into the pods."""


def package_part_name(number: int) -> str:
    """Return the name of one part of the package, counted from 0: `part-000`."""
    return f"part-{number:03d}"


def token_audience(key_service: str) -> str:
    """Return whom a service account's token is for: one key service, by its identity."""
    return f"strongroom:{key_service}"


class PodDescriptor(Message):
    """One run's start in pods: the same document for the driver and all executors.

    Attributes:
        application: Digest of the application.
        ticket: The run ticket.
        device: What quotes the TEEs; a simulated one's socket is `PLATFORM_SOCKET`.
        attestation_service: Who appraises the TEEs.
        key_services, vaults: What keeps the keys of the application's datasets, as in `wire.descriptor.Descriptor`.
        storage: For each dataset: a location, as the pods see it.
        settings: Spark settings on where and how pods run; those that `engine.settings` lists.
        executor_template: The executors' pod template, a Pod in JSON. The driver's agent adds the driver's key to the
            environment of its Spark container and hands Spark the file.
        namespace: Where the pods of the run are.
        archive: A folder that gets a copy of receipt and sealed output, in a folder named by the run's id; or None.
    """

    version: Literal[1] = 1
    application: Hex32
    ticket: CompactJws
    device: DeviceSetting
    attestation_service: AttestationAddress
    key_services: dict[Hex32, ServiceAddress] = Field(default={}, max_length=16)
    vaults: dict[Hex32, VaultAddress] = Field(default={}, max_length=16)
    storage: dict[DatasetName, str]
    sizes: Sizes
    settings: dict[str, Annotated[str, StringConstraints(max_length=4096)]] = Field(default={}, max_length=256)
    executor_template: str = Field(max_length=256 << 10)
    namespace: NamespaceName
    archive: FileLocation | None = None

    @model_validator(mode="after")
    def _something_keeps_the_keys(self) -> Self:
        if not self.key_services and not self.vaults:
            msg = "a descriptor names at least one key service or vault"
            raise ValueError(msg)
        return self
