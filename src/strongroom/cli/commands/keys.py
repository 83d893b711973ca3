"""`strongroom keys`: datasets' keys at the key service, as their owner sees and changes them."""

import click

from strongroom.base.encoding import Json
from strongroom.cli import dataset_keys
from strongroom.cli.dataset_keys import DATASETS_OWN, Rotated
from strongroom.cli.options import DATASET_NAME, json_option, state_option
from strongroom.cli.session import owner_client
from strongroom.cli.state import State
from strongroom.cli.terminal import examples, print_json, print_records, say, short

COLUMN = click.option(
    "--column", metavar="NAME", help="Only the key of this column.  [default: all keys of the dataset]"
)
FINISH = click.option(
    "--finish", is_flag=True, help="Make no new version; only wrap anew what an interrupted rotation has left."
)
_DATASET = click.argument("dataset", type=DATASET_NAME)


@click.group()
def keys() -> None:
    """Look at datasets' keys, rotate, enable and disable them."""


@keys.command("list", epilog=examples("strongroom keys list", "strongroom keys list trips --json"))
@click.argument("dataset", type=DATASET_NAME, required=False)
@json_option
@state_option
def list_(*, dataset: str | None, as_json: bool, state: State) -> None:
    """List the keys at the key service, by dataset; with DATASET only that one's.

    Keys that belong to no dataset are those of Azure Key Vault's contract.
    """
    records = dataset_keys.list_keys(owner_client(state), dataset)
    columns = {
        "dataset": "dataset",
        "column": "column",
        "key": "key",
        "number": "version",
        "versions": "kept",
        "state": "state",
        "created_at": "since",
    }
    print_records(records, columns=columns, as_json=as_json)


@keys.command(epilog=examples("strongroom keys show trips"))
@_DATASET
@json_option
@state_option
def show(*, dataset: str, as_json: bool, state: State) -> None:
    """Show every version of the keys of DATASET: which is the newest, and which still has write keys under it."""
    found = owner_client(state).keys(dataset)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    if found.shredded:
        say(f"the keys of dataset {dataset} were destroyed; the proof: strongroom dataset shredding {dataset}")
        return
    records: list[dict[str, Json]] = [
        {**key.model_dump(mode="json"), "column": key.column or DATASETS_OWN} for key in found.keys
    ]
    columns = {
        "column": "column",
        "number": "number",
        "version": "version",
        "current": "newest",
        "in_use": "in use",
        "enabled": "enabled",
        "created_at": "since",
    }
    print_records(records, columns=columns, as_json=False)


@keys.command(epilog=examples("strongroom keys rotate trips", "strongroom keys rotate people --column iban"))
@_DATASET
@COLUMN
@FINISH
@json_option
@state_option
def rotate(*, dataset: str, column: str | None, finish: bool, as_json: bool, state: State) -> None:
    """Make the next version of the keys of DATASET, and wrap everything anew that stands under older ones.

    Data and manifests stay as they are. Runs go on. The older version still opens what it opened: destroy it with
    `strongroom dataset retire` when nothing stands under it any more.
    """
    print_rotated(
        dataset, dataset_keys.rotate(owner_client(state), dataset, column=column, finish=finish), as_json=as_json
    )


@keys.command(epilog=examples("strongroom keys disable trips", "strongroom keys disable people --column iban"))
@_DATASET
@COLUMN
@state_option
def disable(*, dataset: str, column: str | None, state: State) -> None:
    """Disable the keys of DATASET: nothing of it is released, read or committed until they are enabled."""
    _set_state(state, dataset, column, enabled=False)


@keys.command(epilog=examples("strongroom keys enable trips"))
@_DATASET
@COLUMN
@state_option
def enable(*, dataset: str, column: str | None, state: State) -> None:
    """Enable the keys of DATASET again."""
    _set_state(state, dataset, column, enabled=True)


def print_rotated(dataset: str, rotated: tuple[Rotated, ...], *, as_json: bool) -> None:
    """Print what became of KEKs."""
    if as_json:
        print_json(
            [
                {
                    "column": each.column,
                    "number": each.number,
                    "rewrapped": each.rewrapped,
                    "retirable": [key.version for key in each.retirable],
                }
                for each in rotated
            ]
        )
        return
    for each in rotated:
        what = f"the key of column {each.column}" if each.column else "the dataset's key"
        say(f"dataset {dataset}: {what} has version {each.number}; {each.rewrapped} write keys wrapped anew")
        for key in each.retirable:
            what = f"  nothing stands under version {key.number} any more; destroy it with"
            say(f"{what}: strongroom dataset retire {dataset} --version {short(key.version).rstrip('…')}")


def _set_state(state: State, dataset: str, column: str | None, *, enabled: bool) -> None:
    changed = dataset_keys.set_state(owner_client(state), dataset, column=column, enabled=enabled)
    whose = ", ".join(each or DATASETS_OWN for each in changed)
    say(f"dataset {dataset}: keys {'enabled' if enabled else 'disabled'}: {whose}")
