"""`strongroom setup`: what an installation needs before its first run."""

import sys
from pathlib import Path

import click

from strongroom.cli.terminal import busy, say
from strongroom.engine.build import build_runtime
from strongroom.simulation.measure import Environment, Measurer


@click.command()
def setup() -> None:
    """Build what Spark needs beside the installed packages.

    Compiles the Java part (no JDK is needed), makes Java's ahead-of-time cache, and compiles all of Python's modules,
    so that the measurement of this installation stays what it is. Does only what is not done yet.
    """
    with busy("building the Spark runtime") as tell:
        build_runtime(progress=tell)
    with busy("compiling and measuring the environment"):
        digest = Measurer().measure(Environment.of_python(Path(sys.executable)))
    say(f"ready; this environment measures {digest}")
