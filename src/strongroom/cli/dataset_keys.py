"""What an owner does with datasets' keys: look at them, rotate, retire, enable and disable, destroy, file the proof."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from strongroom.base.encoding import Json
from strongroom.base.errors import ConflictError, NotFoundError
from strongroom.cli.prefixes import find_by_prefix
from strongroom.clients.owner import OwnerClient
from strongroom.datasets.storage import write_file
from strongroom.wire.data_keys import DatasetKey, DatasetKeys, ShreddingProof

DATASETS_OWN: Final = "(the dataset's)"
"""What stands in a table where a column's name does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotated:
    """A KEK after its rotation.

    Attributes:
        column: The column whose key it is; None for the dataset's.
        number: Its newest version.
        rewrapped: How many write keys were wrapped anew.
        retirable: Older versions under which nothing stands any more.
    """

    column: str | None
    number: int
    rewrapped: int
    retirable: tuple[DatasetKey, ...]


def columns_of(keys: DatasetKeys, column: str | None) -> tuple[str | None, ...]:
    """Return whose KEKs are meant: one column's, or without one all of the dataset's.

    Raises:
        NotFoundError: The column has no key of its own.
    """
    every = tuple(dict.fromkeys(key.column for key in keys.keys))
    if column is None:
        return every
    if column not in every:
        raise NotFoundError(
            f"column {column} of dataset {keys.dataset} has no key of its own",
            action=f"see the keys with: strongroom keys show {keys.dataset}",
        )
    return (column,)


def rotate(client: OwnerClient, dataset: str, *, column: str | None, finish: bool) -> tuple[Rotated, ...]:
    """Make the next version of KEKs and wrap everything anew that stands under older ones.

    It may stop anywhere: both versions open what stands under them, and with `finish` it goes on where it stopped.

    Args:
        client: The owner's connection.
        dataset: The dataset.
        column: The column whose KEK is meant; None for all KEKs of the dataset.
        finish: Make no new version, only wrap anew what is left.

    Raises:
        NotFoundError: No such dataset, or the column has no key of its own.
        RefusedError: The dataset is another owner's, was shredded, or a key is disabled.
    """
    chosen = columns_of(_not_shredded(client.keys(dataset)), column)
    rewrapped: dict[str | None, int] = {}
    for each in chosen:
        if not finish:
            client.rotate_key(dataset, column=each)
        rewrapped[each] = _rewrap(client, dataset, each)
    after = client.keys(dataset).keys
    return tuple(
        Rotated(
            column=each,
            number=next(key.number for key in after if key.column == each and key.current),
            rewrapped=count,
            retirable=tuple(key for key in after if key.column == each and not key.current and not key.in_use),
        )
        for each, count in rewrapped.items()
    )


def retire(client: OwnerClient, dataset: str, *, version: str) -> DatasetKey:
    """Destroy an older version of a KEK.

    Args:
        client: The owner's connection.
        dataset: The dataset.
        version: The version's id, or the beginning of it.

    Raises:
        NotFoundError: There is no such version.
        ConflictError: Several begin so; it is the newest one; or write keys still stand under it.
    """
    found = find_by_prefix(version, {key.version: key for key in client.keys(dataset).keys}, "version of a key")
    client.retire_key(dataset, column=found.column, version=found.version)
    return found


def retire_unused(client: OwnerClient, dataset: str) -> tuple[DatasetKey, ...]:
    """Destroy every older version of a dataset's KEKs under which nothing stands any more.

    Raises:
        NotFoundError: No such dataset.
        RefusedError: The dataset is another owner's, or was shredded.
    """
    unused = tuple(key for key in client.keys(dataset).keys if not key.current and not key.in_use)
    for key in unused:
        client.retire_key(dataset, column=key.column, version=key.version)
    return unused


def set_state(client: OwnerClient, dataset: str, *, column: str | None, enabled: bool) -> tuple[str | None, ...]:
    """Enable or disable KEKs: one column's, or all of the dataset's.

    Returns:
        Whose they are.

    Raises:
        NotFoundError: No such dataset, or the column has no key of its own.
        RefusedError: The dataset is another owner's, or was shredded.
    """
    chosen = columns_of(_not_shredded(client.keys(dataset)), column)
    for each in chosen:
        client.set_key_state(dataset, column=each, enabled=enabled)
    return chosen


def list_keys(client: OwnerClient, dataset: str | None) -> list[dict[str, Json]]:
    """Return one record for each key at the key service: KEKs by dataset, then the keys of Key Vault's contract.

    Args:
        client: The owner's connection.
        dataset: Only this dataset's; None for everything.

    Raises:
        NotFoundError: No such dataset.
    """
    names = [dataset] if dataset else [str(each["dataset"]) for each in client.datasets()["datasets"]]
    records = [record for name in names for record in _key_records(client.keys(name))]
    return records if dataset else [*records, *map(_vault_record, client.vault_keys())]


def save_proof(proof: ShreddingProof, path: Path) -> None:
    """Write a proof of shredding; a file that is there is kept.

    Raises:
        ConflictError: There is a file of this name.
    """
    demand_free(path)
    write_file(path, proof.to_json())


def demand_free(path: Path) -> None:
    """Refuse to write where a file is.

    Raises:
        ConflictError: There is one.
    """
    if path.exists():
        raise ConflictError(f"{path} exists already", action="name a file that does not exist yet")


def _rewrap(client: OwnerClient, dataset: str, column: str | None) -> int:
    total, remaining = 0, True
    while remaining:
        answer = client.rewrap_keys(dataset, column=column)
        total, remaining = total + answer.rewrapped, answer.remaining
    return total


def _not_shredded(keys: DatasetKeys) -> DatasetKeys:
    if keys.shredded:
        raise ConflictError(
            f"the keys of dataset {keys.dataset} were destroyed",
            action=f"see the proof with: strongroom dataset shredding {keys.dataset}",
        )
    return keys


def _key_records(keys: DatasetKeys) -> list[dict[str, Json]]:
    if keys.shredded:
        return [{"dataset": keys.dataset, "column": None, "key": None, "versions": 0, "state": "destroyed"}]
    records: list[dict[str, Json]] = []
    for column in dict.fromkeys(key.column for key in keys.keys):
        versions = [key for key in keys.keys if key.column == column]
        newest = versions[-1]
        records.append(
            {
                "dataset": keys.dataset,
                "column": column,
                "key": newest.key,
                "versions": len(versions),
                "version": newest.version,
                "number": newest.number,
                "state": _state(versions),
                "created_at": newest.created_at,
            }
        )
    return records


def _state(versions: list[DatasetKey]) -> str:
    if not all(key.enabled for key in versions):
        return "disabled"
    if any(key.in_use and not key.current for key in versions):
        return "enabled, rotation unfinished"
    return "enabled"


def _vault_record(item: dict[str, Json]) -> dict[str, Json]:
    attributes = item.get("attributes")
    enabled = attributes.get("enabled") if isinstance(attributes, dict) else None
    name = str(item.get("kid", "")).partition("/keys/")[2]
    return {"dataset": None, "column": None, "key": name, "state": "enabled" if enabled else "disabled"}
