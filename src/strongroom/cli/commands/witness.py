"""`strongroom witness`: a witness of others' logs, and the witnesses of one's own."""

from pathlib import Path
from urllib.parse import urlsplit

import click

from strongroom.base.clock import SystemClock
from strongroom.base.encoding import Json
from strongroom.base.errors import ConfigurationError
from strongroom.cli.commands.services import become
from strongroom.cli.options import json_option, state_option
from strongroom.cli.state import State, read_file
from strongroom.cli.terminal import examples, print_records, say
from strongroom.cli.witnesses import make_witness, read_choice, with_witness, without_witness, write_choice
from strongroom.log.cosignature import witness_key
from strongroom.services.witness import WitnessSettings as WitnessServiceSettings
from strongroom.services.witnessing import WitnessSettings

_COLUMNS = {"name": "witness", "url": "address", "tls": "TLS", "key": "key"}


@click.group()
def witness() -> None:
    """Run a witness of logs, and say which witnesses the own log has.

    A witness cosigns a log's checkpoints only as long as each extends the one before. With witnesses that others run, a
    key service's operator cannot show two people two histories, nor take one back.
    """


@witness.command(
    epilog=examples(
        "strongroom witness init ./witness --name witness.example/w1 --url https://witness.example:8443 --log VKEY",
        "strongroom witness run --config ./witness/config.json",
    )
)
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--name", required=True, help="The witness's name, which stays: a URL without its scheme, for example.")
@click.option("--url", required=True, help="Where logs reach it: https://HOST:PORT.")
@click.option(
    "--log",
    "logs",
    required=True,
    multiple=True,
    metavar="VKEY",
    help="A log's verification key line, as `strongroom status --json` or the log's operator shows it; repeatable.",
)
@click.option("--host", default="0.0.0.0", show_default=True, help="The address to listen on.")  # noqa: S104 - a server
def init(*, folder: Path, name: str, url: str, logs: tuple[str, ...], host: str) -> None:
    """Make a witness in FOLDER: its key, its state, its configuration.

    Prints the line by which others know it. The folder is the witness: if it is lost, the witness is retired.
    """
    port = urlsplit(url).port
    if port is None:
        raise ConfigurationError("the witness's address names no port", action="Write it as https://HOST:PORT.")
    settings = WitnessServiceSettings.from_object(
        {
            "name": name,
            "url": url,
            "host": host,
            "port": port,
            "state": str(folder.absolute() / "state"),
            "logs": list(logs),
        }
    )
    say(make_witness(settings, folder=folder.absolute(), clock=SystemClock()))


@witness.command()
@click.option(
    "--config",
    required=True,
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    metavar="FILE",
    help="The witness's configuration; `strongroom witness init` writes one.",
)
def run(*, config: Path) -> None:
    """Run a witness in the foreground.

    It speaks C2SP tlog-witness. It prints one line of JSON when it is ready, and ends on SIGTERM or Ctrl-C.
    """
    become("strongroom.services.witness", config)


@witness.command(
    epilog=examples("strongroom witness add VKEY --url https://witness.example:8443 --certificate witness.pem")
)
@click.argument("vkey")
@click.option("--url", required=True, help="Where it answers.")
@click.option(
    "--certificate",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The certificate that vouches for its TLS.  [default: those that this machine trusts]",
)
@state_option
def add(*, vkey: str, url: str, certificate: Path | None, state: State) -> None:
    """Have the own log witnessed by the witness with the verification key VKEY.

    Takes effect with the next `strongroom up`, which writes the witness into the trust file as well.
    """
    pem = read_file(certificate, what="the certificate").decode() if certificate else None
    added = WitnessSettings.from_object({"key": vkey, "url": url, "certificate_pem": pem})
    choice = with_witness(read_choice(state), added)
    write_choice(choice, state=state)
    say(f"{witness_key(vkey).name} is a witness of the log with the next: strongroom up")


@witness.command()
@click.argument("name")
@state_option
def remove(*, name: str, state: State) -> None:
    """Have the own log witnessed by the witness NAME no more, with the next `strongroom up`."""
    write_choice(without_witness(read_choice(state), name), state=state)
    say(f"{name} is no witness of the log with the next: strongroom up")


@witness.command()
@click.argument("number", type=click.IntRange(0, 32))
@state_option
def require(*, number: int, state: State) -> None:
    """Demand that NUMBER witnesses cosigned before a run is opened or closed, with the next `strongroom up`.

    Receipts are verified with the same demand.
    """
    write_choice(read_choice(state).model_copy(update={"required": number}), state=state)
    say(f"{number} witnesses are required with the next: strongroom up")


@witness.command(name="list")
@json_option
@state_option
def list_witnesses(*, as_json: bool, state: State) -> None:
    """List the witnesses of the own log."""
    choice = read_choice(state)
    rows: list[dict[str, Json]] = [
        {
            "name": witness_key(each.key).name,
            "url": each.url,
            "tls": "its own" if each.certificate_pem else "public",
            "key": each.key,
        }
        for each in choice.witnesses
    ]
    print_records(rows, columns=_COLUMNS, as_json=as_json)
    if not as_json:
        say(f"{choice.required} of {len(rows)} must have cosigned before a run is opened or closed")
