"""A whole installation in one folder: services, platform, an owner, encrypted trips; and how its commands end."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from tests.support.warm import COMMANDS, warm_commands

from strongroom.attestation.evidence.simulated import entry_command
from strongroom.base.clock import SystemClock
from strongroom.base.workflow import Step
from strongroom.cli.owner_keys import load_signing_key
from strongroom.cli.processes import ProcessRecord, read_table
from strongroom.cli.session import owner_client
from strongroom.cli.state import State
from strongroom.clients.owner import OwnerClient, person_token
from strongroom.submit.run import load_trust
from strongroom.submit.services import connect, trusted_service
from strongroom.wire.events import Event, parse_event

RUN_TIMEOUT_S: Final = 1500
_PROGRAM: Final = Path(sys.executable).with_name("strongroom")
_MANY: Final = 1_000


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a command ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def text(self) -> str:
        return self.stdout + self.stderr

    @property
    def run_id(self) -> str:
        """The run that the command reports; empty if it did not come to its end."""
        return next((line.split()[1] for line in self.stdout.splitlines() if line.startswith("run ")), "")

    def steps(self) -> list[tuple[str, str]]:
        """The steps that were shown: step, and who did it."""
        words = [line.split() for line in self.stdout.splitlines() if line.startswith("step ")]
        return [(word[2], word[3]) for word in words]


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What is packed, approved and submitted.

    Attributes:
        script: The application.
        arguments: Its arguments.
        reads, writes: Datasets; in the installation's own storage unless a location is given after "=".
        options: Options of `submit` and `app pack`.
        sizes: Options of `submit` alone.
    """

    script: Path
    arguments: tuple[str, ...] = ()
    reads: tuple[str, ...] = ("trips",)
    writes: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    sizes: tuple[str, ...] = ("--driver-memory", "800m", "--executor-memory", "800m")

    def command_line(self) -> list[str]:
        """The arguments that `submit` and `app pack` have in common."""
        datasets = [f"--dataset={name}" for name in self.reads] + [f"--output={name}" for name in self.writes]
        return [*datasets, *self.options, str(self.script), *self.arguments]


@dataclass(kw_only=True)
class Installation:
    """An installation that `strongroom up` started, with real processes."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def state(self) -> State:
        return State(root=self.root / "state")

    # --- commands ---------------------------------------------------------------------------------------------------

    def strongroom(self, *arguments: str, timeout_s: float = RUN_TIMEOUT_S, prefix: Sequence[str] = ()) -> Ended:
        """Run a command of the command line to its end; one of `warm.COMMANDS` without starting the program."""
        if arguments[0] in COMMANDS and not prefix:
            return self.at_once(*arguments, timeout_s=timeout_s)
        return self.program(*arguments, timeout_s=timeout_s, prefix=prefix)

    def at_once(self, *arguments: str, timeout_s: float = RUN_TIMEOUT_S, java: tuple[int, str] | None = None) -> Ended:
        """Run a command to its end without starting the program, nor Java where one is given: see `warm`."""
        warm = warm_commands(_PROGRAM)
        environment = self._environment()
        ended = warm.run(arguments, environment=environment, folder=self.root, timeout_s=timeout_s, java=java)
        return Ended(status=ended[0], stdout=ended[1], stderr=ended[2])

    def program(self, *arguments: str, timeout_s: float = RUN_TIMEOUT_S, prefix: Sequence[str] = ()) -> Ended:
        """Run a command as users do, to its end."""
        with self.started(*arguments, prefix=prefix) as process:
            try:
                stdout, stderr = process.communicate(timeout=timeout_s)
            except BaseException:
                process.send_signal(signal.SIGINT)
                process.wait(60)
                raise
        return Ended(status=process.returncode, stdout=stdout, stderr=stderr)

    def done(self, *arguments: str) -> str:
        """Run a command that must succeed; return what it printed."""
        ended = self.strongroom(*arguments)
        assert ended.status == 0, f"strongroom {' '.join(arguments)}\n{ended.text}"
        return ended.stdout

    def started(self, *arguments: str, prefix: Sequence[str] = ()) -> "subprocess.Popen[str]":
        """Start a command as a terminal would: the leader of its own session."""
        return subprocess.Popen(
            [*prefix, str(_PROGRAM), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            env=self._environment(),
            cwd=self.root,
            start_new_session=True,
        )

    def _environment(self) -> dict[str, str]:
        return {**self.environment, "STRONGROOM_STATE": str(self.state.root)}

    def pack(self, submission: Submission) -> str:
        """Pack an application; return its digest."""
        packed = self.done("app", "pack", "--json", *submission.command_line())
        digest: str = json.loads(packed)["digest"]
        return digest

    def approve(self, submission: Submission, *, max_runs: int = _MANY, options: Sequence[str] = ()) -> str:
        """Pack an application and approve each of its bindings, the owner as recipient; return its digest."""
        digest = self.pack(submission)
        recipient = str(self.state.recipient_key.with_suffix(".jwk"))
        for names, access in ((submission.reads, "--read"), (submission.writes, "--write")):
            for name in names:
                dataset = name.partition("=")[0]
                limits = ("--max-runs", str(max_runs), "--recipient", recipient, *options)
                self.done("approve", digest, "--dataset", dataset, access, *limits)
        return digest

    def submit(self, submission: Submission, *, options: Sequence[str] = (), prefix: Sequence[str] = ()) -> Ended:
        """Submit an application and wait for its end."""
        return self.strongroom("submit", *submission.sizes, *options, *submission.command_line(), prefix=prefix)

    def submit_well(self, submission: Submission, *, options: Sequence[str] = ()) -> Ended:
        """Submit an application that must succeed."""
        ended = self.submit(submission, options=options)
        if ended.status != 0:
            pytest.fail(ended.text + self.strongroom("runs", "output", ended.run_id).text)
        return ended

    # --- what is there ----------------------------------------------------------------------------------------------

    def owner(self) -> OwnerClient:
        """The owner's connection to the key service."""
        return owner_client(self.state)

    def versions(self, dataset: str) -> int:
        """How many versions a dataset has."""
        return len(self.owner().versions(dataset))

    def storage(self, dataset: str) -> Path:
        """Where a dataset's ciphertext lies."""
        return Path(self.state.storage(dataset).removeprefix("file://"))

    def run_folder(self, ended: Ended) -> Path:
        return self.state.runs / ended.run_id

    def receipt(self, ended: Ended) -> Path:
        return self.run_folder(ended) / f"{ended.run_id}.receipt.json"

    def output_of(self, ended: Ended) -> str:
        """What the application of a finished run printed, as its recipient reads it."""
        return self.done("runs", "output", ended.run_id)

    def events(self, report: Path) -> list[Event]:
        """What an agent told its host."""
        return [parse_event(line) for line in report.read_text().splitlines()]

    # --- services ---------------------------------------------------------------------------------------------------

    def process(self, name: str) -> ProcessRecord:
        """A process that `up` started."""
        return next(record for record in read_table(self.state.processes) if record.name == name)

    @contextlib.contextmanager
    def without(self, name: str) -> Iterator[ProcessRecord]:
        """Stop a process while the block runs; `up` starts it again."""
        record = self.process(name)
        os.kill(record.pid, signal.SIGTERM)
        wait_until(lambda: not record.is_running, what=f"{name} ends")
        try:
            yield record
        finally:
            self.done("up")

    @contextlib.contextmanager
    def changed(self, path: Path, edit: Callable[[bytes], bytes]) -> Iterator[None]:
        """Change a file while the block runs."""
        before = path.read_bytes()
        mode = path.stat().st_mode
        after = edit(before)
        assert after != before, f"nothing was changed in {path.name}"
        path.write_bytes(after)
        try:
            yield
        finally:
            path.write_bytes(before)
            path.chmod(mode)

    @contextlib.contextmanager
    def service(self, name: str, *, config: Path) -> Iterator[None]:
        """Run a service in the place of a stopped one, with a configuration of the operator's choice."""
        module = f"strongroom.services.{name.replace('-', '_')}"
        process = subprocess.Popen(
            [*entry_command(sys.executable, module), "--config", str(config)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
        )
        assert process.stdout is not None
        with process, process.stdout:
            try:
                assert json.loads(process.stdout.readline())["identity"]
                yield
            finally:
                process.terminate()
                process.wait(30)

    def vault(self, method: str, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Ask the key service something over Key Vault's API, as the owner."""
        service = trusted_service(load_trust(self.state.trust), "key-service")
        token = person_token(load_signing_key(self.state.owner_key), audience=service.identity, clock=SystemClock())
        answer = connect(service).request(
            method,
            f"{path}?api-version=7.4",
            body=json.dumps(body).encode(),
            content_type="application/json",
            headers={"Authorization": f"Bearer {token}"},
        )
        reply: dict[str, Any] = json.loads(answer.require_success())
        return reply

    def leaves(self) -> list[dict[str, Any]]:
        """The key service's log, as its owner reads it."""
        service = trusted_service(load_trust(self.state.trust), "key-service")
        token = person_token(load_signing_key(self.state.owner_key), audience=service.identity, clock=SystemClock())
        found: list[dict[str, Any]] = []
        while True:
            answer = connect(service).request(
                "GET",
                f"/strongroom/v1/log/leaves?start={len(found)}&end={len(found) + _MANY}",
                headers={"Authorization": f"Bearer {token}"},
            )
            page = [json.loads(leaf) for leaf in json.loads(answer.require_success())["leaves"]]
            if not page:
                return found
            found += page

    # --- ends -------------------------------------------------------------------------------------------------------

    def assert_clear_end(self, ended: Ended, *, step: Step | None, says: Sequence[str], status: int = 1) -> None:
        """Check what a person sees when something went wrong, and that nothing is left of it.

        Args:
            ended: The command.
            step: The step it must name; None for a mistake on the command line.
            says: Words that it must say: the cause.
            status: The exit status.
        """
        assert ended.status == status, ended.text
        assert "Traceback" not in ended.text
        assert "defect in Strongroom" not in ended.text
        for words in says:
            assert words in ended.stderr, ended.text
        if step is not None:
            assert f"strongroom: step {step.number} ({step.slug}): " in ended.stderr, ended.text
            assert "  → " in ended.stderr, f"it does not say what to do:\n{ended.text}"
        self.assert_nothing_left()

    def assert_nothing_left(self) -> None:
        """Check that no TEE of any run of this installation has left a process or a scratch folder."""
        descriptors = self.state.runs.glob("*/*.descriptor.json")
        scratch = [Path(json.loads(file.read_text())["scratch"]) for file in descriptors]
        assert [folder for folder in scratch if folder.exists()] == []
        marks = [str(self.state.runs).encode(), *(str(folder).encode() for folder in scratch)]
        assert [line for line in _processes() if any(mark in line for mark in marks)] == []
        assert not list(self.state.packages.glob(".*")), "a package is left half-written"

    @contextlib.contextmanager
    def no_new_version(self, *datasets: str) -> Iterator[None]:
        """Check that no dataset gets another version while the block runs."""
        before = {name: self.versions(name) for name in datasets}
        yield
        assert {name: self.versions(name) for name in datasets} == before


def wait_until(is_so: Callable[[], Any], *, what: str, timeout_s: float = 600) -> None:
    """Wait for something.

    Raises:
        AssertionError: It did not come.
    """
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.05)


def process_with(*words: str) -> int | None:
    """Return the process whose command line holds all of these words."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (folder / "cmdline").read_bytes().decode(errors="replace")
            if all(word in line for word in words):
                return int(folder.name)
    return None


def demand_root(what: str) -> None:
    """Leave the test out where this process may not do what it needs; with CI set that is a failure."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        if "CI" in os.environ:
            pytest.fail(f"{what} needs root and unshare, and with CI set no test is left out")
        pytest.skip(f"{what} needs root and unshare")


def _processes() -> Iterator[bytes]:
    """Yield command line and environment of every process but those of the tests themselves."""
    own = {os.getpid(), os.getppid()}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int(folder.name) not in own:
                yield (folder / "cmdline").read_bytes() + b"\0" + (folder / "environ").read_bytes()


@contextlib.contextmanager
def new_installation(root: Path) -> Iterator[Installation]:
    """Bring an installation up while the block runs; it has no dataset."""
    (root / "home").mkdir()
    (root / "tmp").mkdir()
    environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": f"{root}/home", "TMPDIR": f"{root}/tmp"}
    made = Installation(root=root, environment=environment)
    try:
        made.done("up")
        yield made
    finally:
        made.done("down")


def add_datasets(made: Installation, trips: Path) -> None:
    """Make the datasets of the taxi report: trips, encrypted from plain Parquet, and an empty report."""
    for name in ("trips", "report"):
        made.done("dataset", "create", name)
    made.done("dataset", "encrypt", "trips", str(trips))
