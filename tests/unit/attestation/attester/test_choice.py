from pathlib import Path
from typing import get_args

import pytest
from tests.support.azure_node import NoTpm, Saying
from tests.support.devices import make_tree

from strongroom.attestation.attester import Machine, SimulatedDevice, choice, detect_devices, open_device
from strongroom.attestation.attester.azure_vtpm import AzureVtpmDevice
from strongroom.attestation.attester.device import HardwareDevice
from strongroom.base.errors import ConfigurationError, FormatError, UnavailableError
from strongroom.wire.descriptor import DeviceKind, DeviceSetting

PLACES: dict[DeviceKind, str] = {
    "gramine": "dev/attestation/attestation_type",
    "occlum": "dev/sgx",
    "tsm": "sys/kernel/config/tsm/report/",
    "sev-guest": "dev/sev-guest",
    "tdx-guest": "dev/tdx_guest",
    "azure-vtpm": "dev/tpmrm0",
}
SIMULATED: tuple[DeviceKind, ...] = ("simulated-sgx", "simulated-tdx", "simulated-snp")


def setting(kind: str) -> DeviceSetting:
    fields = {"kind": kind, "socket": "/run/platform" if kind in SIMULATED else None}
    return DeviceSetting.from_object(fields | ({"shape": "confidential-node"} if kind == "azure-vtpm" else {}))


def test_every_kind_is_known_here() -> None:
    assert {*PLACES, *SIMULATED} == set(get_args(DeviceKind))


@pytest.mark.parametrize("kind", PLACES)
def test_a_device_is_detected_by_its_place(tmp_path: Path, kind: DeviceKind) -> None:
    assert detect_devices(tmp_path) == ()
    assert detect_devices(make_tree(tmp_path, PLACES[kind])) == (kind,)


def test_the_folder_of_sgx_devices_on_a_host_is_not_occlums_device(tmp_path: Path) -> None:
    assert detect_devices(make_tree(tmp_path, "dev/sgx/enclave", "dev/sgx/provision")) == ()


@pytest.mark.parametrize("kind", ["gramine", "occlum", "tsm", "sev-guest"])
def test_a_device_that_is_there_is_opened(tmp_path: Path, kind: DeviceKind) -> None:
    make_tree(tmp_path, PLACES[kind])
    assert isinstance(open_device(setting(kind), machine=Machine(root=tmp_path)), HardwareDevice)


@pytest.mark.parametrize("kind", ["gramine", "occlum", "tsm", "sev-guest", "azure-vtpm"])
def test_no_other_device_stands_in_for_one_that_is_missing(tmp_path: Path, kind: DeviceKind) -> None:
    others = [other for other in PLACES if other != kind]
    make_tree(tmp_path, *(PLACES[other] for other in others))
    with pytest.raises(ConfigurationError, match=f"{kind} is not here; here is {', '.join(others)}") as refusal:
        open_device(setting(kind), machine=Machine(root=tmp_path))
    assert "docs/reference/devices.md" in refusal.value.action


def test_a_machine_without_a_tee_is_said_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="here is no device of a TEE"):
        open_device(setting("tsm"), machine=Machine(root=tmp_path))


def test_a_report_that_only_its_own_machine_can_verify_is_refused(tmp_path: Path) -> None:
    make_tree(tmp_path, PLACES["tdx-guest"])
    with pytest.raises(ConfigurationError, match="TDREPORT only") as refusal:
        open_device(setting("tdx-guest"), machine=Machine(root=tmp_path))
    assert "tsm" in refusal.value.action


def test_the_vtpm_of_a_confidential_vm_is_opened_where_its_metadata_service_can_be_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tree(tmp_path, PLACES["azure-vtpm"])
    with pytest.raises(ConfigurationError, match="metadata service of an Azure"):
        open_device(setting("azure-vtpm"), machine=Machine(root=tmp_path))
    opened: list[Path] = []
    monkeypatch.setattr(choice, "DeviceTpm", lambda path: opened.append(path) or NoTpm())
    asked = Machine(root=tmp_path, metadata=Saying)
    assert isinstance(open_device(setting("azure-vtpm"), machine=asked), AzureVtpmDevice)
    assert opened == [tmp_path / PLACES["azure-vtpm"]]


@pytest.mark.parametrize("kind", SIMULATED)
def test_simulated_devices_ask_the_socket_that_is_named(tmp_path: Path, kind: DeviceKind) -> None:
    device = open_device(DeviceSetting(kind=kind, socket=str(tmp_path / "socket")))
    assert isinstance(device, SimulatedDevice)
    with pytest.raises(UnavailableError):
        device.quote(bytes(64))


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"kind": "auto"},
        {"kind": "simulated-sgx"},
        {"kind": "tsm", "socket": "/run/platform"},
        {"kind": "tsm", "path": "/"},
        {"kind": None, "socket": "/run/platform"},
        {"kind": "tsm", "shape": "pod"},
        {"kind": "tsm", "initdata": "AAAA"},
        {"kind": "tsm", "shape": "confidential-node", "initdata": "AAAA"},
        {"kind": "tsm", "shape": "pod", "initdata": "A A"},
        {"kind": "tsm", "shape": "pod", "initdata": "A" * 90_000},
        {"kind": "tsm", "shape": "node"},
        {"kind": "gramine", "shape": "confidential-node"},
        {"kind": "occlum", "shape": "pod", "initdata": "AAAA"},
        {"kind": "simulated-sgx", "socket": "/run/platform", "shape": "confidential-node"},
        {"kind": "azure-vtpm"},
        {"kind": "azure-vtpm", "shape": "pod", "initdata": "AAAA"},
    ],
)
def test_a_setting_that_leaves_the_device_open_is_a_format_error(value: object) -> None:
    with pytest.raises(FormatError):
        DeviceSetting.from_object(value)


def test_this_machine_can_be_asked_what_it_has() -> None:
    assert set(detect_devices()) <= set(PLACES)
