"""The services and the simulated platform as processes in the foreground."""

import os
import signal
import sys
from pathlib import Path
from typing import Final, NoReturn

import click

from strongroom.attestation.evidence.simulated import entry_command
from strongroom.simulation.server import serve

_CONFIG: Final = click.option(
    "--config",
    required=True,
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    metavar="FILE",
    help="The service's configuration; `strongroom up` writes one into owner/.",
)


@click.command()
@_CONFIG
def attestation_service(*, config: Path) -> None:
    """Run the attestation service in the foreground.

    It verifies evidence, appraises it by the registered policy and signs attestation results. It prints one line of
    JSON when it is ready, and ends on SIGTERM or Ctrl-C.
    """
    become("strongroom.services.attestation_service", config)


@click.command()
@click.option(
    "--config",
    required=True,
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    metavar="FILE",
    help="The service's configuration.",
)
def collateral_service(*, config: Path) -> None:
    """Run the collateral service in the foreground.

    It hands out the hardware vendors' endorsements, as Intel's PCCS and AMD's KDS do, from a cache, a folder or an
    offline bundle. It prints one line of JSON when it is ready, and ends on SIGTERM or Ctrl-C.
    """
    become("strongroom.services.collateral_service", config)


@click.command()
@click.option("--folder", required=True, type=click.Path(file_okay=False, path_type=Path), metavar="DIR")
def simulated_platform(*, folder: Path) -> None:
    """Run the simulated SGX platform."""

    def ready() -> None:
        sys.stdout.write('{"ready":"simulated-platform"}\n')
        sys.stdout.flush()

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        serve(folder, ready=ready)
    except KeyboardInterrupt:
        return


def become(entry: str, config: Path) -> NoReturn:
    """Become a service's process, which reads its configuration from a file."""
    # The platform measures a process by how it was started: this one must become the measured entry itself.
    os.execv(sys.executable, [*entry_command(sys.executable, entry), "--config", str(config)])  # noqa: S606 - no shell
