"""Which hierarchies a machine has: v1, v2 or both."""

from pathlib import Path

import pytest
from tests.support.kubernetes.cgroups import ROOT, Hierarchy, parse_hierarchies

MIXED = """\
tmpfs /sys/fs/cgroup tmpfs rw,relatime,mode=755 0 0
cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0
cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0
cgroup /elsewhere/memory cgroup rw,relatime,memory 0 0
"""
V2_ALONE = "proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,nsdelegate 0 0\n"


def test_mixed_hierarchies_are_each_one() -> None:
    assert parse_hierarchies(MIXED) == (
        Hierarchy(path=ROOT / "cpu,cpuacct", version=1),
        Hierarchy(path=ROOT / "memory", version=1),
        Hierarchy(path=ROOT / "unified", version=2),
    )


@pytest.mark.parametrize(("mounts", "unified"), [(MIXED, [False, False, False]), (V2_ALONE, [True])])
def test_controllers_are_handed_on_where_there_is_v2_alone(mounts: str, unified: list[bool]) -> None:
    assert [each.is_unified for each in parse_hierarchies(mounts)] == unified


def test_nothing_is_found_where_nothing_is_mounted() -> None:
    assert parse_hierarchies(f"tmpfs {Path('/sys/fs/cgroup')} tmpfs rw 0 0\n") == ()
