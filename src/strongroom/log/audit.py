"""Auditing the leaves of a key service's log: what must follow from what, over all of them.

What a leaf says is the key service's word. The audit finds where its words contradict each other: a release without a
run, a run with a leaf left out, more runs than were approved, a version that no closing names.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from strongroom.base.clock import to_rfc3339
from strongroom.base.encoding import parse_canonical_json
from strongroom.base.errors import FormatError


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something in the log that should not be.

    Attributes:
        position: The leaf where it shows; None where it shows in what is missing.
        subject: Which run, approval, dataset or key it is about.
        text: What is wrong.
        grave: Whether the log contradicts itself; otherwise it is worth a look.
    """

    position: int | None
    subject: str
    text: str
    grave: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalUse:
    """How often an approval was used."""

    approval: str
    dataset: str
    runs: int
    max_runs: int | None
    revoked: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport:
    """What an audit found.

    Attributes:
        leaves: How many leaves were read.
        events: How many of each event.
        runs: How many runs were opened; closed well; ended badly; are open.
        approvals: How often each approval was used.
        findings: What should not be; none that is grave means that the log agrees with itself.
    """

    leaves: int
    events: Mapping[str, int]
    runs: Mapping[str, int]
    approvals: tuple[ApprovalUse, ...]
    findings: tuple[Finding, ...]


@dataclass(slots=True, kw_only=True)
class _Run:
    opened_at: str
    not_after: str | None
    max_executors: int | None
    leaves: int = 1
    members: int = 1
    outcome: str | None = None
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class _Approved:
    dataset: str
    max_runs: int | None
    application: str | None
    runs: int = 0
    revoked: bool = False


_Leaf = Mapping[str, Any]


def audit(leaves: Iterable[str], *, now: datetime) -> AuditReport:
    """Read all leaves of a log, from its first one on.

    1. Each leaf is canonical JSON with a version, an event and a time; times do not go backwards.
    2. A run's leaves are numbered without a gap, from its opening to its closing; nothing follows that; executors are
       numbered, and no more than its ticket allows.
    3. Keys are released to members of runs that are open, or to owners.
    4. A run is opened under approvals that are in the log, not revoked, and not used up.
    5. Versions of a dataset are numbered without a gap; those that runs wrote are named in the run's closing, and no
       closing names others.
    6. A run whose ticket has ended is closed.
    The caller MUST have checked that these leaves make the tree of a signed checkpoint.

    Args:
        leaves: The leaves' text, in order.
        now: The present time.
    """
    auditor = _Auditor()
    for text in leaves:
        auditor.read(text)
    return auditor.finish(now)


class _Auditor:
    def __init__(self) -> None:
        self._position = 0
        self._time = ""
        self._events: Counter[str] = Counter()
        self._findings: list[Finding] = []
        self._runs: dict[str, _Run] = {}
        self._approvals: dict[str, _Approved] = {}
        self._versions: dict[str, int] = {}
        self._written: dict[tuple[str, str], str] = {}

    def read(self, text: str) -> None:
        """Read the next leaf."""
        try:
            leaf = parse_canonical_json(text.encode("utf-8", "replace"))
            event, time = leaf["event"], leaf["time"]
            if leaf.get("version") != 1 or not isinstance(event, str) or not isinstance(time, str):
                raise FormatError("no version, event or time")  # noqa: TRY301 - one place for what is malformed
            self._events[event] += 1
            self._read_time(time)
            reader = _READERS.get(event)
            if reader is not None:
                reader(self, leaf)
            if event != "run-opened" and "number" in leaf:
                self._read_numbered(leaf)
        except (FormatError, KeyError, TypeError, AttributeError) as error:
            self._find("", f"the entry is malformed ({type(error).__name__})")
        self._position += 1

    def finish(self, now: datetime) -> AuditReport:
        """Look for what is missing, and report."""
        moment = to_rfc3339(now)
        for run, known in self._runs.items():
            if known.outcome is None and known.not_after is not None and known.not_after < moment:
                self._find(run, f"the run is open, and its ticket ended at {known.not_after}", here=False, grave=False)
        for run, dataset in self._written:
            self._find(run, f"the run wrote a version of {dataset}, and did not close with it", here=False)
        outcomes = Counter(known.outcome or "open" for known in self._runs.values())
        uses = tuple(
            ApprovalUse(
                approval=approval,
                dataset=known.dataset,
                runs=known.runs,
                max_runs=known.max_runs,
                revoked=known.revoked,
            )
            for approval, known in self._approvals.items()
        )
        return AuditReport(
            leaves=self._position,
            events=dict(sorted(self._events.items())),
            runs={"opened": len(self._runs), **dict(sorted(outcomes.items()))},
            approvals=uses,
            findings=tuple(self._findings),
        )

    def _read_time(self, time: str) -> None:
        if time < self._time:
            self._find("", f"the time goes back from {self._time} to {time}", grave=False)
        self._time = max(self._time, time)

    def _read_opening(self, leaf: _Leaf) -> None:
        run = leaf["run"]
        if run in self._runs:
            self._find(run, "the run is opened a second time")
            return
        if leaf.get("number") != 0:
            self._find(run, "the run's opening is not its first entry")
        self._runs[run] = _Run(
            opened_at=leaf["time"], not_after=leaf.get("not_after"), max_executors=leaf.get("max_executors")
        )
        for dataset, approval in leaf["approvals"].items():
            self._use(run, dataset, approval, application=leaf.get("application"))

    def _use(self, run: str, dataset: str, approval: str, *, application: str | None) -> None:
        known = self._approvals.get(approval)
        if known is None:
            self._find(run, f"the run is opened under an approval for {dataset} that is not in the log")
            return
        known.runs += 1
        if known.revoked:
            self._find(run, f"the run is opened under an approval for {dataset} that was revoked")
        if known.dataset != dataset or known.application != application:
            self._find(run, f"the run is opened under an approval of another application or dataset than {dataset}")
        if known.max_runs is not None and known.runs > known.max_runs:
            self._find(run, f"the approval for {dataset} allows {known.max_runs} run(s), this is number {known.runs}")

    def _read_numbered(self, leaf: _Leaf) -> None:
        run = leaf.get("run")
        known = self._runs.get(run) if isinstance(run, str) else None
        if known is None:
            self._find(str(run), f"{leaf['event']} belongs to a run that was not opened")
            return
        if leaf["number"] != known.leaves:
            self._find(str(run), f"the run's entry {known.leaves} is missing: this is number {leaf['number']}")
        known.leaves = max(known.leaves, leaf["number"]) + 1
        if known.outcome is not None and leaf["event"] != "run-closed":
            self._find(str(run), f"{leaf['event']} follows the run's closing")

    def _read_joining(self, leaf: _Leaf) -> None:
        known = self._runs.get(leaf["run"])
        if known is None:
            return  # told where its number is read
        if leaf.get("member") != known.members:
            self._find(
                leaf["run"], f"member {known.members} of the run is missing: this is member {leaf.get('member')}"
            )
        if known.max_executors is not None and known.members > known.max_executors:
            self._find(leaf["run"], f"the run has more than the {known.max_executors} executors of its ticket")
        known.members += 1

    def _read_release(self, leaf: _Leaf) -> None:
        run = leaf.get("run")
        if run is None:
            if not isinstance(leaf.get("owner"), str):
                self._find("", "keys are released to nobody")
            return
        known = self._runs.get(run)
        if known is None:
            self._find(run, "keys are released to a run that was not opened")
        elif not isinstance(leaf.get("member"), int) or not 0 <= leaf["member"] < known.members:
            self._find(run, "keys are released to somebody who did not join the run")

    def _read_closing(self, leaf: _Leaf) -> None:
        run = leaf["run"]
        known = self._runs.get(run)
        if known is None:
            return  # told where its number is read
        if known.outcome is not None:
            self._find(run, "the run is closed a second time")
        known.outcome = leaf["outcome"]
        for dataset, statement in leaf["versions"].items():
            if self._written.pop((run, dataset), None) != statement:
                self._find(run, f"the run closes with a version of {dataset} that is not in the log")

    def _read_version(self, leaf: _Leaf) -> None:
        dataset, number = leaf["dataset"], leaf["dataset_version"]
        expected = self._versions.get(dataset, 0) + 1
        if number != expected:
            self._find(dataset, f"version {expected} of the dataset is missing: this is version {number}")
        self._versions[dataset] = number
        kind, _, writer = leaf["writer"].partition(":")
        if kind == "run":
            self._written[writer, dataset] = leaf["statement"]
            if writer not in self._runs:
                self._find(dataset, "a version was written by a run that was not opened")

    def _read_approval(self, leaf: _Leaf) -> None:
        if leaf["approval"] in self._approvals:
            self._find(leaf["approval"], "the approval is stored a second time")
            return
        self._approvals[leaf["approval"]] = _Approved(
            dataset=leaf["dataset"], max_runs=leaf.get("max_runs"), application=leaf.get("application")
        )

    def _read_revocation(self, leaf: _Leaf) -> None:
        known = self._approvals.get(leaf["approval"])
        if known is None:
            self._find(leaf["approval"], "an approval is revoked that is not in the log")
        else:
            known.revoked = True

    def _find(self, subject: str, text: str, *, here: bool = True, grave: bool = True) -> None:
        position = self._position if here else None
        self._findings.append(Finding(position=position, subject=subject, text=text, grave=grave))


_READERS: Final[Mapping[str, Callable[[_Auditor, _Leaf], None]]] = {
    "run-opened": _Auditor._read_opening,  # noqa: SLF001 - one class, by event
    "member-joined": _Auditor._read_joining,  # noqa: SLF001
    "keys-released": _Auditor._read_release,  # noqa: SLF001
    "run-closed": _Auditor._read_closing,  # noqa: SLF001
    "dataset-version": _Auditor._read_version,  # noqa: SLF001
    "approved": _Auditor._read_approval,  # noqa: SLF001
    "revoked": _Auditor._read_revocation,  # noqa: SLF001
}
