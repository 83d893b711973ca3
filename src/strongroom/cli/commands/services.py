"""The services and the simulated platform as processes in the foreground.

A service's process becomes another one: nothing is loaded before that which only the other one needs.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any, Final, NoReturn

import click

from strongroom.attestation.evidence.simulated import entry_command
from strongroom.cli.lazy import LazyCommand, LazyGroup
from strongroom.cli.terminal import examples

_FOLDER: Final = click.Path(file_okay=False, path_type=Path)
_WAIT_S: Final = 120.0
CONFIG: Final[dict[str, Any]] = {
    "type": click.Path(dir_okay=False, exists=True, path_type=Path),
    "metavar": "FILE",
    "help": "The service's configuration; `strongroom up` writes one into owner/.",
}
"""The option that names a service's configuration."""
_ON_KEYS: Final = "strongroom.cli.commands.key_service"


@click.command()
@click.option("--config", required=True, **CONFIG)
def attestation_service(*, config: Path) -> None:
    """Run the attestation service in the foreground.

    It verifies evidence, appraises it by the registered policy and signs attestation results. It prints one line of
    JSON when it is ready, and ends on SIGTERM or Ctrl-C.
    """
    become("strongroom.services.attestation_service", config)


@click.group(
    cls=LazyGroup,
    lazy={
        "backup": LazyCommand(
            place=f"{_ON_KEYS}:backup", summary="Write an encrypted backup of the service's whole state."
        ),
        "restore": LazyCommand(
            place=f"{_ON_KEYS}:restore_command", summary="Restore a backup into an empty state folder or database."
        ),
        "accept-restore": LazyCommand(
            place=f"{_ON_KEYS}:accept_restore", summary="Say, as an owner, that a restored backup is meant."
        ),
        "rotate-master-key": LazyCommand(
            place=f"{_ON_KEYS}:rotate_master_key_command",
            summary="Replace the master key: the new one wraps the store's own key, and the old one no more.",
        ),
    },
    invoke_without_command=True,
    epilog=examples(
        "strongroom key-service --config owner/key-service.json",
        "strongroom key-service backup --config owner/key-service.json keys-2026-12-31.backup",
    ),
)
@click.option("--config", **CONFIG)
@click.pass_context
def key_service(context: click.Context, *, config: Path | None) -> None:
    """Run the key service; back its state up, restore it.

    Without a command it runs in the foreground: it keeps keys, and releases them to attested applications that an
    owner approved. It prints one line of JSON when it is ready, and ends on SIGTERM or Ctrl-C.
    """
    if context.invoked_subcommand is not None:
        if config is not None:
            raise click.UsageError(f"give --config after {context.invoked_subcommand}")
        return
    if config is None:
        raise click.UsageError("Missing option '--config'.")
    become("strongroom.services.key_service", config)


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
    from strongroom.simulation.server import serve  # noqa: PLC0415 - no service needs it

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
    from strongroom.services import provision as files_of  # noqa: PLC0415 - no service needs it

    if (files is None) != (into is None):
        raise click.UsageError("--files and --into go together")
    files_of.make_private(state)
    if identity is not None:
        files_of.install_identity(identity, state=state)
    if files is not None and into is not None:
        files_of.copy_private(files, into=into)
    if wait_for is not None:
        files_of.wait_for_socket(wait_for, timeout_s=_WAIT_S)


def become(entry: str, config: Path) -> NoReturn:
    """Become a service's process, which reads its configuration from a file."""
    # The platform measures a process by how it was started: this one must become the measured entry itself.
    os.execv(sys.executable, [*entry_command(sys.executable, entry), "--config", str(config)])  # noqa: S606 - no shell
