"""What images measure on simulated hardware, as their builds write it beside them: an owner's reference values."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from strongroom.base.errors import ConfigurationError, FormatError
from strongroom.cli.state import read_file
from strongroom.wire.model import Hex32, Hex48, Message, TeeKind
from strongroom.wire.service import ServiceKind

_AGENT: Final = "strongroom.agent"
_SERVICES: Final[dict[ServiceKind, str]] = {
    "attestation-service": "strongroom.services.attestation_service",
    "key-service": "strongroom.services.key_service",
}


class EntryMeasurements(Message):
    """What one entry measures as each kind of TEE."""

    mrenclave: Hex32
    mrtd: Hex48
    launch_digest: Hex48


class ImageMeasurements(Message):
    """The file, `NAME.measurement.json`.

    Attributes:
        image: The image's digest.
        files: The digest of its files.
        entries: By entry: what can be started in a TEE in a container of this image.
    """

    version: Literal[1]
    image: str
    files: Hex32
    entries: dict[str, EntryMeasurements]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurements:
    """What several images measure."""

    images: tuple[ImageMeasurements, ...]

    def agents(self, tee: TeeKind) -> list[str]:
        """Return the agents' reference values as one kind of TEE."""
        found = [each.entries[_AGENT] for each in self.images if _AGENT in each.entries]
        return [{"sgx": each.mrenclave, "tdx": each.mrtd, "snp": each.launch_digest}[tee] for each in found]

    def services(self) -> dict[ServiceKind, str]:
        """Return what the services' code measures, as SGX enclaves; the last image that has one counts."""
        return {
            service: each.entries[entry].mrenclave
            for each in self.images
            for service, entry in _SERVICES.items()
            if entry in each.entries
        }


def read_measurements(paths: Sequence[Path]) -> Measurements:
    """Read the files.

    Raises:
        ConfigurationError: One cannot be read, or is something else.
    """
    found = []
    for path in paths:
        try:
            found.append(ImageMeasurements.from_json(read_file(path, what="the measurements")))
        except FormatError as error:
            raise ConfigurationError(
                f"{path} is {error.message}", action="Name what the image's build wrote beside it: *.measurement.json"
            ) from error
    return Measurements(images=tuple(found))
