"""The protected side: what a person does with the `strongroom` command, services and simulated platform included."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from memory import PeakMemory, resident_mb
from sessions import (
    APPLICATIONS,
    EXECUTOR_CORES,
    MEMORY_MB,
    TIMED,
    BenchmarkError,
    Session,
    now,
    read_session,
    repetitions,
)

from strongroom.cli.state import State

_RUNS = 100_000
_SERVICES = ("key_service", "attestation_service")


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """An installation of its own, made for the benchmark.

    Attributes:
        state: Its folder.
    """

    state: State

    def start(self) -> None:
        """Start the services and the simulated platform."""
        self.command("up")

    def stop(self) -> None:
        """Stop them."""
        self.command("down")

    def command(self, *words: str) -> str:
        """Run `strongroom WORDS` on this installation and return what it printed.

        Args:
            words: The sub-command's name, or two of them, and then its arguments.

        Raises:
            BenchmarkError: It failed.
        """
        names = 2 if words[0] in {"dataset", "app", "runs"} else 1
        line = [sys.executable, "-m", "strongroom.cli.main", *words[:names], "--state", str(self.state.root)]
        done = subprocess.run([*line, *words[names:]], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            said = (done.stdout + done.stderr)[-2000:]
            raise BenchmarkError(f"strongroom {' '.join(words[:names])} ended with status {done.returncode}: {said}")
        return done.stdout

    def encrypt(self, source: Path, *, plain: Path) -> None:
        """Encrypt a folder of trips, and decrypt it again for the plain side.

        So both sides have the same number of files, rows in each file and in each row group, and the same compression.
        """
        for dataset in ("trips", "report"):
            self.command("dataset", "create", dataset)
        self.command("dataset", "encrypt", "trips", str(source))
        shutil.rmtree(plain, ignore_errors=True)
        self.command("dataset", "decrypt", "trips", "--to", str(plain))

    def service_mb(self) -> float:
        """Return the memory of the larger service."""
        return max(max(resident_mb((f"strongroom.services.{name}", str(self.state.root)))) for name in _SERVICES)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtectedSide:
    """How protected sessions are run: by `strongroom submit`, one after the other.

    Attributes:
        installation: Where; its services run, and its dataset `trips` is encrypted.
    """

    installation: Installation

    @property
    def name(self) -> str:
        """The side's name in the results."""
        return "protected"

    def run(self, *, executors: int, number: int, measured: dict[str, int]) -> Session:
        """Approve and submit `timed.py`.

        Raises:
            BenchmarkError: A command failed.
        """
        application = _application(measured)
        self._approve(application)
        before = self._runs()
        sizes = ("--num-executors", str(executors), "--executor-cores", str(EXECUTOR_CORES))
        memory = ("--executor-memory", f"{MEMORY_MB}m", "--driver-memory", f"{MEMORY_MB}m")
        with PeakMemory("strongroom.agent", str(self.installation.state.root)) as agents:
            started = now()
            self.installation.command("submit", *sizes, *memory, *application)
        (run,) = self._runs() - before
        output = self.installation.command("runs", "output", run)
        session = read_session(output, side=self.name, executors=executors, number=number, started=started)
        return replace(session, agent_mb=agents.peak_mb)

    def _approve(self, application: tuple[str, ...]) -> None:
        digest = json.loads(self.installation.command("app", "pack", "--json", *application))["digest"]
        recipient = str(self.installation.state.recipient_key.with_suffix(".jwk"))
        for dataset, access in (("trips", "--read"), ("report", "--write")):
            options = ("--dataset", dataset, access, "--max-runs", str(_RUNS), "--recipient", recipient)
            self.installation.command("approve", digest, *options)

    def _runs(self) -> set[str]:
        folder = self.installation.state.runs
        return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def _application(measured: dict[str, int]) -> tuple[str, ...]:
    return (
        *("--dataset", "trips", "--output", "report"),
        *("--py-files", ",".join(map(str, APPLICATIONS.values()))),
        *(str(TIMED), "strongroom://trips", "strongroom://report", *repetitions(measured)),
    )
