"""`strongroom image`: the images of Strongroom's containers, in files."""

from pathlib import Path

import click

from strongroom.cli.options import json_option
from strongroom.cli.terminal import examples, print_json, say
from strongroom.simulation.archives import measure_archive

_NAMES = {"mrenclave": "MRENCLAVE", "mrtd": "MRTD", "launch_digest": "launch digest"}


@click.group()
def image() -> None:
    """Look at the images of Strongroom's containers."""


@image.command(epilog=examples("strongroom image measure build/images/spark.oci.tar"))
@click.argument("archive", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@json_option
def measure(*, archive: Path, as_json: bool) -> None:
    """Show what simulated hardware measures of containers of the image in ARCHIVE.

    ARCHIVE is an OCI image layout in a tar file, as deploy/images/build.py makes it. Nothing of it is run, and nobody
    is asked: these are the reference values that an owner registers before the image runs anywhere.
    """
    measured = measure_archive(archive)
    if as_json:
        print_json(measured.to_json())
        return
    say(f"image  {measured.digest}")
    for entry, values in measured.reference_values().items():
        say(f"\n{entry}")
        for name, value in values.items():
            say(f"  {_NAMES[name]:13}  {value}")
