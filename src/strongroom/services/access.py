"""Whose a dataset, a key, an approval or a run is: people see and change what is theirs, auditors see everything.

What is somebody else's is answered like what does not exist, so that asking tells nothing.
"""

from strongroom.base.errors import NotFoundError
from strongroom.keys.records import DATASET_KEY_PREFIX, DatasetRecord, OpenedRun
from strongroom.keys.release import verify_ticket
from strongroom.keys.store import Store, Transaction
from strongroom.keys.store.rotations import names_of
from strongroom.services.consents import answers_for
from strongroom.services.data_keys import dataset_of_key
from strongroom.services.people import Person, Role


def own_dataset(tx: Transaction, name: str, owner: str) -> DatasetRecord:
    """Return a dataset of this owner.

    Args:
        tx: The transaction.
        name: The dataset.
        owner: The identity of the person who acts, or who signed.

    Raises:
        NotFoundError: There is none of this name, or it is somebody else's.
    """
    record = tx.dataset(name)
    if owner not in names_of(tx, record.owner):
        raise _no_dataset(name)
    return record


def may_see(tx: Transaction, dataset: DatasetRecord, person: Person) -> bool:
    """Return whether a dataset concerns a person: an auditor, its owner, or a member of its roster."""
    return person.may(Role.AUDITOR) or answers_for(tx, person.identity, dataset.name)


def seen_dataset(tx: Transaction, name: str, person: Person) -> DatasetRecord:
    """Return a dataset that concerns a person.

    Raises:
        NotFoundError: There is none of this name, or it does not concern him.
    """
    record = tx.dataset(name)
    if not may_see(tx, record, person):
        raise _no_dataset(name)
    return record


def is_own_key(tx: Transaction, name: str, owner: str) -> bool:
    """Return whether a key is an owner's: a dataset's key is its owner's, other keys are the owners' together."""
    name = name.lower()  # however the contract spells it
    if not name.startswith(DATASET_KEY_PREFIX):
        return True
    dataset = dataset_of_key(tx, name)
    if dataset is None:
        return True  # there is nothing to hide, as the operation says
    return owner in names_of(tx, dataset.owner)


def demand_own_key(store: Store, name: str, owner: str) -> None:
    """Refuse a dataset's key to everybody but the dataset's owner.

    Raises:
        NotFoundError: It is the key of somebody else's dataset.
    """
    with store.reading() as tx:
        if not is_own_key(tx, name, owner):
            raise NotFoundError(f"a key {name} was not found in this key vault")


def may_see_run(tx: Transaction, run: OpenedRun, person: Person) -> bool:
    """Return whether a run concerns a person: he submitted it, or one of his datasets is in it."""
    if person.may(Role.AUDITOR):
        return True
    if person.may(Role.SUBMITTER) and verify_ticket(run.ticket).ticket.submitter == person.identity:
        return True
    concerned = person.may(Role.OWNER, Role.APPROVER)
    return concerned and any(may_see(tx, tx.dataset(name), person) for name in (*run.reads, *run.writes))


def seen_run(tx: Transaction, run: str, person: Person) -> OpenedRun:
    """Return a run that concerns a person.

    Raises:
        NotFoundError: There is none, or it does not concern him.
    """
    record = tx.run(run).record
    if not may_see_run(tx, record, person):
        raise NotFoundError("there is no such run")
    return record


def _no_dataset(name: str) -> NotFoundError:
    return NotFoundError(f"there is no dataset {name}")
