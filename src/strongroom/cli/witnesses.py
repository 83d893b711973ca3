"""The witnesses that an installation's key service has its log witnessed by: the owner's choice, kept in a file."""

from pathlib import Path

from pydantic import Field

from strongroom.base.clock import Clock
from strongroom.base.errors import ConfigurationError, FormatError, NotFoundError
from strongroom.cli.state import State
from strongroom.datasets.storage import write_file
from strongroom.log.cosignature import witness_key
from strongroom.services.witness import WitnessSettings as WitnessServiceSettings
from strongroom.services.witness import open_witness
from strongroom.services.witnessing import WitnessSettings, configured_keys
from strongroom.wire.model import Message


class WitnessChoice(Message):
    """Which witnesses, and how many of them must have cosigned before a run is opened or closed."""

    witnesses: tuple[WitnessSettings, ...] = Field(default=(), max_length=32)
    required: int = Field(default=0, ge=0, le=32)


def read_choice(state: State) -> WitnessChoice:
    """Return the owner's choice; no witnesses where nothing was chosen.

    Raises:
        ConfigurationError: The file cannot be read, or holds something else.
    """
    try:
        return WitnessChoice.from_json(state.witnesses.read_bytes())
    except FileNotFoundError:
        return WitnessChoice()
    except OSError as error:
        raise ConfigurationError(f"{state.witnesses} cannot be read: {error.strerror}") from error
    except FormatError as error:
        raise ConfigurationError(f"{state.witnesses} is {error.message}", action="Restore it, or delete it.") from error


def write_choice(choice: WitnessChoice, *, state: State) -> None:
    """Keep the owner's choice; the next `strongroom up` has the key service take it.

    Raises:
        ConfigurationError: A key cannot be used, a witness stands twice, or more are required than named.
    """
    configured_keys(choice.witnesses, required=choice.required)
    write_file(state.witnesses, choice.to_json())


def with_witness(choice: WitnessChoice, added: WitnessSettings) -> WitnessChoice:
    """Return a choice with one more witness, or another address of one that it has.

    Raises:
        FormatError: The key is not a witness's.
    """
    name = witness_key(added.key).name
    others = tuple(each for each in choice.witnesses if witness_key(each.key).name != name)
    return choice.model_copy(update={"witnesses": (*others, added)})


def without_witness(choice: WitnessChoice, name: str) -> WitnessChoice:
    """Return a choice without one witness.

    Raises:
        NotFoundError: It is not one of them.
    """
    others = tuple(each for each in choice.witnesses if witness_key(each.key).name != name)
    if len(others) == len(choice.witnesses):
        raise NotFoundError(f"{name} is not a witness of the key service's log", action="See: strongroom witness list")
    return choice.model_copy(update={"witnesses": others, "required": min(choice.required, len(others))})


def make_witness(settings: WitnessServiceSettings, *, folder: Path, clock: Clock) -> str:
    """Make a witness's keys, state and configuration.

    Returns:
        Its verification key line.

    Raises:
        ConfigurationError: The folder cannot be used, or holds another witness's configuration.
    """
    config = folder / "config.json"
    if config.exists() and config.read_bytes() != settings.to_json():
        raise ConfigurationError(
            f"there is a witness in {folder}",
            action=f"Change its configuration there ({config}), or choose another folder.",
        )
    witness = open_witness(settings, clock=clock)
    witness.store.close()
    write_file(config, settings.to_json())
    write_file(folder / "witness.vkey", f"{witness.verification_key}\n".encode())
    return witness.verification_key
