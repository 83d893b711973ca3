"""What an agent starts with, and the place it runs in: one machine's standalone cluster, or pods of Kubernetes.

`Start` is the host's word, in one form for both. `Place` is what an agent does differently there.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from strongroom.agent.stop import Stop
from strongroom.engine.cluster import Cluster
from strongroom.engine.node import Child, Node, ProtectedNode
from strongroom.engine.settings import Scheduling
from strongroom.wire.descriptor import AttestationAddress, DeviceSetting, ServiceAddress, Sizes
from strongroom.wire.runtime_data import Role
from strongroom.wire.vault_key import VaultAddress


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """One agent's start. Everything in it is the host's word: a wrong one yields another digest or no key.

    Attributes:
        role: Whose TEE this is.
        application: Digest of the application.
        ticket: The run ticket, a JWS.
        device: What quotes this TEE.
        package: Folder with the packed application.
        attestation_service: Where evidence is appraised.
        key_services, vaults: What keeps the keys, by what bindings pin.
        storage: For each dataset: a location.
        sizes: Cores and memory.
        host: The address that Spark's processes of this TEE bind to.
        driver_key: For executors: thumbprint of the driver's signing key.
        scheduling: How executors come and go.
    """

    role: Role
    application: str
    ticket: str
    device: DeviceSetting
    package: Path
    attestation_service: AttestationAddress
    key_services: Mapping[str, ServiceAddress]
    vaults: Mapping[str, VaultAddress]
    storage: Mapping[str, str]
    sizes: Sizes
    host: str
    driver_key: str | None
    scheduling: Scheduling

    def key_of_driver(self, own: str) -> str:
        """Return the thumbprint of the driver's signing key: for an executor the host's word, for a driver its own."""
        return self.driver_key if self.driver_key is not None else own


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenCluster:
    """A cluster while it gives executors.

    Attributes:
        cluster: What the driver's Spark must know of it.
        processes: Its own processes in this TEE; when one ends, the run does.
    """

    cluster: Cluster
    processes: Sequence[Child] = ()


class Place(Protocol):
    """Where a TEE runs: `standalone.StandalonePlace`, or `pod.PodPlace`."""

    @property
    def start(self) -> Start:
        """What the host said."""

    def workload_token(self, key_service: str) -> str | None:
        """Return the workload's token for a key service, as it is now; None where there is none.

        Raises:
            StrongroomError: It cannot be read, or is no token.
        """

    def cluster(self, node: Node, *, driver_key: str) -> AbstractContextManager[OpenCluster]:
        """Open what gives executors to the driver of this TEE.

        Args:
            node: The driver's TEE.
            driver_key: Thumbprint of its signing key; executors' agents must be told it.
        """

    def start_executor(self, node: ProtectedNode, *, settings: Mapping[str, str], stop: Stop) -> Child:
        """Start Spark's process in an executor's TEE.

        Args:
            node: The executor's TEE.
            settings: The measured application's own Spark settings.
            stop: Told when it is to end.
        """

    def keep(self, name: str, content: bytes) -> None:
        """Give the host a file that the run leaves behind.

        Raises:
            StrongroomError: It cannot be given.
        """
