"""`strongroom demo`: all eight steps on this machine, in plain words, with the commands that a person would type."""

import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from strongroom.base.errors import ConfigurationError
from strongroom.cli.installation import take_down
from strongroom.cli.state import State
from strongroom.cli.terminal import busy, print_table, say
from strongroom.services.files import prepare_folder
from strongroom.submit.run import RunOutcome

_SOURCE_TREE: Final = Path(__file__).resolve().parents[4]
_EXAMPLE: Final = _SOURCE_TREE / "examples" / "nyctaxi"
_REAL_TRIPS: Final = _SOURCE_TREE.parent / "shared" / "data" / "nyctaxi"
_GENERATED_ROWS: Final = 240_000
_SHOWN_ROWS: Final = 8


@click.command()
@click.option(
    "--data",
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    metavar="PATH",
    help="Your own TLC files (CSV, CSV.gz, Parquet) or folders of them; repeatable.",
)
@click.option("--executors", type=click.IntRange(1, 16), default=1, show_default=True, help="How many executors.")
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="An empty folder to work in.  [default: a new one in the temporary folder]",
)
@click.option("--keep-running", is_flag=True, help="Leave the services running; stop them with `strongroom down`.")
@click.pass_context
def demo(
    context: click.Context, /, *, data: tuple[Path, ...], executors: int, folder: Path | None, keep_running: bool
) -> None:
    """Show all eight steps on this machine, with real or made-up taxi trips.

    Encrypts New York taxi trips as their owner, approves a report, runs it on a real Spark cluster of attested
    processes, decrypts its results and verifies its receipt. The folder stays, to be looked at.
    """
    demonstration = _Demonstration(context=context, state=State(root=_work_folder(folder)))
    with ExitStack() as undo:
        if not keep_running:
            undo.callback(take_down, demonstration.state)
        outcome = demonstration.tell(data, executors=executors)
    say()
    say(f"The services are {'still running' if keep_running else 'stopped'}. Everything is left to look at in")
    say(f"  {demonstration.state.root}")
    say("    operator/  is all that an operator sees: ciphertext, packages, logs")
    say("    owner/     is the owner's: keys, services' state, and the plain data in owner/plain")
    say(f"receipt: {outcome.receipt}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Demonstration:
    """The story. Each chapter is a sentence and the command that does what it says."""

    context: click.Context
    state: State

    def tell(self, data: Sequence[Path], *, executors: int) -> RunOutcome:
        """Tell it to the end.

        Raises:
            StrongroomError: A command failed.
            click.exceptions.Exit: The application failed.
        """
        plain, script = self.state.owner / "plain", _EXAMPLE / "report.py"
        say("Strongroom runs unmodified PySpark applications on data that only attested code can read.")
        say("Here the hardware is SIMULATED: you see how everything works, and nothing is protected.")
        self._prepare_trips(data, plain / "trips")
        say(f"$ export STRONGROOM_STATE={quote(self.state.root)}")
        self._run("The owner starts an attestation service and a key service, on a simulated SGX platform.", "up")
        self._run("The owner makes a dataset: a key that never leaves the key service.", "dataset create trips")
        self._run("And one for the report that an analyst wants to write.", "dataset create report")
        self._run(
            "The trips are encrypted; storage holds ciphertext.", f"dataset encrypt trips {quote(plain / 'trips')}"
        )
        application = f"--dataset trips --output report {quote(script)} strongroom://trips strongroom://report"
        digest = self._run(
            "An analyst packs the report, plain PySpark. Its digest names each byte and argument of it.",
            f"app pack {application}",
        )
        recipient = f"--recipient {quote(self.state.recipient_key.with_suffix('.jwk'))}"
        self._run(
            "The owner approves that this very application, in attested processes, reads the trips in one run …",
            f"approve {digest[:12]} --dataset trips --read {recipient}",
        )
        self._run("… and writes the report.", f"approve {digest[:12]} --dataset report --write {recipient}")
        outcome = self._run(
            "The analyst submits it, as with spark-submit. These are the eight steps:",
            f"submit --num-executors {executors} {application}",
        )
        if not isinstance(outcome, RunOutcome):
            raise click.exceptions.Exit(outcome if isinstance(outcome, int) else 1)
        self._run(
            "What the application printed is sealed to the owner, who reads it:", f"runs output {outcome.run_id[:12]}"
        )
        self._run(
            "The owner decrypts the report, after checking each file against the countersigned manifest:",
            f"dataset decrypt report --to {quote(plain / 'report')}",
        )
        _print_report(plain / "report")
        self._run(
            "Anybody with the trust file verifies the run's receipt, offline.",
            f"receipt verify {quote(outcome.receipt)}",
        )
        return outcome

    def _prepare_trips(self, data: Sequence[Path], output: Path) -> None:
        prepare_folder(self.state.owner)
        output.parent.mkdir(mode=0o700)
        if not data and _REAL_TRIPS.is_dir():
            data = (_REAL_TRIPS,)
        what = ["prepare", *map(str, data)] if data else ["generate", "--rows", str(_GENERATED_ROWS), "--seed", "1"]
        words = f"taxi trips from {', '.join(map(str, data))}" if data else "made-up taxi trips"
        say(f"The input: {words}")
        with busy("preparing the trips"):
            ended = subprocess.run(  # noqa: S603 - our own example under our own interpreter
                [sys.executable, "-I", str(_EXAMPLE / "trips.py"), *what, str(output)],
                capture_output=True,
                text=True,
                check=False,
            )
        if ended.returncode != 0:
            reason = (ended.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise ConfigurationError(f"the trips could not be prepared: {reason}", action="name TLC files with --data")
        say(f"  {ended.stdout.strip()}")

    def _run(self, words: str, command_line: str) -> Any:  # noqa: ANN401 - what the command returns
        """Say what is done and how, and do it: with the very command that is shown."""
        say()
        say(words)
        say(f"$ strongroom {command_line}")
        command: click.Command | None = self.context.find_root().command
        rest = shlex.split(command_line)
        while isinstance(command, click.Group):
            command = command.get_command(self.context, rest.pop(0))
        assert command is not None
        return command.main(["--state", str(self.state.root), *rest], prog_name="strongroom", standalone_mode=False)


def quote(path: Path) -> str:
    """Return a path as a person types it to a shell."""
    return shlex.quote(str(path))


def _work_folder(folder: Path | None) -> Path:
    if not (_EXAMPLE / "report.py").is_file():
        raise ConfigurationError(
            "the demo's application is not installed", action="run the demo in Strongroom's source tree: make demo"
        )
    if folder is None:
        return Path(tempfile.mkdtemp(prefix="strongroom-demo-"))
    folder = folder.expanduser().absolute()
    if folder.exists() and any(folder.iterdir()):
        raise ConfigurationError(f"{folder} is not empty", action="name a new or empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _print_report(folder: Path) -> None:
    from pyarrow import parquet  # noqa: PLC0415 - heavy, and only needed here

    for table_folder in sorted(path for path in folder.iterdir() if path.is_dir()):
        table = parquet.read_table(table_folder)
        rows = [[_cell(row[name]) for name in table.column_names] for row in table.slice(0, _SHOWN_ROWS).to_pylist()]
        more = f" (the first {_SHOWN_ROWS} of {table.num_rows} rows)" if table.num_rows > _SHOWN_ROWS else ""
        print_table(table.column_names, rows, caption=f"{table_folder.name.replace('_', ' ')}{more}")


def _cell(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "" if value is None else str(value)
