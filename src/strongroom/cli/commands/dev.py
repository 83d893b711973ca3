"""`strongroom dev`: the generated files of a source tree."""

import click

from strongroom.base.errors import IntegrityError
from strongroom.cli.generated import generated_files, source_tree, stale_files, write_files
from strongroom.cli.terminal import say


@click.group()
def dev() -> None:
    """Write or check the generated files of a source tree."""


@dev.command()
@click.pass_context
def generate(context: click.Context) -> None:
    """Write the JSON Schemas of all messages and the reference of all commands."""
    written = write_files(generated_files(context.find_root().command), root=source_tree())
    for path in written:
        say(str(path))
    say(f"{len(written)} files changed")


@dev.command()
@click.pass_context
def check_generated(context: click.Context) -> None:
    """Check that the generated files are what the code says."""
    files = generated_files(context.find_root().command)
    stale = stale_files(files, root=source_tree())
    if stale:
        raise IntegrityError(
            f"generated files are not up to date: {', '.join(map(str, stale))}", action="run: strongroom dev generate"
        )
    say(f"{len(files)} generated files are up to date")
