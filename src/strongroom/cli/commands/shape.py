"""`strongroom shape`: where TEEs are on a cluster, what their pods need, and what may start in them."""

from typing import Final, cast

import click

from strongroom.cli.shapes import read_shape_options
from strongroom.cli.terminal import examples, print_json, say
from strongroom.cluster.agent_policy import IMAGE_VARIABLES, agent_policy
from strongroom.cluster.shapes import SHAPES, Launch, parse_shape, render_overlay
from strongroom.wire.runtime_data import Role

_application: Final = click.option(
    "--application", metavar="DIGEST", required=True, help="The application's digest, 64 hexadecimal characters."
)
_image: Final = click.option("--image", metavar="NAME@sha256:…", required=True, help="The image, by its digest.")


@click.group()
def shape() -> None:
    """Look at where TEEs are on a cluster, and what may start in their pods."""


@shape.command(
    epilog=examples(
        "strongroom shape show simulated --application 3f9c… --image registry.example/spark@sha256:…",
        "strongroom shape show pod --option runtime=kata-qemu-snp --application 3f9c… --image …",
    )
)
@click.argument("name", type=click.Choice(list(SHAPES)))
@_application
@_image
@click.option("--option", "options", metavar="NAME=VALUE", multiple=True, help="An option of the shape; repeatable.")
@click.option("--role", type=click.Choice(["driver", "executor"]), default="driver", show_default=True)
def show(*, name: str, application: str, image: str, options: tuple[str, ...], role: str) -> None:
    """Show what the shape NAME adds to a pod, as JSON; `strongroom submit --shape` merges it into its templates."""
    launch = Launch.from_object({"application": application, "image": image})
    overlay = render_overlay(
        parse_shape(name, read_shape_options(options, option="--option")), launch, role=cast("Role", role)
    )
    print_json(overlay.to_json())


@shape.command(
    epilog=examples(
        "strongroom shape policy --image registry.example/spark@sha256:… --user 0 > policy.rego",
        "strongroom app initdata 3f9c --policy policy.rego --output initdata.toml",
    )
)
@_image
@click.option(
    "--environment",
    metavar="NAME=VALUE",
    multiple=True,
    help="A variable that the image sets; repeatable.  [default: those of Strongroom's image]",
)
@click.option("--storage", metavar="FOLDER", multiple=True, help="Where a dataset's storage is mounted; repeatable.")
@click.option("--user", type=click.IntRange(min=0), default=0, show_default=True, help="The user the agent runs as.")
def policy(*, image: str, environment: tuple[str, ...], storage: tuple[str, ...], user: int) -> None:
    """Print the policy under which the Kata agent starts Strongroom's agent out of one image, and nothing else.

    It goes into a pod's initdata, and so into what owners trust: `strongroom trust pod`.
    """
    say(agent_policy(image, environment=environment or IMAGE_VARIABLES, storage=storage, user=user).rstrip("\n"))
