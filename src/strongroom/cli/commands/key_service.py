"""`strongroom key-service …`: back its state up, restore it, and say that a restore is meant."""

from pathlib import Path

import click

from strongroom.base.clock import SystemClock
from strongroom.base.errors import ConflictError
from strongroom.cli.commands.services import CONFIG
from strongroom.cli.options import state_option
from strongroom.cli.owner_keys import load_recipient_key, public_key_of
from strongroom.cli.session import owner_client
from strongroom.cli.state import State
from strongroom.cli.terminal import examples, say
from strongroom.services.key_service import read_settings
from strongroom.services.key_state import back_up, restore
from strongroom.services.master_key_rotation import rotate_master_key


@click.command(
    epilog=examples(
        "strongroom key-service backup --config owner/key-service.json keys-2026-12-31.backup",
        "strongroom key-service backup --config owner/key-service.json --recipient safe.jwk keys.backup",
    )
)
@click.option("--config", required=True, **CONFIG)
@click.option(
    "--recipient",
    "recipients",
    multiple=True,
    metavar="KEYFILE",
    help="A P-256 public key whose owner can open the backup without the master key; repeatable.  [default: nobody]",
)
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path), metavar="OUT")
def backup(*, config: Path, recipients: tuple[str, ...], out: Path) -> None:
    """Write an encrypted backup of the service's whole state.

    It holds one moment, whether or not the service runs meanwhile. The master key opens it, and whoever else is named.
    """
    keys = [public_key_of(each).to_jwk() for each in recipients]
    header = back_up(read_settings(config), out, recipients=keys, clock=SystemClock())
    say(f"{out} holds the state of {header.made_at}; what is logged later is not in it.")


@click.command("restore", epilog=examples("strongroom key-service restore --config owner/key-service.json keys.backup"))
@click.option("--config", required=True, **CONFIG)
@click.option(
    "--recipient-key",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    metavar="KEYFILE",
    help="The private key of a recipient of the backup, where its master key is lost.",
)
@click.argument("source", type=click.Path(dir_okay=False, exists=True, path_type=Path), metavar="BACKUP")
def restore_command(*, config: Path, recipient_key: Path | None, source: Path) -> None:
    """Restore a backup into an empty state folder or database.

    The whole state is audited, and the restore is logged. The service then releases nothing until an owner says that
    the restore is meant: `strongroom key-service accept-restore`.
    """
    recipient = None if recipient_key is None else load_recipient_key(recipient_key)
    restored = restore(read_settings(config), source, recipient=recipient, clock=SystemClock())
    say(f"The state of {restored.made_at} is restored; its log has {restored.log_size} entries.")
    say("Start the service, then: strongroom key-service accept-restore")


@click.command("accept-restore", epilog=examples("strongroom key-service accept-restore --lost-size 1234 --yes"))
@click.option(
    "--lost-size",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    metavar="NUMBER",
    help="The size of the newest checkpoint that anybody saw; entries beyond the backup up to there are given up.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@state_option
def accept_restore(*, lost_size: int, yes: bool, state: State) -> None:
    """Say, as an owner, that a restored backup is meant.

    What was logged after the backup is gone: runs, approvals, revocations. Revoke again what had been revoked. The log
    records this statement for good.
    """
    client = owner_client(state)
    pending = client.pending_restore()
    if pending.restore is None:
        raise ConflictError("no restore waits for an owner", action="there is nothing to accept")
    say(f"Restore {pending.restore}: the log has {pending.log_size} entries; up to {lost_size} are given up.")
    if not yes:
        click.confirm("Is that meant?", abort=True)
    client.accept_restore(pending.restore, lost_size=lost_size)
    say("Accepted: the key service releases keys again.")


@click.command(
    "rotate-master-key",
    epilog=examples(
        "strongroom key-service rotate-master-key --config owner/key-service.json --to file:///media/stick/master-2.key"
    ),
)
@click.option("--config", required=True, **CONFIG)
@click.option("--to", required=True, metavar="URI", help="The new master key; a file is made if it is not there.")
def rotate_master_key_command(*, config: Path, to: str) -> None:
    """Replace the master key: the new one wraps the store's own key, and the old one no more.

    The service must not run meanwhile. If this is interrupted, run it again: whatever the configuration names opens the
    store. Destroy the old master key afterwards, together with the backups that were made before: they open with it.
    """
    rotate_master_key(config, to=to, clock=SystemClock())
    say(f"The master key is {to} now, and {config} names it. Destroy the old one.")
