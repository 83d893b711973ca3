"""The services in a real cluster, installed by real Helm, with their owner on this machine."""

import contextlib
import json
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.support.charts import CHART
from tests.support.installation import Ended, Installation
from tests.support.kubernetes.cluster import Cluster
from tests.support.kubernetes.images import product_archive
from tests.support.kubernetes.kubebox import Say
from tests.support.kubernetes.site import state_folder

RELEASE: Final = "strongroom"
SERVICES: Final = ("attestation-service", "key-service")
_WAIT: Final = ("--wait", "--timeout=5m")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceImage:
    """The services' image in a cluster.

    Attributes:
        reference: By its digest, for pods.
        measurement: What its build wrote of what it measures.
    """

    reference: str
    measurement: Path


def service_image(cluster: Cluster, *, say: Say) -> ServiceImage:
    """Build the services' image, if need be, and bring it into the cluster."""
    archive = product_archive("service", state_folder(), say=say)
    measurement = archive.path.with_name("service.measurement.json")
    return ServiceImage(reference=cluster.import_image(archive.path), measurement=measurement)


@dataclass(kw_only=True)
class InstalledChart(Installation):
    """An owner's installation whose services run in a cluster.

    Attributes:
        cluster: The cluster.
        image: The services' image.
        namespace: The services' namespace.
        platform_namespace: The simulated platform's.
        options: Of `strongroom chart values`.
        addresses: Where this machine reaches the services while they are forwarded.
    """

    cluster: Cluster
    image: ServiceImage
    namespace: str
    platform_namespace: str
    options: tuple[str, ...] = ()
    addresses: dict[str, str] = field(default_factory=dict)

    @property
    def files(self) -> Path:
        """Where `chart values` writes."""
        return self.root / "install"

    def write_values(self) -> None:
        """Make identities and values, as the owner."""
        places = ("--namespace", self.namespace, "--platform-namespace", self.platform_namespace)
        measured = ("--measurements", str(self.image.measurement))
        self.done("chart", "values", "--out", str(self.files), *places, *measured, *self.options)

    def apply_objects(self) -> None:
        """Make the namespaces and the owner's Secrets, as the operator."""
        for name in ("namespaces.json", "secrets.json"):
            self.cluster.kubectl("apply", "--server-side", f"--filename={self.files / name}")

    def helm(self, verb: str, *more: str) -> str:
        """Install or upgrade the release, and wait until everything is ready."""
        values = [
            f"--values={self.files / 'values.yaml'}",
            f"--set=images.service={self.image.reference}",
            f"--set=simulatedPlatform.hostPath=/run/strongroom/{self.namespace}",  # one node may have several of them
        ]
        return self.cluster.helm(verb, RELEASE, str(CHART), f"--namespace={self.namespace}", *values, *more, *_WAIT)

    def roll_back(self, revision: int) -> None:
        """Go back to an earlier revision, and wait until everything is ready."""
        self.cluster.helm("rollback", RELEASE, str(revision), f"--namespace={self.namespace}", *_WAIT)

    def uninstall(self) -> None:
        """Remove the release."""
        self.cluster.helm("uninstall", RELEASE, f"--namespace={self.namespace}", *_WAIT)

    def wait_ready(self, *names: str) -> None:
        """Wait until services are ready, with all their replicas."""
        for name in names:
            what = ("rollout", "status", f"statefulset/{name}", f"--namespace={self.namespace}", "--timeout=240s")
            self.cluster.kubectl(*what, timeout_s=300)

    @contextmanager
    def reached(self, *, pods: dict[str, str] | None = None) -> Iterator[None]:
        """Make the services reachable on this machine while the block runs, and have the owner verify them.

        Args:
            pods: For a service: the pod that is reached, in the place of any one.
        """
        with self.forwarded(pods=pods):
            self.trust()
            yield

    @contextmanager
    def forwarded(self, *, pods: dict[str, str] | None = None) -> Iterator[None]:
        """Make the services reachable on this machine while the block runs."""
        with ExitStack() as open_until_the_end:
            for name in SERVICES:
                target = f"pod/{pods[name]}" if pods and name in pods else name
                place = open_until_the_end.enter_context(self.cluster.forward(target, self.namespace, 8443))
                self.addresses[name] = f"https://{place}"
            yield
        self.addresses.clear()

    def try_to_trust(self) -> Ended:
        """Have the owner verify the services that are reached."""
        return self.strongroom("chart", "trust", *(f"--{name}={url}" for name, url in self.addresses.items()))

    def trust(self) -> None:
        """Have the owner verify the services, which must succeed."""
        ended = self.try_to_trust()
        assert ended.status == 0, ended.text

    def vault_get(self, path: str) -> dict[str, Any]:
        """Ask the key service for something over Key Vault's API, as the owner."""
        return self.vault("GET", path, {})

    def keys(self) -> list[dict[str, Any]]:
        """The keys of the owner's datasets, as the key service lists them."""
        found: list[dict[str, Any]] = json.loads(self.done("keys", "list", "--json"))
        return found

    def remove(self) -> None:
        """Delete everything of it in the cluster."""
        with contextlib.suppress(Exception):
            self.uninstall()
        for name in (self.namespace, self.platform_namespace):
            self.cluster.delete("namespace", name, wait=False)


@contextmanager
def prepared_chart(
    root: Path, cluster: Cluster, image: ServiceImage, *, options: tuple[str, ...] = ()
) -> Iterator[InstalledChart]:
    """An owner's values, and Secrets in namespaces of their own; nothing is installed yet."""
    for name in ("home", "tmp"):
        (root / name).mkdir(exist_ok=True)
    environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": f"{root}/home", "TMPDIR": f"{root}/tmp"}
    mark = secrets.token_hex(3)
    made = InstalledChart(
        root=root,
        environment=environment,
        cluster=cluster,
        image=image,
        namespace=f"strongroom-{mark}",
        platform_namespace=f"platform-{mark}",
        options=options,
    )
    try:
        made.write_values()
        made.apply_objects()
        yield made
    finally:
        made.remove()
        shutil.rmtree(root / "tmp", ignore_errors=True)
