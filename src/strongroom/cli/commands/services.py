"""The services and the simulated platform as processes in the foreground."""

import os
import signal
import sys
from pathlib import Path
from typing import Final, NoReturn

import click

from strongroom.attestation.evidence.simulated import entry_command
from strongroom.services.provision import copy_private, install_identity, make_private, wait_for_socket
from strongroom.simulation.server import serve

_FOLDER: Final = click.Path(file_okay=False, path_type=Path)
_WAIT_S: Final = 120.0
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
@click.option(
    "--public",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Where every user and container of this machine finds socket and endorsements.  [default: the folder]",
)
def simulated_platform(*, folder: Path, public: Path | None) -> None:
    """Run the simulated SGX platform."""

    def ready() -> None:
        sys.stdout.write('{"ready":"simulated-platform"}\n')
        sys.stdout.flush()

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        serve(folder, ready=ready, public=public)
    except KeyboardInterrupt:
        return


@click.command()
@click.option("--state", required=True, type=_FOLDER, metavar="DIR", help="The service's state folder.")
@click.option("--identity", type=_FOLDER, metavar="DIR", help="Where the Secret with its identity is mounted.")
@click.option("--files", type=_FOLDER, metavar="DIR", help="Where the Secret with its further files is mounted.")
@click.option("--into", type=_FOLDER, metavar="DIR", help="Where private copies of those files go.")
@click.option("--wait-for", type=click.Path(path_type=Path), metavar="SOCKET", help="Wait for this socket.")
def provision(
    *, state: Path, identity: Path | None, files: Path | None, into: Path | None, wait_for: Path | None
) -> None:
    """Give a service in a container its private files."""
    if (files is None) != (into is None):
        raise click.UsageError("--files and --into go together")
    make_private(state)
    if identity is not None:
        install_identity(identity, state=state)
    if files is not None and into is not None:
        copy_private(files, into=into)
    if wait_for is not None:
        wait_for_socket(wait_for, timeout_s=_WAIT_S)


def become(entry: str, config: Path) -> NoReturn:
    """Become a service's process, which reads its configuration from a file."""
    # The platform measures a process by how it was started: this one must become the measured entry itself.
    os.execv(sys.executable, [*entry_command(sys.executable, entry), "--config", str(config)])  # noqa: S606 - no shell
