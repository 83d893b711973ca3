"""Datasets of a run whose keys are in vaults, from the analyst's side."""

from collections.abc import Mapping

from strongroom.base.errors import NotFoundError
from strongroom.datasets.storage import Storage
from strongroom.datasets.vault_versions import newest_version
from strongroom.wire.vault_key import VaultAddress, parse_vault_key


def vault_identity(address: VaultAddress) -> str:
    """Return what a binding pins of a vault's key.

    Raises:
        FormatError: The address holds no such statement.
    """
    return parse_vault_key(address.statement).identity


def vault_addresses(vaults: Mapping[str, VaultAddress]) -> dict[str, VaultAddress]:
    """Return how to use each vault's key, by what bindings pin of it.

    Args:
        vaults: How to use it, by dataset. Of several datasets under one key the first says how to reach it; the
            approvals of all are kept.

    Raises:
        FormatError: An address holds no statement about a key.
    """
    found: dict[str, VaultAddress] = {}
    for name, address in vaults.items():
        identity = vault_identity(address)
        first = found.get(identity, address.model_copy(update={"approvals": {}}))
        own = {each: token for each, token in address.approvals.items() if each == name}
        found[identity] = first.model_copy(update={"approvals": {**first.approvals, **own}})
    return found


def newest_number(name: str, *, location: str) -> int:
    """Return the number of the newest version that storage shows of a dataset.

    Raises:
        NotFoundError: It has none.
    """
    number = newest_version(Storage(location))
    if number is None:
        raise NotFoundError(
            f"dataset {name} has no version to read",
            action=f"encrypt it first: strongroom vault encrypt FILE {name} FILES",
        )
    return number
