"""Chains of leaves: what the log says of an approval, a run, a dataset or a KEK, found without reading the log.

A leaf that is about a subject carries a number: the how-many-eth it is of that subject. Beside the log stand two
authenticated rows: a link (subject, number) that names the leaf's position, and the subject's state, which holds the
number of its links and what follows from them (runs opened, revoked, how a run ended, a dataset's newest version).

A state is believed only together with its newest link and that link's leaf, and only when no further link is there:
- An edited state, link or leaf does not open, or is not in the tree: noticed when it is used.
- An older copy of a state alone names fewer links than there are: noticed when it is used.
- An older state with the links after it deleted is consistent in itself. The leaves are still in the tree, and each
  says its number: the audit, which goes through every leaf in the background, finds one without its link.
- Deleted leaves, or other ones in their place, are not those of the signed checkpoint: noticed at the start for the
  newest ones, when it is used for a single one, by the audit for all.
- A whole older copy of everything, checkpoint included, is not to be told from the newest one here. Tickets, clients
  and witnesses tell it, because they have seen a newer checkpoint.
"""

from collections.abc import Callable, Mapping
from typing import Final, Literal, TypeAlias

from pydantic import Field, ValidationError

from strongroom.base.encoding import Json
from strongroom.base.errors import FormatError, IntegrityError
from strongroom.keys.store.rows import Rows, edited
from strongroom.wire.model import Hex16, Message

TABLES: Final = """
CREATE TABLE chain_states (subject TEXT PRIMARY KEY, public TEXT NOT NULL, sealed BLOB NOT NULL) STRICT;
CREATE TABLE chain_links (
  subject TEXT NOT NULL, number INTEGER NOT NULL, public TEXT NOT NULL, sealed BLOB NOT NULL,
  PRIMARY KEY (subject, number)
) STRICT;
"""
_ABOUT_APPROVALS: Final = frozenset({"approved", "revoked"})
_ABOUT_THE_LOG: Final = frozenset({"restored", "restore-accepted"})
LOG_SUBJECT: Final = "log"
_ABOUT_DATASETS: Final = frozenset({"dataset-created", "dataset-version", "roster-changed", "key-shredded"})
_ABOUT_KEKS: Final = frozenset({"key-retired"})


class ChainLink(Message):
    """Which leaf has a number of a subject."""

    position: int = Field(ge=0)


class ChainState(Message):
    """What the leaves of a subject say.

    Attributes:
        links: How many they are.
        runs: How many runs were opened under an approval.
        revoked: Whether an approval was revoked.
        members: How many TEEs joined a run, or all runs under an approval.
        outcome: How a run ended.
        head: A dataset's newest version.
        rosters: How many rosters a dataset had.
        shredded: Position of the leaf that says that a dataset's keys were destroyed.
        retired: Whether a version of a KEK was retired.
        restore: Which restore from a backup this is (the name that its leaf has), until an owner says that it is meant.
        lost_size: Checkpoints up to this size may be of entries that an owner gave up as lost.
    """

    links: int = Field(ge=0)
    runs: int = 0
    revoked: bool = False
    members: int = 0
    outcome: Literal["succeeded", "failed"] | None = None
    head: int | None = None
    rosters: int = 0
    shredded: int | None = None
    retired: bool = False
    restore: Hex16 | None = None
    lost_size: int = 0

    def after(self, event: str, leaf: Mapping[str, Json], *, position: int) -> "ChainState":
        """Return the state after one more leaf."""
        changed = _EFFECTS[event](self, leaf, position) if event in _EFFECTS else {}
        try:
            return ChainState.model_validate({**dict(self), "links": self.links + 1, **changed})
        except ValidationError as error:
            raise FormatError("an entry of the log says what no state can hold") from error


_Effect: TypeAlias = Callable[[ChainState, Mapping[str, Json], int], dict[str, Json]]
_EFFECTS: Final[Mapping[str, _Effect]] = {
    "run-opened": lambda state, _leaf, _at: {"runs": state.runs + 1, "members": state.members + 1},
    "member-joined": lambda state, _leaf, _at: {"members": state.members + 1},
    "run-closed": lambda _state, leaf, _at: {"outcome": leaf["outcome"]},
    "revoked": lambda _state, _leaf, _at: {"revoked": True},
    "dataset-version": lambda _state, leaf, _at: {"head": leaf["dataset_version"]},
    "roster-changed": lambda state, _leaf, _at: {"rosters": state.rosters + 1},
    "key-shredded": lambda _state, _leaf, at: {"shredded": at},
    "key-retired": lambda _state, _leaf, _at: {"retired": True},
    "restored": lambda _state, leaf, _at: {"restore": leaf["restore"]},
    "restore-accepted": lambda _state, leaf, _at: {"restore": None, "lost_size": leaf["lost_size"]},
}
"""What a leaf changes in the states of its subjects, by its event; of any other only the number counts."""
EMPTY: Final = ChainState(links=0)


def run_subject(run: str) -> str:
    """Return the subject of a run's leaves."""
    return f"run/{run}"


def approval_subject(approval: str) -> str:
    """Return the subject of an approval's leaves."""
    return f"approval/{approval}"


def dataset_subject(dataset: str) -> str:
    """Return the subject of a dataset's leaves."""
    return f"dataset/{dataset}"


def kek_subject(version: str) -> str:
    """Return the subject of the leaves of one version of a KEK."""
    return f"kek/{version}"


def subjects_of(event: str, leaf: Mapping[str, Json]) -> list[str]:
    """Return the subjects, beside its run, that a leaf is about."""
    if event in _ABOUT_THE_LOG:
        return [LOG_SUBJECT]
    for events, member, subject in (
        (_ABOUT_APPROVALS, "approval", approval_subject),
        (_ABOUT_DATASETS, "dataset", dataset_subject),
        (_ABOUT_KEKS, "kek", kek_subject),
    ):
        name = leaf.get(member)
        if event in events and isinstance(name, str):
            return [subject(name)]
    approvals = leaf.get("approvals")
    if event == "run-opened" and isinstance(approvals, dict):
        return [approval_subject(each) for each in sorted({str(value) for value in approvals.values()})]
    executors = leaf.get("executors")
    if event == "member-joined" and isinstance(executors, dict):
        return [approval_subject(each) for each in sorted(executors)]
    return []


def numbers_of(leaf: Mapping[str, Json]) -> dict[str, int]:
    """Return the subjects of a leaf, its run included, with the numbers that it says it has."""
    numbered = leaf.get("links", {})
    numbers = {str(name): number for name, number in numbered.items()} if isinstance(numbered, dict) else {}
    run, number = leaf.get("run"), leaf.get("number")
    if isinstance(run, str) and isinstance(number, int):
        numbers[run_subject(run)] = number
    return {name: number for name, number in numbers.items() if isinstance(number, int)}


class Chains:
    """The chains, within one transaction."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def state(self, subject: str) -> ChainState:
        """Return a subject's state; the empty one before its first leaf. Its newest leaf MUST still be checked.

        Raises:
            IntegrityError: State and links do not belong together.
        """
        found = self._rows.find("chain_states", {"subject": subject}, ChainState)
        state = EMPTY if found is None else found[0]
        if self.link(subject, state.links) is not None:
            raise miscounted(subject)
        return state

    def end(self, subject: str) -> tuple[ChainState, int | None]:
        """Return a subject's state as it is stored, and the position of its newest leaf.

        The caller MUST check that this leaf has the number that the state counts up to.

        Raises:
            IntegrityError: One of them is there without the other.
        """
        found = self._rows.find("chain_states", {"subject": subject}, ChainState)
        newest = self._rows.first("chain_links", {"subject": subject}, ChainLink, ("number DESC",))
        if (found is None) != (newest is None):
            raise miscounted(subject)
        return EMPTY if found is None else found[0], None if newest is None else newest[0].position

    def link(self, subject: str, number: int) -> int | None:
        """Return the position of a subject's leaf with a number."""
        found = self._rows.find("chain_links", {"subject": subject, "number": number}, ChainLink)
        return None if found is None else found[0].position

    def positions(self, subject: str) -> tuple[int, ...]:
        """Return the positions of a subject's leaves, in order.

        Raises:
            IntegrityError: There are others than its state counts.
        """
        found = self._rows.select("chain_links", {"subject": subject}, ChainLink, ("number",))
        positions = tuple(link.position for link, _ in found)
        if len(positions) != self.state(subject).links or list(positions) != sorted(set(positions)):
            raise miscounted(subject)
        return positions

    def extend(
        self, subject: str, state: ChainState, *, position: int, event: str, leaf: Mapping[str, Json]
    ) -> ChainState:
        """Add a subject's next leaf; return its state with it.

        Raises:
            ConflictError: There is a link with that number.
        """
        after = state.after(event, leaf, position=position)
        self._rows.insert("chain_links", {"subject": subject, "number": state.links}, ChainLink(position=position))
        if state.links:
            self._rows.update("chain_states", {"subject": subject}, after)
        else:
            self._rows.insert("chain_states", {"subject": subject}, after)
        return after


def miscounted(subject: str) -> IntegrityError:
    """Return the error of a state that is not what the log's links lead to."""
    return edited(f"the log has more or other entries about {subject} than its state counts")
