"""`strongroom setup`: what an installation needs before its first run."""

import sys
from importlib.util import find_spec
from pathlib import Path

import click

from strongroom.cli.terminal import busy, say
from strongroom.engine.build import build_runtime
from strongroom.engine.runtime import find_runtime
from strongroom.simulation.measure import Environment, Measurer


@click.command()
@click.option(
    "--aot-cache/--no-aot-cache",
    default=True,
    show_default=True,
    help="Make Java's ahead-of-time cache. Java starts slower without it, and the same inputs give the same files.",
)
def setup(*, aot_cache: bool) -> None:
    """Build what Spark needs beside the installed packages.

    Compiles the Java part (no JDK is needed), makes Java's ahead-of-time cache, and another one for submissions where
    the extra for Kubernetes is installed, and compiles all of Python's modules, so that the measurement of this
    installation stays what it is. Does only what is not done yet.
    """
    with busy("building the Spark runtime") as tell:
        build_runtime(progress=tell, with_aot_cache=aot_cache)
        if aot_cache and find_spec("kubernetes") is not None:
            from strongroom.cluster.kubernetes.spark_submit import build_submission_cache  # noqa: PLC0415 - an extra

            build_submission_cache(find_runtime(), progress=tell)
    with busy("compiling and measuring the environment"):
        digest = Measurer().measure(Environment.of_python(Path(sys.executable)))
    say(f"ready; this environment measures {digest}")
