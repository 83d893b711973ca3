"""What may run in a simulated TEE, and which TEEs run."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from strongroom.attestation.evidence.simulated import ENTRIES, entry_command
from strongroom.base.errors import ConflictError, RefusedError
from strongroom.simulation.containers import Container, ContainerMeasurer, container_at
from strongroom.simulation.measure import Environment, Measurer, tee_measurement
from strongroom.simulation.processes import Process
from strongroom.wire.model import TeeKind

_ACTION: Final = "Start it as the command line does: strongroom.attestation.evidence.simulated.entry_command."
_LOADERS: Final = frozenset({"GCONV_PATH", "GLIBC_TUNABLES", "OPENSSL_CONF", "OPENSSL_ENGINES", "OPENSSL_MODULES"})
"""Variables that name code, or what loads code, for the C library and OpenSSL; with them all of `LD_…`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launched:
    """A launched process: what was measured, and the configuration that was fixed.

    Attributes:
        tee: What it is: an enclave, a trust domain or a guest.
        measurement: 32 bytes (enclave) or 48.
        isv_prod_id: An enclave's product id.
        value: What stands in CONFIG_ID, MRCONFIGID or HOST_DATA.
    """

    tee: TeeKind
    measurement: bytes
    isv_prod_id: int
    value: bytes


class Launches:
    """The TEEs that run now. A process is launched at most once, and none of its descendants is.

    Args:
        measurer: What measures the code of processes with the platform's own files.
        containers: What measures the code of processes in containers.
    """

    def __init__(self, measurer: Measurer, containers: ContainerMeasurer) -> None:
        self._measurer = measurer
        self._containers = containers
        self._lock = threading.Lock()
        self._launched: dict[Process, Launched] = {}

    def launch(self, process: Process, value: bytes, *, tee: TeeKind) -> Launched:
        """Launch a process: measure its code and fix its configuration.

        Raises:
            ConflictError: It is launched already; configurations do not change.
            RefusedError: It runs inside another TEE, was not started as an entry is, or is in a container that is not
                ours.
            ConfigurationError: Its environment or its container cannot be measured.
        """
        self._require_new(process)
        digest, entry = self._measure(process)
        measurement = tee_measurement(digest, entry, tee=tee)
        launched = Launched(tee=tee, measurement=bytes.fromhex(measurement), isv_prod_id=ENTRIES[entry], value=value)
        with self._lock:
            if process in self._launched:
                raise _launched_already()
            self._launched = {known: it for known, it in self._launched.items() if known.exists()}
            self._launched[process] = launched
        return launched

    def find(self, process: Process) -> Launched:
        """Return the TEE that a process is.

        Raises:
            RefusedError: It was not launched itself: the application in a TEE has no quoting device.
        """
        launched = self._launched.get(process)
        if launched is None:
            raise RefusedError("this process was not launched as a TEE", action=_ACTION)
        return launched

    def _require_new(self, process: Process) -> None:
        launched = self._launched
        if process in launched:
            raise _launched_already()
        if any(ancestor in launched for ancestor in process.ancestors()):
            raise RefusedError("this process runs inside a TEE, and cannot launch another one")

    def _measure(self, process: Process) -> tuple[str, str]:
        """Return the digest of a process's code, and its entry module.

        1. A process in a container of ours is measured with all of the container's code.
        2. One that sees the files that the platform sees is measured with its Python environment.
        3. Of any other one nobody knows what its code is.
        """
        command_line, names = process.command_line(), process.environment_names()
        container = container_at(process.root())
        if container is not None:  # 1
            entry = started_in(container, command_line, names)
            if not process.executes(container.interpreter()):
                raise _another_interpreter()
            digest = self._containers.measure(container)
            if not process.exists():  # its number may be another process's by now, and so may the files
                raise RefusedError("the calling process has ended")
            return digest, entry
        if not process.has_root(Path("/")):  # 3
            raise RefusedError(
                "this process is in a container whose image does not say what it is",
                action="Use an image of deploy/images, or one that is made from it.",
            )
        environment, entry = started_as(command_line, process.executable(), names)  # 2
        return self._measurer.measure(environment), entry


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
    entry = _entry_of(command_line, environment_names)
    environment = Environment.of_python(Path(command_line[0]))
    if executable != environment.interpreter:
        raise _another_interpreter()
    return environment, entry


def started_in(container: Container, command_line: Sequence[str], environment_names: Sequence[str]) -> str:
    """Return the entry module of a process in a container, from how it was started (see `started_as`).

    The caller MUST still check that the process executes the container's interpreter.

    Raises:
        RefusedError: Another command line than the image is made for, or a variable of the dynamic loader.
    """
    entry = _entry_of(command_line, environment_names)
    if entry not in container.mark.entries:
        raise RefusedError("this container's image is not made for this entry", action="Use the other image.")
    if command_line[0] != container.mark.python:
        raise _another_interpreter()
    return entry


def _entry_of(command_line: Sequence[str], environment_names: Sequence[str]) -> str:
    entry = command_line[3] if len(command_line) > len(entry_command("", "")) - 1 else ""
    if entry not in ENTRIES or list(command_line[:4]) != entry_command(command_line[0], entry):
        raise RefusedError("this process was not started as an entry of an enclave", action=_ACTION)
    if not Path(command_line[0]).is_absolute():
        raise RefusedError("the interpreter of an enclave is named by its absolute path", action=_ACTION)
    if loaders := [name for name in environment_names if name.startswith("LD_") or name in _LOADERS]:
        raise RefusedError(
            "a variable of the dynamic loader or of a library could put other code into the enclave",
            action=f"Start it without {', '.join(sorted(loaders))}.",
        )
    return entry


def _another_interpreter() -> RefusedError:
    return RefusedError("the process does not execute the interpreter that its name says", action=_ACTION)


def _launched_already() -> ConflictError:
    return ConflictError("this process is launched already; its configuration does not change")
