"""Scratch lies in memory, and who says so is the kernel or what is measured, never the host."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from strongroom.agent import scratch
from strongroom.agent.scratch import demand_memory, file_system_of, make_scratch
from strongroom.base.errors import ConfigurationError
from strongroom.wire.descriptor import DeviceKind

TMPFS, RAMFS, EXT4, OVERLAY, FUSE, UNTOLD = 0x0102_1994, 0x8584_58F6, 0xEF53, 0x794C_7630, 0x6573_5546, 0
DEVICES: tuple[DeviceKind, ...] = get_args(DeviceKind)
Lie = Callable[[int], None]


@pytest.fixture
def lies_on(monkeypatch: pytest.MonkeyPatch) -> Lie:
    return lambda kind: monkeypatch.setattr(scratch, "file_system_of", lambda _: kind)


@pytest.mark.parametrize("path", ["/", "/proc", "/sys", "/dev/shm"])
def test_the_type_is_what_the_kernel_calls_it(path: str) -> None:
    shown = subprocess.run(["stat", "--file-system", "--format=%t", path], capture_output=True, text=True, check=True)
    assert file_system_of(Path(path)) == int(shown.stdout, 16)


def test_a_folder_that_is_not_there_has_no_type(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="does not say"):
        file_system_of(tmp_path / "nothing")


def test_a_folder_that_is_there_already_is_not_scratch(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be made"):
        make_scratch(tmp_path)


@pytest.mark.parametrize("kind", [TMPFS, RAMFS])
@pytest.mark.parametrize("device", DEVICES)
def test_memory_is_memory_whatever_quotes_the_tee(lies_on: Lie, device: DeviceKind, kind: int) -> None:
    lies_on(kind)
    demand_memory(Path("/scratch"), device=device, named_by_host=False)


@pytest.mark.parametrize("kind", [EXT4, OVERLAY, FUSE])
@pytest.mark.parametrize("device", DEVICES)
def test_what_linux_calls_a_disk_is_refused_whatever_the_host_calls_the_tee(
    lies_on: Lie, device: DeviceKind, kind: int
) -> None:
    lies_on(kind)
    with pytest.raises(ConfigurationError, match="which the host can read"):
        demand_memory(Path("/scratch"), device=device, named_by_host=False)


def test_where_gramine_says_nothing_its_manifest_counts(lies_on: Lie) -> None:
    lies_on(UNTOLD)
    demand_memory(Path("/scratch"), device="gramine", named_by_host=False)


@pytest.mark.parametrize("device", [each for each in DEVICES if each != "gramine"])
def test_elsewhere_nothing_is_not_memory(lies_on: Lie, device: DeviceKind) -> None:
    lies_on(UNTOLD)
    with pytest.raises(ConfigurationError, match="which the host can read"):
        demand_memory(Path("/scratch"), device=device, named_by_host=False)


@pytest.mark.parametrize("kind", [TMPFS, UNTOLD])
@pytest.mark.parametrize("device", ["gramine", "occlum"])
def test_in_an_enclave_the_host_names_no_folder(lies_on: Lie, device: DeviceKind, kind: int) -> None:
    """Occlum would hand on the host's word that a folder of the host's is memory."""
    lies_on(kind)
    with pytest.raises(ConfigurationError, match="not the host's to name"):
        demand_memory(Path("/strongroom/run/scratch"), device=device, named_by_host=True)
