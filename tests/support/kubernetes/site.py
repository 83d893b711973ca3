"""What a cluster of the tests is called on this machine, and where its parts lie."""

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).parents[3]
NODE: Final = "node-1"
POD_IMAGE: Final = "localhost/strongroom-podbox"
"""The image of the tests' own pods."""
DOMAIN: Final = "cluster.local"
SERVICE_NETWORK: Final = "10.96.0.0/16"
"""Exists in the node's network alone, like all addresses of services."""
API_SERVICE: Final = "10.96.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One cluster's names, addresses and folders. Two sites can have a cluster each at the same time.

    Attributes:
        name: The name of its cgroups and of its lock.
        link: The name of the link to the node, as this machine sees it.
        number: The third number of the link's addresses, and what tells the pods' networks apart.
        state: What is kept from one cluster to the next.
        run: What belongs to one cluster and goes with it.
        store: The folder of containerd's images.
        alone: Whether the node has no cluster: containerd, and a kubelet that starts pods from files.
    """

    name: str
    link: str
    number: int
    state: Path
    run: Path
    store: Path
    alone: bool = False

    @property
    def host_address(self) -> str:
        """This machine's end of the link: the one address outside that the node and its pods reach."""
        return f"10.200.{self.number}.1"

    @property
    def node_address(self) -> str:
        """The node's end of the link."""
        return f"10.200.{self.number}.2"

    @property
    def link_network(self) -> str:
        return f"10.200.{self.number}.0/24"

    @property
    def pod_network(self) -> str:
        return f"10.{244 + self.number}.0.0/16"

    @property
    def api(self) -> str:
        """The API server's address."""
        return f"https://{self.node_address}:6443"

    @property
    def lock(self) -> Path:
        """The file that is locked while the cluster, or something of it, is there."""
        return Path("/run") / f"{self.name}.lock"

    @property
    def certificates(self) -> Path:
        return self.run / "certificates"

    @property
    def logs(self) -> Path:
        return self.run / "log"

    @property
    def pod_files(self) -> Path:
        """Where a kubelet alone finds its pods."""
        return self.run / "pod-files"

    @property
    def last_logs(self) -> Path:
        """Where the logs of the last cluster are kept."""
        return self.state / f"{self.run.name}-last-log"

    def to_json(self) -> str:
        """Return the site as an argument of the processes that keep it."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> "Site":
        fields = json.loads(text)
        return cls(**{**fields, **{name: Path(fields[name]) for name in ("state", "run", "store")}})


def state_folder() -> Path:
    """Return the folder for what is kept: `STRONGROOM_E2E_DIR`, or one in the user's cache."""
    chosen = os.environ.get("STRONGROOM_E2E_DIR")
    if chosen:
        return Path(chosen).absolute()
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache).absolute() / "strongroom-e2e"


def default_site(worker: int = 0) -> Site:
    """Return the site of a test session's cluster.

    Args:
        worker: Which of the session's processes it is for: each has a cluster of its own.
    """
    state, mark = state_folder(), f"-{worker}" if worker else ""
    return Site(
        name=f"strongroom-e2e{mark}",
        link=f"sr-e2e{mark}",
        number=worker + 1 if worker else 0,
        state=state,
        run=state / f"run{mark}",
        store=state / f"containerd{mark}",
    )


def second_site() -> Site:
    """Return the site of clusters that are there to be killed: nothing of it is kept."""
    site = default_site()
    run = site.state / "run-killed"
    return replace(site, name="strongroom-e2e-killed", link="sr-e2e-k", number=1, run=run, store=run / "containerd")
