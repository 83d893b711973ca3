"""`strongroom app`: pack applications, look at packed ones."""

import base64
import gzip
from pathlib import Path
from typing import Any

import click

from strongroom.application.description import ApplicationDescription
from strongroom.attestation.evidence.initdata import (
    ALGORITHMS,
    POLICY_ENTRY,
    InitdataAlgorithm,
    launch_value_of,
    parse_initdata,
    render_initdata,
)
from strongroom.base.encoding import Json
from strongroom.base.errors import FormatError
from strongroom.cli.applications import describe, find_application
from strongroom.cli.commands.submit import application_options, request_of
from strongroom.cli.completion import complete_applications
from strongroom.cli.kubernetes import check_master
from strongroom.cli.options import json_option, state_option
from strongroom.cli.state import State, read_file
from strongroom.cli.terminal import examples, print_json, say
from strongroom.cluster.kubernetes.settings import is_placement
from strongroom.datasets.storage import write_file
from strongroom.submit.run import load_trust
from strongroom.submit.run import pack as pack_request

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def app() -> None:
    """Pack applications and look at packed ones."""


@app.command(
    context_settings={"allow_interspersed_args": False},
    epilog=examples(
        "strongroom app pack --dataset trips --output report report.py strongroom://trips strongroom://report"
    ),
)
@application_options
@click.option("--master", expose_value=False, hidden=True, callback=check_master)
@json_option
@state_option
def pack(*, as_json: bool, state: State, **options: Any) -> str:  # noqa: ANN401 - spark-submit's options
    """Pack the application SCRIPT with its arguments, and print the digest that owners approve.

    Takes the same options as `strongroom submit`; sizes and places are not part of an application, so one approval
    serves a laptop and a cluster. Running it again later gives the same digest, unless something changed.
    """
    options["conf"] = tuple(pair for pair in options["conf"] if not is_placement(pair[0]))
    packed = pack_request(request_of(state, **options), trust=load_trust(state.trust), packages=state.packages)
    _print(packed.description, as_json=as_json)
    if not as_json:
        say(f"packed in {packed.folder}; approve it with: strongroom approve {packed.digest[:12]} --dataset …")
    return packed.digest


@app.command(epilog=examples("strongroom app show 3f9c"))
@click.argument("application", metavar="DIGEST|FOLDER", shell_complete=complete_applications)
@json_option
@state_option
def show(*, application: str, as_json: bool, state: State) -> None:
    """Show a packed application: its digest (or the beginning of it), or its folder."""
    _print(find_application(application, state=state), as_json=as_json)


@app.command(epilog=examples("strongroom app initdata 3f9c --policy policy.rego --output initdata.toml"))
@click.argument("application", metavar="DIGEST|FOLDER", shell_complete=complete_applications)
@click.option(
    "--policy",
    type=_FILE,
    required=True,
    metavar="FILE",
    help="The Kata agent's policy: what may run in the pod.",
)
@click.option(
    "--entry",
    "entries",
    multiple=True,
    metavar="NAME=FILE",
    help="A further entry, such as cdh.toml=FILE for the confidential data hub; repeatable.",
)
@click.option(
    "--algorithm",
    type=click.Choice(ALGORITHMS),
    default="sha256",
    show_default=True,
    help="How the document is hashed for the field that is fixed at launch.",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    metavar="FILE",
    help="Where to write it.",
)
@json_option
@state_option
def initdata(
    *,
    application: str,
    policy: Path,
    entries: tuple[str, ...],
    algorithm: InitdataAlgorithm,
    output: Path,
    as_json: bool,
    state: State,
) -> None:
    """Write the initdata of a pod for a packed application, and say what the host has to launch it with.

    Its hash stands in HOST_DATA or MRCONFIGID, where the application's digest stands otherwise. The policy decides what
    runs in the pod: owners trust it with `strongroom trust pod`.
    """
    description = find_application(application, state=state)
    files = {POLICY_ENTRY: policy, **dict(map(_entry, entries))}
    texts = {name: _text(path) for name, path in files.items()}
    document = render_initdata(texts, application=description.digest, algorithm=algorithm)
    found = parse_initdata(document)
    write_file(output, document)
    words: dict[str, Json] = {
        "application": description.digest,
        "configuration": found.configuration,
        "template": found.template,
        "image": found.image,
        "host_data": launch_value_of(document, kind="snp", algorithm=algorithm).hex(),
        "mrconfigid": launch_value_of(document, kind="tdx", algorithm=algorithm).hex(),
        "annotation": base64.b64encode(gzip.compress(document, mtime=0)).decode("ascii"),
    }
    if as_json:
        print_json(words)
        return
    for name, value in words.items():
        if value is not None and name != "annotation":
            say(f"{name:<14} {value}")
    say(f"written to {output}; its annotation for Kata is in --json")


def _entry(text: str) -> tuple[str, Path]:
    name, equals, file = text.partition("=")
    if not name or not equals or not file:
        raise click.UsageError(f"{text!r} is no entry: write NAME=FILE")
    return name, Path(file)


def _text(path: Path) -> str:
    try:
        return read_file(path, what="the entry").decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"{path} is not UTF-8 text") from error


def _print(description: ApplicationDescription, *, as_json: bool) -> None:
    if as_json:
        print_json({"digest": description.digest, "description": description.model_dump(mode="json")})
        return
    for name, text in describe(description):
        say(f"{name:<12} {text}")
