"""`strongroom app`: pack applications, look at packed ones."""

from typing import Any

import click

from strongroom.application.description import ApplicationDescription
from strongroom.cli.applications import describe, find_application
from strongroom.cli.commands.submit import application_options, request_of
from strongroom.cli.completion import complete_applications
from strongroom.cli.options import examples, json_option, state_option
from strongroom.cli.state import State
from strongroom.cli.terminal import print_json, say
from strongroom.submit.run import load_trust
from strongroom.submit.run import pack as pack_request


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
@json_option
@state_option
def pack(*, as_json: bool, state: State, **options: Any) -> str:  # noqa: ANN401 - spark-submit's options
    """Pack the application SCRIPT with its arguments, and print the digest that owners approve.

    Takes the same options as `strongroom submit`; sizes and places are not part of an application, so one approval
    serves a laptop and a cluster. Running it again later gives the same digest, unless something changed.
    """
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


def _print(description: ApplicationDescription, *, as_json: bool) -> None:
    if as_json:
        print_json({"digest": description.digest, "description": description.model_dump(mode="json")})
        return
    for name, text in describe(description):
        say(f"{name:<12} {text}")
