"""Who may open and join a run, and how long it stands: pure functions over approvals and what was used of them.

A refused TEE learns what of its own does not fit (`policy.disclosure`), and of approvals that do not name its submitter
nothing at all: not even that there are any.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from strongroom.application.description import ApplicationDescription
from strongroom.base.clock import to_rfc3339
from strongroom.base.errors import ConflictError, Mismatch, RefusedError
from strongroom.base.workflow import Step
from strongroom.keys.joined import Joined
from strongroom.keys.records import OpenedRun
from strongroom.keys.refusal import Explained, ExplainedRefusalError
from strongroom.keys.release import AttestedTee, VerifiedTicket, bindings_here
from strongroom.policy.approval import (
    Approval,
    appraise_result,
    authorize_run,
    executor_mismatches,
    validity_mismatches,
)
from strongroom.policy.workloads import workload_mismatches
from strongroom.wire.ticket import RunTicket

WritersOf = Callable[[str, int], frozenset[str]]
"""Everything that the writer of a dataset's version is called: `owner:…`, or `run:…` and `application:…`."""
_UNKNOWN: Final = "no approval names this application and its submitter"
_HAVE_APPROVED: Final = (
    "Have it approved by the data's owner (strongroom approve), who sees with `strongroom why` what was asked for."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An approval that may cover a dataset of a run, or covers it.

    Attributes:
        id: SHA-256 of what was signed.
        approval: Its content; the signatures over it are verified.
        faults: Why it does not count, whatever it says: revoked, too few signatures, ended by a roster.
        runs_opened: How many runs were opened under it.
        executors_joined: How many executors joined these runs.
    """

    id: str
    approval: Approval
    faults: tuple[Mismatch, ...]
    runs_opened: int
    executors_joined: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What a driver may have.

    Attributes:
        approvals: For each dataset of this key service: the id of the approval that covers it.
        reads: For each dataset that is read: its version.
        writes: For each dataset that is written: the version that the write builds on; None for the first.
    """

    approvals: dict[str, str]
    reads: dict[str, int]
    writes: dict[str, int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What a driver asks with, whatever the dataset."""

    ticket: VerifiedTicket
    tee: AttestedTee
    heads: Mapping[str, int | None]
    writers_of: WritersOf
    now: datetime


def revoked(dataset: str, approval: str, *, by: str, at: str) -> Mismatch:
    """Return the mismatch of an approval that was revoked: who has it may know of that, who did it, and when."""
    return Mismatch(
        name=f"approval for {dataset}", expected="standing", actual=f"{approval} was revoked by {by} at {at}"
    )


def names_submitter(candidate: Candidate, ticket: RunTicket) -> bool:
    """Return whether an approval names a ticket's submitter: who may know that there is such an approval."""
    return ticket.submitter in candidate.approval.submitters


def refuse_unknown(
    *, ticket: VerifiedTicket, tee: AttestedTee, candidates: Mapping[str, Sequence[Candidate]], now: datetime
) -> ExplainedRefusalError:
    """Return the one refusal of everybody whom no approval names, whether or not there are approvals.

    Args:
        ticket: The verified ticket.
        tee: The driver's TEE.
        candidates: For each dataset of the ticket: the approvals of this application, for the owners' eyes.
        now: The present time.
    """
    explained = [
        Explained(
            dataset=name,
            approval=candidate.id,
            mismatches=(*candidate.faults, *_run_mismatches(candidate, ticket=ticket, tee=tee, now=now)),
        )
        for name, each in candidates.items()
        for candidate in each
    ]
    missing = [
        Explained(dataset=name, approval=None, mismatches=_no_approval(ticket.ticket))
        for name in ticket.ticket.datasets
        if not candidates.get(name)
    ]
    return ExplainedRefusalError(
        _UNKNOWN, shown=_no_approval(ticket.ticket), explained=[*explained, *missing], action=_HAVE_APPROVED
    )


def authorize_opening(
    *,
    ticket: VerifiedTicket,
    tee: AttestedTee,
    description: ApplicationDescription,
    key_service: str,
    candidates: Mapping[str, Sequence[Candidate]],
    heads: Mapping[str, int | None],
    writers_of: WritersOf,
    now: datetime,
) -> Opening:
    """Decide whether a driver may open a run.

    1. The ticket names exactly the datasets that the application binds.
    2. Each dataset bound to this key service has an approval that counts, names the submitter, is for exactly that
       access, admits the version that is read, covers ticket, result, time and counts (`authorize_run`), and names the
       workload that the driver showed, if it names any.
    3. The versions to read and to build on exist; "latest" means the newest one that the approval admits.
    The caller MUST have verified ticket, result, nonce and the request's signature, MUST take `description` from
    an approval of this very application that names the submitter, and MUST count and record the run in the same
    transaction.

    Args:
        ticket: The verified ticket.
        tee: The driver's TEE.
        description: What the application is.
        key_service: This service's identity.
        candidates: For each bound dataset: the approvals of this application for it.
        heads: For each bound dataset: the number of its newest version.
        writers_of: Who wrote a version.
        now: The present time.

    Raises:
        RefusedError: No; the mismatches say why, as far as the asker may know.
        ConflictError: A dataset has a newer version than the ticket names.
    """
    if set(ticket.ticket.datasets) != set(description.datasets):
        bound, named = (", ".join(sorted(names)) for names in (description.datasets, ticket.ticket.datasets))
        mismatch = Mismatch(name="datasets", expected=bound, actual=named)
        raise ExplainedRefusalError(
            "the run ticket names other datasets than the application",
            shown=[mismatch],
            explained=[Explained(dataset=None, approval=None, mismatches=(mismatch,))],
        )
    asked = _Asked(ticket=ticket, tee=tee, heads=heads, writers_of=writers_of, now=now)
    bindings = bindings_here(description, key_service=key_service)
    covering: dict[str, Candidate] = {}
    refusals: list[ExplainedRefusalError] = []
    for name, access in bindings.items():
        found = _covering(name, access, candidates.get(name, ()), asked)
        if isinstance(found, Candidate):
            covering[name] = found
        else:
            refusals.append(found)
    if refusals:
        raise ExplainedRefusalError(
            refusals[0].message,
            shown=[mismatch for refusal in refusals for mismatch in refusal.mismatches],
            explained=[each for refusal in refusals for each in refusal.explained],
            action=refusals[0].action,
        )
    pins = {name: description.datasets[name].version for name in bindings}
    return Opening(
        approvals={name: each.id for name, each in covering.items()},
        reads={
            name: _version_to_read(name, asked, approval=covering[name].approval, pinned=pins[name])
            for name, access in bindings.items()
            if access == "read"
        },
        writes={
            name: _version_to_build_on(name, ticket.ticket, pinned=pins[name], head=heads.get(name))
            for name, access in bindings.items()
            if access == "write"
        },
    )


def authorize_joining(
    *,
    run: OpenedRun,
    ticket: RunTicket,
    joined: Joined,
    tee: AttestedTee,
    approvals: Mapping[str, Candidate],
) -> None:
    """Decide whether an executor may join a run.

    1. Its runtime data name this run, this application and this run's driver.
    2. Its result meets every approval (`appraise_result`) under which the run was opened, and so does the workload that
       it showed.
    3. It is not a member yet, and the ticket and every approval have a place left.
    The caller MUST have verified result, nonce and request, MUST check `demand_standing`, and MUST count the executor
    under every approval in the same transaction.

    Args:
        run: The run.
        ticket: Its ticket.
        joined: Who joined so far, the driver included.
        tee: The executor's TEE.
        approvals: For each dataset: the approval that the run was opened under.

    Raises:
        RefusedError: No; the mismatches say why, as far as the asker may know.
    """
    explained = [
        Explained(dataset=None, approval=None, mismatches=tuple(_member_mismatches(run, ticket, joined, tee))),
        *(
            Explained(
                dataset=dataset,
                approval=each.id,
                mismatches=(
                    *appraise_result(each.approval, tee.claims, role="executor"),
                    *workload_mismatches(each.approval.workloads, tee.shown, role="executor"),
                    *executor_mismatches(each.approval, in_run=joined.count - 1, in_all=each.executors_joined),
                ),
            )
            for dataset, each in approvals.items()
        ),
    ]
    _refuse_if_any("the executor may not join this run", explained)


def demand_open(*, closed: bool) -> None:
    """Refuse anything more to a run that was closed.

    Raises:
        RefusedError: It was.
    """
    if closed:
        raise RefusedError(
            "the run is closed",
            action="Submit again.",
            step=Step.RELEASE,
            mismatches=(Mismatch(name="run", expected="open", actual="closed"),),
        )


def demand_standing(
    *, ticket: RunTicket, approvals: Mapping[str, Candidate], closed: bool, opened_at: datetime, now: datetime
) -> None:
    """Refuse when a run that was opened may have nothing more.

    Args:
        ticket: The run's ticket.
        approvals: For each dataset: the approval the run was opened under.
        closed: Whether the run was closed.
        opened_at: When it was opened.
        now: The present time.

    Raises:
        RefusedError: The run is closed, its time is over, or an approval was revoked or has ended.
    """
    demand_open(closed=closed)
    moment = to_rfc3339(now)
    own: tuple[Mismatch, ...] = ()
    if moment > ticket.not_after:
        own = (Mismatch(name="time", expected=f"at most the ticket's {ticket.not_after}", actual=moment),)
    explained = [
        Explained(dataset=None, approval=None, mismatches=own),
        *(
            Explained(
                dataset=dataset,
                approval=each.id,
                mismatches=(*each.faults, *validity_mismatches(each.approval, now=now, opened_at=opened_at)),
            )
            for dataset, each in approvals.items()
        ),
    ]
    _refuse_if_any("nothing more is released to this run", explained)


def _refuse_if_any(message: str, explained: Sequence[Explained]) -> None:
    found = [each for each in explained if each.mismatches]
    if not found:
        return
    mismatches = [mismatch for each in found for mismatch in each.mismatches]
    causes = [mismatch for mismatch in mismatches if mismatch.name.startswith("approval for ")]
    if causes:  # the engine passes on the sentence alone
        message = f"{message}: " + "; ".join(f"the {each.name}, {each.actual}" for each in causes)
    raise ExplainedRefusalError(message, shown=mismatches, explained=found)


def _member_mismatches(run: OpenedRun, ticket: RunTicket, joined: Joined, tee: AttestedTee) -> Iterator[Mismatch]:
    expected = {"role": "executor", "run": run.run, "application": run.application, "driver_key": run.driver_key}
    for name, value in expected.items():
        if getattr(tee.runtime, name) != value:
            actual = str(getattr(tee.runtime, name))
            yield Mismatch(name=f"x-ms-runtime.{name}", expected=value, actual=actual)
    if joined.has_key(tee.tee_key) or joined.has_key(tee.signing_key.thumbprint):
        yield Mismatch(name="member", expected="a TEE with new keys", actual="one that joined already")
    if joined.count > ticket.max_executors:
        expected_places = f"at most {ticket.max_executors} over the whole run, says the ticket"
        yield Mismatch(name="executors", expected=expected_places, actual=f"{joined.count - 1} joined")


def _covering(
    name: str, access: str, candidates: Sequence[Candidate], asked: _Asked
) -> Candidate | ExplainedRefusalError:
    """Return the first approval that covers a dataset; otherwise the refusal, with what the nearest one lacks."""
    ticket = asked.ticket.ticket
    explained: list[Explained] = []
    visible: list[Explained] = []
    for candidate in candidates:
        mismatches = (
            *candidate.faults,
            *_access_mismatches(candidate.approval, access),
            *_input_mismatches(name, candidate.approval, access, asked),
            *_run_mismatches(candidate, ticket=asked.ticket, tee=asked.tee, now=asked.now),
        )
        if not mismatches:
            return candidate
        found = Explained(dataset=name, approval=candidate.id, mismatches=mismatches)
        explained.append(found)
        if names_submitter(candidate, ticket):
            visible.append(found)
    if not visible:
        none = Explained(dataset=name, approval=None, mismatches=_no_approval(ticket))
        return ExplainedRefusalError(
            f"no approval lets this application and submitter {access} dataset {name}",
            shown=_no_approval(ticket),
            explained=explained or [none],
            action=_HAVE_APPROVED,
        )
    nearest = min(visible, key=lambda each: len(each.mismatches))
    return ExplainedRefusalError(
        f"no approval for dataset {name} covers this run", shown=nearest.mismatches, explained=explained
    )


def _run_mismatches(
    candidate: Candidate, *, ticket: VerifiedTicket, tee: AttestedTee, now: datetime
) -> tuple[Mismatch, ...]:
    workload = tuple(workload_mismatches(candidate.approval.workloads, tee.shown, role="driver"))
    try:
        authorize_run(
            candidate.approval,
            ticket=ticket.ticket,
            claims=tee.claims,
            runs_opened=candidate.runs_opened,
            executors_joined=candidate.executors_joined,
            now=now,
        )
    except RefusedError as refusal:
        return (*refusal.mismatches, *workload)
    return workload


def _access_mismatches(approval: Approval, access: str) -> Iterator[Mismatch]:
    if approval.access != access:
        yield Mismatch(name="access", expected=approval.access, actual=access)


def _input_mismatches(name: str, approval: Approval, access: str, asked: _Asked) -> Iterator[Mismatch]:
    wanted, head = asked.ticket.ticket.datasets[name], asked.heads.get(name)
    if access != "read" or wanted is None or head is None or not 1 <= wanted <= head:
        return  # that there is no such version is said when the version is chosen
    if not _admits(name, approval, wanted, asked):
        demands = [str(approval.versions) if approval.versions else "any", *(approval.writers or ())]
        yield Mismatch(name=f"input {name}", expected=f"version {', by '.join(demands)}", actual=str(wanted))


def _admits(name: str, approval: Approval, number: int, asked: _Asked) -> bool:
    writers = asked.writers_of(name, number) if approval.writers is not None else frozenset[str]()
    return approval.admits_version(number, writers=writers)


def _version_to_read(name: str, asked: _Asked, *, approval: Approval, pinned: int | None) -> int:
    wanted, head = asked.ticket.ticket.datasets[name], asked.heads.get(name)
    if head is None or wanted is None or not 1 <= wanted <= head:
        raise _own_refusal(
            f"dataset {name} has no such version", name, expected=f"1 to {head}" if head else "none", actual=wanted
        )
    if pinned is not None and wanted != pinned:
        raise _own_refusal(
            f"the application is approved for another version of dataset {name}",
            name,
            expected=str(pinned),
            actual=wanted,
        )
    if pinned is None and any(_admits(name, approval, newer, asked) for newer in range(wanted + 1, head + 1)):
        raise ConflictError(
            f"dataset {name} has a newer version than the run ticket names",
            action="Submit again.",
            step=Step.RELEASE,
            mismatches=(Mismatch(name=f"version of {name}", expected=str(head), actual=str(wanted)),),
        )
    return wanted


def _version_to_build_on(name: str, ticket: RunTicket, *, pinned: int | None, head: int | None) -> int | None:
    if ticket.datasets[name] is not None:
        raise _own_refusal(
            "the run ticket names a version to read of a dataset that is only written",
            name,
            expected="none",
            actual=ticket.datasets[name],
        )
    if pinned is not None and pinned != head:
        raise ConflictError(
            f"the application writes on version {pinned} of dataset {name}, which is not its newest one",
            action="Pack the application for the newest version and have it approved.",
            step=Step.RELEASE,
            mismatches=(Mismatch(name=f"version of {name}", expected=str(pinned), actual=str(head)),),
        )
    return head


def _own_refusal(message: str, name: str, *, expected: str, actual: int | None) -> ExplainedRefusalError:
    mismatch = Mismatch(name=f"version of {name}", expected=expected, actual=str(actual))
    return ExplainedRefusalError(
        message, shown=[mismatch], explained=[Explained(dataset=name, approval=None, mismatches=(mismatch,))]
    )


def _no_approval(ticket: RunTicket) -> tuple[Mismatch, ...]:
    return (
        Mismatch(name="application", expected="an approved one", actual=ticket.application),
        Mismatch(name="submitter", expected="one whom an approval names", actual=ticket.submitter),
    )
