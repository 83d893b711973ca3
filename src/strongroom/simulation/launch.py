"""What may run in a simulated enclave, and which enclaves run."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from strongroom.attestation.evidence.simulated import ENTRIES, entry_command
from strongroom.base.errors import ConflictError, RefusedError
from strongroom.simulation.measure import Environment, Measurer, enclave_measurement
from strongroom.simulation.processes import Process

_ACTION: Final = "Start it as the command line does: strongroom.attestation.evidence.simulated.entry_command."


@dataclass(frozen=True, slots=True, kw_only=True)
class Enclave:
    """A launched process: what was measured, and the configuration that was fixed."""

    mrenclave: bytes
    isv_prod_id: int
    config_id: bytes


class Launches:
    """The enclaves that run now. A process is launched at most once, and none of its descendants is.

    Args:
        measurer: What measures their code.
    """

    def __init__(self, measurer: Measurer) -> None:
        self._measurer = measurer
        self._lock = threading.Lock()
        self._enclaves: dict[Process, Enclave] = {}

    def launch(self, process: Process, config_id: bytes) -> Enclave:
        """Launch a process: measure its code and fix its configuration.

        Raises:
            ConflictError: It is launched already; configurations do not change.
            RefusedError: It runs inside another enclave, or was not started as an entry is.
            ConfigurationError: Its environment cannot be measured.
        """
        self._require_new(process)
        environment, entry = started_as(process.command_line(), process.executable(), process.environment_names())
        mrenclave = enclave_measurement(self._measurer.measure(environment), entry)
        enclave = Enclave(mrenclave=bytes.fromhex(mrenclave), isv_prod_id=ENTRIES[entry], config_id=config_id)
        with self._lock:
            if process in self._enclaves:
                raise _launched_already()
            self._enclaves = {known: it for known, it in self._enclaves.items() if known.exists()}
            self._enclaves[process] = enclave
        return enclave

    def find(self, process: Process) -> Enclave:
        """Return the enclave that a process is.

        Raises:
            RefusedError: It was not launched itself: the application in an enclave has no quoting device.
        """
        enclave = self._enclaves.get(process)
        if enclave is None:
            raise RefusedError("this process was not launched as an enclave", action=_ACTION)
        return enclave

    def _require_new(self, process: Process) -> None:
        enclaves = self._enclaves
        if process in enclaves:
            raise _launched_already()
        if any(ancestor in enclaves for ancestor in process.ancestors()):
            raise RefusedError("this process runs inside an enclave, and cannot launch another one")


def started_as(
    command_line: Sequence[str], executable: Path, environment_names: Sequence[str]
) -> tuple[Environment, str]:
    """Return the environment and the entry module of a process, from how it was started.

    Only the one command line of `entry_command` is accepted, so that nothing but measured files can be its code.

    Args:
        command_line: Program name and arguments.
        executable: The file that the process executes.
        environment_names: Names of its environment variables.

    Raises:
        RefusedError: Another command line, another executable than the name says, or a variable of the dynamic loader.
        ConfigurationError: The program name is no interpreter.
    """
    entry = command_line[3] if len(command_line) > len(entry_command("", "")) - 1 else ""
    if entry not in ENTRIES or list(command_line[:4]) != entry_command(command_line[0], entry):
        raise RefusedError("this process was not started as an entry of an enclave", action=_ACTION)
    if not Path(command_line[0]).is_absolute():
        raise RefusedError("the interpreter of an enclave is named by its absolute path", action=_ACTION)
    if loader := [name for name in environment_names if name.startswith("LD_")]:
        raise RefusedError(
            "a variable of the dynamic loader could put other code into the enclave",
            action=f"Start it without {', '.join(sorted(loader))}.",
        )
    environment = Environment.of_python(Path(command_line[0]))
    if executable != environment.interpreter:
        raise RefusedError("the process does not execute the interpreter that its name says", action=_ACTION)
    return environment, entry


def _launched_already() -> ConflictError:
    return ConflictError("this process is launched already; its configuration does not change")
