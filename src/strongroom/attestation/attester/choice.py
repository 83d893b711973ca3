"""Which device quotes this TEE: the one that the setting names, and no other."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from strongroom.attestation.attester import gramine, occlum, sev_guest, tsm
from strongroom.attestation.attester.azure_vtpm import AzureVtpm, AzureVtpmDevice, MetadataService
from strongroom.attestation.attester.controls import Controls
from strongroom.attestation.attester.device import Ask, Device, HardwareDevice
from strongroom.attestation.attester.files import DeviceFiles, SystemFiles
from strongroom.attestation.attester.simulated import SimulatedDevice
from strongroom.attestation.attester.tpm import DeviceTpm, Tpm
from strongroom.base.errors import ConfigurationError
from strongroom.wire.descriptor import DeviceKind, DeviceSetting
from strongroom.wire.model import TeeKind

TDX_GUEST: Final = "dev/tdx_guest"
VTPM: Final = "dev/tpmrm0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The operating system as devices use it.

    Attributes:
        root: The root of its file system.
        files: Operations on pseudo-files.
        controls: How drivers are called.
        metadata: Gives the cloud's metadata service; None where there is none to ask.
    """

    root: Path = Path("/")
    files: DeviceFiles = field(default_factory=SystemFiles)
    controls: Controls = field(default_factory=Controls)
    metadata: Callable[[], MetadataService] | None = None


_PLACES: Final[Mapping[DeviceKind, tuple[str, bool]]] = {
    "gramine": (f"{gramine.FOLDER}/attestation_type", False),
    "occlum": (occlum.DEVICE, False),
    "tsm": (tsm.FOLDER, True),
    "sev-guest": (sev_guest.DEVICE, False),
    "tdx-guest": (TDX_GUEST, False),
    "azure-vtpm": (VTPM, False),
}
"""Where each device is, and whether that is a folder."""
_SIMULATED: Final[Mapping[DeviceKind, TeeKind]] = {
    "simulated-sgx": "sgx",
    "simulated-tdx": "tdx",
    "simulated-snp": "snp",
}
_INTERFACES: Final[Mapping[DeviceKind, Callable[[Machine], Ask]]] = {
    "gramine": lambda machine: partial(gramine.ask_gramine, files=machine.files, root=machine.root),
    "occlum": lambda machine: partial(occlum.ask_occlum, controls=machine.controls, root=machine.root),
    "tsm": lambda machine: partial(tsm.ask_tsm, files=machine.files, root=machine.root),
    "sev-guest": lambda machine: partial(sev_guest.ask_sev_guest, controls=machine.controls, root=machine.root),
}


def open_device(setting: DeviceSetting, *, machine: Machine | None = None) -> Device:
    """Return the device that a setting names; it is asked nothing yet.

    Args:
        setting: The host's word, or the operator's. Nothing is guessed, so that evidence is of the kind that was meant.
        machine: The operating system; this one unless told otherwise.

    Raises:
        ConfigurationError: There is no such device here (the error says which there are), or it cannot quote.
    """
    machine = machine or Machine()
    match setting:
        case DeviceSetting(kind="tdx-guest"):
            raise ConfigurationError(
                "/dev/tdx_guest gives a TDREPORT only, which nobody outside this machine can verify",
                action="Use the device tsm (Linux 6.7 or later), through which the host's quoting enclave signs it.",
            )
        case DeviceSetting(socket=str(socket)):
            return SimulatedDevice(Path(socket), kind=_SIMULATED[setting.kind])
        case DeviceSetting(kind="azure-vtpm"):
            _demand_there(setting.kind, machine.root)
            if machine.metadata is None:
                raise ConfigurationError("the metadata service of an Azure confidential VM is not asked from here")
            return AzureVtpmDevice(AzureVtpm(Tpm(DeviceTpm(machine.root / VTPM)), machine.metadata()))
        case _:
            _demand_there(setting.kind, machine.root)
            return HardwareDevice(_INTERFACES[setting.kind](machine))


def detect_devices(root: Path = Path("/")) -> tuple[DeviceKind, ...]:
    """Return which devices of real hardware there seem to be, for people; nothing is chosen by it."""
    return tuple(_detect(root))


def _detect(root: Path) -> Iterator[DeviceKind]:
    for kind, (place, is_folder) in _PLACES.items():
        path = root / place
        if path.exists() and path.is_dir() == is_folder:  # on a host, /dev/sgx is a folder of other devices
            yield kind


def _demand_there(kind: DeviceKind, root: Path) -> None:
    found = detect_devices(root)
    if kind not in found:
        raise ConfigurationError(
            f"the device {kind} is not here; here is {', '.join(found) or 'no device of a TEE'}",
            action=f"It needs /{_PLACES[kind][0]} in the TEE; docs/reference/devices.md says how to get it.",
        )
