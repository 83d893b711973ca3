"""The cluster's control groups: a folder of its own in each hierarchy that this machine has, v1, v2 or both."""

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from strongroom.base.errors import ConfigurationError, UnavailableError

ROOT: Final = Path("/sys/fs/cgroup")
_CONTROLLERS: Final = ("cpu", "cpuset", "hugetlb", "memory", "pids")
"""What kubelet wants to have in its group, as far as the kernel has it, where there is v2 alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hierarchy:
    """One mounted hierarchy.

    Attributes:
        path: Where it is mounted.
        version: 1 or 2.
    """

    path: Path
    version: int

    @property
    def is_unified(self) -> bool:
        """Whether it is the one with everything: beside v1 a v2 hierarchy has no controllers that count."""
        return self.version == 2 and self.path == ROOT


def parse_hierarchies(mounts: str) -> tuple[Hierarchy, ...]:
    """Return the hierarchies below `ROOT`, of the text of /proc/mounts."""
    versions = {"cgroup": 1, "cgroup2": 2}
    found: dict[Path, Hierarchy] = {}
    for line in mounts.splitlines():
        _, place, kind, *_ = line.split()
        path = Path(place)
        if kind in versions and path.is_relative_to(ROOT):
            found[path] = Hierarchy(path=path, version=versions[kind])
    return tuple(found.values())


def hierarchies() -> tuple[Hierarchy, ...]:
    """Return this machine's hierarchies.

    Raises:
        ConfigurationError: There are none.
    """
    found = parse_hierarchies(Path("/proc/mounts").read_text())
    if not found:
        raise ConfigurationError(f"no control groups are mounted below {ROOT}", action="mount cgroup2 there")
    return found


def missing_controllers() -> tuple[str, ...]:
    """Return the controllers that have to be handed on to groups below the root: with v2 alone there may be some."""
    unified = [each.path for each in hierarchies() if each.is_unified]
    if not unified:
        return ()
    there = (unified[0] / "cgroup.controllers").read_text().split()
    given = (unified[0] / "cgroup.subtree_control").read_text().split()
    return tuple(name for name in _CONTROLLERS if name in there and name not in given)


def make(name: str, controllers: Iterable[str]) -> None:
    """Make the groups, and hand these controllers on to them.

    Raises:
        ConfigurationError: The kernel does not allow it.
    """
    for controller in controllers:
        _hand_on(f"+{controller}")
    for hierarchy in hierarchies():
        group = hierarchy.path / name
        group.mkdir(exist_ok=True)
        for file in ("cpuset.cpus", "cpuset.mems"):
            if hierarchy.version == 1 and (group / file).exists():  # a new one is empty, and takes no process
                (group / file).write_text((hierarchy.path / file).read_text())


def remove(name: str, controllers: Iterable[str], *, timeout_s: float = 15.0) -> None:
    """Remove the groups with all below them, once their last processes are reaped, and take the controllers back.

    Raises:
        UnavailableError: There are still processes in them.
    """
    deadline = time.monotonic() + timeout_s
    for hierarchy in hierarchies():
        while (hierarchy.path / name).exists():
            _remove_tree(hierarchy.path / name)
            if time.monotonic() > deadline:
                raise UnavailableError(
                    f"{hierarchy.path / name} cannot be removed: processes are left in it", action="end them"
                )
            time.sleep(0.02)
    for controller in controllers:
        with suppress(ConfigurationError):  # somebody else uses it by now
            _hand_on(f"-{controller}")


def _remove_tree(group: Path) -> None:
    for folder, _, _ in os.walk(group, topdown=False):
        with suppress(OSError):
            Path(folder).rmdir()


def _hand_on(change: str) -> None:
    try:
        (ROOT / "cgroup.subtree_control").write_text(change)
    except OSError as error:
        raise ConfigurationError(
            f"the controller {change[1:]} cannot be handed on to new control groups: {error.strerror}",
            action="in a container with a root group of its own, first move its processes below it: "
            f"mkdir {ROOT}/all && for each PID in {ROOT}/cgroup.procs: echo PID > {ROOT}/all/cgroup.procs",
        ) from error
