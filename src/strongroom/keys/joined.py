"""Who joined a run, as the decision about the next one needs it: without reading all members again each time.

A member's row holds its evidence, so that a run of a thousand executors would read megabytes for each one that joins.
Members only come, one after the other, and never change. So what their rows said is remembered, and those that came
since are read. The memory stands only while the log says that there are as many members or more, and while the last of
them that was read is still the same: what was undone with its transaction, or came from another process, is noticed.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from strongroom.crypto.keys import VerifyingKey
from strongroom.keys.records import MemberRecord
from strongroom.keys.store import Transaction
from strongroom.wire.workload import Workload

_REMEMBERED_RUNS: Final = 256
_REMEMBERED_MEMBERS: Final = 20_000
"""Of all runs together: some tens of megabytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """The members of a run at one moment, the driver included.

    Attributes:
        count: How many there are.
    """

    count: int
    _numbers: dict[str, int]

    def has_key(self, thumbprint: str) -> bool:
        """Return whether a member's secrets are sealed to this key, or its requests are signed with it."""
        return self._has(thumbprint)

    def has_pod(self, workload: Workload) -> bool:
        """Return whether a member joined with the token of this pod."""
        return self._has(_pod(workload))

    def _has(self, mark: str) -> bool:
        return self._numbers.get(mark, self.count) < self.count  # others may have come since


class JoinedRuns:
    """The memory. Threads may share it.

    Args:
        most_runs: How many runs are remembered at most.
        most_members: How many members of all of them together; the run that is asked for always is.
    """

    def __init__(self, *, most_runs: int = _REMEMBERED_RUNS, most_members: int = _REMEMBERED_MEMBERS) -> None:
        self._most_runs = most_runs
        self._most_members = most_members
        self._lock = threading.Lock()
        self._known: OrderedDict[str, _Known] = OrderedDict()

    def read(self, tx: Transaction, run: str) -> Joined:
        """Return who joined a run; of one that was not opened, nobody.

        Args:
            tx: A transaction.
            run: The run.

        Raises:
            IntegrityError: There are other members than the log says, or the row of one that is read was edited.
        """
        count = tx.count_members(run)
        with self._lock:
            known = self._known.get(run)
            if known is None or not known.stands(tx, count=count):
                known = _Known(run=run)
            known.add(tx.members_since(run, known.count))
            if known.count > 0:
                self._known[run] = known
                self._known.move_to_end(run)
                self._forget_oldest()
            return Joined(count=known.count, _numbers=known.numbers)

    def _forget_oldest(self) -> None:
        members = sum(known.count for known in self._known.values())
        while len(self._known) > 1 and (len(self._known) > self._most_runs or members > self._most_members):
            _, oldest = self._known.popitem(last=False)
            members -= oldest.count


@dataclass(slots=True, kw_only=True)
class _Known:
    """What is remembered of one run: which member has which key or pod, and the last one that was read."""

    run: str
    count: int = 0
    numbers: dict[str, int] = field(default_factory=dict)
    last: MemberRecord | None = None

    def stands(self, tx: Transaction, *, count: int) -> bool:
        return self.last is None or (self.count <= count and tx.member(self.run, self.count - 1) == self.last)

    def add(self, members: Iterable[MemberRecord]) -> None:
        for member in members:
            signing = VerifyingKey.from_jwk(member.signing_key).thumbprint
            pods = () if member.workload is None else (_pod(member.workload),)
            for mark in (member.tee_key, signing, *pods):
                self.numbers.setdefault(mark, member.number)
            self.count, self.last = member.number + 1, member


def _pod(workload: Workload) -> str:
    return f"pod {workload.pod_uid} of {workload.issuer}"
