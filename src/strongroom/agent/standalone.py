"""An agent on one machine: Spark's standalone cluster, started by a descriptor file, under a supervisor."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from strongroom.agent.engine_run import end, wait_for_master
from strongroom.agent.report import Report
from strongroom.agent.start import OpenCluster, Start
from strongroom.agent.stop import Stop
from strongroom.base.errors import ConfigurationError
from strongroom.base.workflow import Step
from strongroom.datasets.storage import write_file
from strongroom.engine.cluster import StandaloneCluster
from strongroom.engine.node import Child, Node, ProtectedNode
from strongroom.engine.settings import STANDALONE
from strongroom.engine.spark import start_master, start_worker
from strongroom.wire.descriptor import Descriptor


@dataclass(frozen=True, slots=True, kw_only=True)
class StandalonePlace:
    """One machine (see `start.Place`).

    Args:
        start: What the supervisor's descriptor says.
        descriptor: The same, with what only this place needs.
        report: What the supervisor reads.
    """

    start: Start
    descriptor: Descriptor
    report: Report

    def workload_token(self, key_service: str) -> None:
        """Return None: on one machine nobody vouches for a workload (see `Place`)."""
        del key_service

    @contextmanager
    def cluster(self, node: Node, *, driver_key: str) -> Iterator[OpenCluster]:
        """Run a master in the driver's TEE (see `Place`). The supervisor tells executors the driver's key."""
        del driver_key
        sizes = self.descriptor.sizes
        with self.report.step(Step.EXECUTORS, "Spark master started"):
            master, url = start_master(node)
        try:
            cluster = StandaloneCluster(url=url, cores_max=sizes.executor_cores * sizes.executors)
            yield OpenCluster(cluster=cluster, processes=(master,))
        finally:
            end(master)

    def start_executor(self, node: ProtectedNode, *, settings: Mapping[str, str], stop: Stop) -> Child:
        """Start a standalone worker (see `Place`); the driver's Spark tells it the settings of its executors."""
        del settings
        driver, sizes = self.descriptor.driver, self.descriptor.sizes
        if driver is None:
            raise ConfigurationError("an executor's descriptor names its driver")
        with self.report.step(Step.EXECUTORS, "Spark worker started"):
            wait_for_master(driver.master_url, stop=stop)
            return start_worker(
                node,
                master_url=driver.master_url,
                cores=sizes.executor_cores,
                memory=f"{sizes.executor_memory_mb}m",
            )

    def keep(self, name: str, content: bytes) -> None:
        """Write a file into the folder that the host named (see `Place`)."""
        write_file(Path(self.descriptor.output) / name, content)


def begin_on_machine(descriptor: Descriptor, *, report: Report) -> StandalonePlace:
    """Take a descriptor's words.

    Raises:
        ConfigurationError: It does not fit its role.
    """
    if (descriptor.role == "executor") != (descriptor.driver is not None):
        raise ConfigurationError("an executor's descriptor names its driver, a driver's does not")
    start = Start(
        role=descriptor.role,
        application=descriptor.application,
        ticket=descriptor.ticket,
        device=descriptor.device,
        package=Path(descriptor.package),
        attestation_service=descriptor.attestation_service,
        key_services=descriptor.key_services,
        vaults=descriptor.vaults,
        storage=descriptor.storage,
        sizes=descriptor.sizes,
        host=descriptor.host,
        driver_key=descriptor.driver.driver_key if descriptor.driver else None,
        scheduling=STANDALONE,
    )
    return StandalonePlace(start=start, descriptor=descriptor, report=report)
