"""What the cluster needs of this machine."""

import os
import shutil
import sys
from collections.abc import Iterable
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final

from strongroom.base.errors import ConfigurationError

PROGRAMS: Final = (
    "conntrack", "containerd", "ctr", "ip", "iptables", "mmdebstrap", "mount", "nsenter", "runc", "setpriv", "unshare",
)  # fmt: skip
_SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PLUGIN_FOLDERS: Final = ("/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni")
_PLUGINS: Final = ("bridge", "host-local", "portmap", "loopback")


def search_path() -> str:
    """Return where programs are looked for: people's own PATH may lack the folders of system programs."""
    return f"{os.environ.get('PATH', '')}:{_SYSTEM_PATH}".lstrip(":")


def missing() -> str:
    """Return why no cluster can be made here, as a sentence; empty when one can."""
    if os.geteuid() != 0:
        return "a cluster in namespaces of its own needs root"
    return _not_installed()


def plugin_folder() -> Path:
    """Return the folder of the container network plugins."""
    return _plugin_folders()[0]


def demand_free(networks: Iterable[str], routes: Iterable[dict[str, Any]]) -> None:
    """Refuse networks that this machine uses already; a network that holds them is no obstacle.

    Args:
        networks: What the cluster will use, as CIDR.
        routes: What `ip -json route` says.

    Raises:
        ConfigurationError: One is in use.
    """
    for network in map(ip_network, networks):
        for route in routes:
            target = ip_network("0.0.0.0/0" if route["dst"] == "default" else route["dst"])
            if target.subnet_of(network):
                raise ConfigurationError(
                    f"{network} is in use on this machine: {route['dst']} by {route.get('dev', 'an unknown device')}",
                    action="free it, or use a cluster of your own: KUBECONFIG=... make test-kubernetes",
                )


def _not_installed() -> str:
    programs = [name for name in PROGRAMS if shutil.which(name, path=search_path()) is None]
    if programs:
        return f"not installed: {', '.join(programs)} (run `make system`)"
    if not _plugin_folders():
        return f"the CNI plugins {', '.join(_PLUGINS)} are not installed (run `make system`)"
    return ""


def _plugin_folders() -> list[Path]:
    folders = map(Path, _PLUGIN_FOLDERS)
    return [folder for folder in folders if all((folder / plugin).exists() for plugin in _PLUGINS)]


def main() -> int:
    """Return 0 when the system packages are there; say on standard error what is not."""
    lacking = _not_installed()
    if lacking:
        sys.stderr.write(f"{lacking}\n")
    return 1 if lacking else 0


if __name__ == "__main__":
    sys.exit(main())
