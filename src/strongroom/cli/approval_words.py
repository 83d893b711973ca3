"""What an approval and a roster say, in words, and what changed: what people read before they sign.

Digests are never shortened here: somebody could make a key whose thumbprint begins like another's.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from strongroom.cli.terminal import printable
from strongroom.crypto.keys import VerifyingKey
from strongroom.policy.approval import Approval, PlatformDemand
from strongroom.policy.roster import Roster
from strongroom.wire.model import Shape

_NO_LIMIT: Final = "no limit"
_ISSUED: Final = "issued"
SHAPE_WORDS: Final[Mapping[Shape, str]] = {
    "process": "a TEE for each process, and what is measured is all that runs in it",
    "pod": "a TEE for each pod, whose measured guest starts what its measured configuration names",
    "confidential-node": "WEAKER: the cluster's administrator is inside the TEE, and reads what the application reads",
}
"""Whom an owner trusts with each shape; `policy.shapes` says it at length."""
_UNITS: Final = ((24 * 3600, "d"), (3600, "h"), (60, "min"), (1, "s"))


def approval_words(approval: Approval) -> list[tuple[str, str]]:
    """Return everything that an approval says: what, and its value."""
    return [(name, say(approval)) for name, say in _WORDS.items()]


def approval_changes(before: Approval, after: Approval) -> list[str]:
    """Return what an approval says otherwise than another one, one line for each."""
    said = dict(approval_words(before))
    return [
        f"{name}: {said[name]}  →  {words}"
        for name, words in approval_words(after)
        if words != said[name] and name != _ISSUED
    ]


def roster_words(roster: Roster) -> list[tuple[str, str]]:
    """Return everything that a roster says: what, and its value."""
    earlier = "they go on" if roster.keeps_approvals else "they end"
    return [
        ("roster", f"{roster.number}, {roster.digest}"),
        ("signatures", f"{roster.threshold} of {len(roster.members)} people's"),
        *(("member", thumbprint) for thumbprint in sorted(roster.keys)),
        ("approvals", f"given before it: {earlier}" if roster.number > 1 else f"that owners gave alone: {earlier}"),
        ("proposed", roster.issued_at),
    ]


def roster_changes(before: Roster, after: Roster) -> list[str]:
    """Return how a roster differs from the one before it."""
    lines = [f"joins: {each}" for each in sorted(set(after.keys) - set(before.keys))]
    lines += [f"leaves: {each}" for each in sorted(set(before.keys) - set(after.keys))]
    if (before.threshold, len(before.members)) != (after.threshold, len(after.members)):
        then, now = (f"{each.threshold} of {len(each.members)}" for each in (before, after))
        lines.append(f"signatures: {then}  →  {now}")
    return lines


def duration_words(seconds: int) -> str:
    """Return a length of time in its largest whole unit."""
    for unit_s, unit in _UNITS:
        if seconds % unit_s == 0:
            return f"{seconds // unit_s} {unit}"
    return f"{seconds} s"


def _hardware(approval: Approval) -> str:
    simulated = " (protects nothing)" if approval.hardware == "simulated" else ""
    return f"{approval.hardware}{simulated}, {' or '.join(approval.tees)}"


def _workloads(approval: Approval) -> str:
    return " or ".join(map(str, approval.workloads)) or "no token of a cluster's service account is asked for"


def _freshness(platform: PlatformDemand | None) -> str:
    if platform is None:
        return "however old"
    least = {
        "tcbEvaluationDataNumber": platform.min_tcb_evaluation_data_number,
        "revocation list": platform.min_crl_number,
    }
    return (
        ", ".join(f"{name} at least {number}" for name, number in least.items() if number is not None) or "however old"
    )


def _runs(approval: Approval) -> str:
    begin = f"from {approval.not_before} " if approval.not_before else ""
    end = f"until {approval.not_after}" if approval.not_after else "without an end date"
    return f"at most {approval.max_runs}, to be opened {begin}{end}"


def _executors(approval: Approval) -> str:
    in_run = "as many as the ticket says" if approval.max_executors is None else f"at most {approval.max_executors}"
    in_all = _NO_LIMIT if approval.max_executors_total is None else f"at most {approval.max_executors_total}"
    return f"{in_run} in a run, {in_all} over all runs"


def _duration(approval: Approval) -> str:
    if approval.max_duration_s is None:
        return "as long as ticket and approval hold"
    return f"keys and commits for at most {duration_words(approval.max_duration_s)} after opening"


def _versions(approval: Approval) -> str:
    if approval.access == "write":
        return "-"
    versions = "every version" if approval.versions is None else f"version {approval.versions}"
    writers = "everybody's" if approval.writers is None else f"written by {', '.join(approval.writers)}"
    return f"{versions}, {writers}"


def _recipients(approval: Approval) -> str:
    thumbprints = [VerifyingKey.from_jwk(jwk).thumbprint for jwk in approval.recipients]
    return ", ".join(thumbprints) or "nobody: what it prints cannot be read"


_WORDS: Final[Mapping[str, Callable[[Approval], str]]] = {
    "dataset": lambda approval: f"{approval.access} {approval.dataset}",
    "application": lambda approval: approval.application,
    "purpose": lambda approval: printable(approval.purpose) or "not said",
    "hardware": _hardware,
    "shape": lambda approval: " or ".join(f"{shape} ({SHAPE_WORDS[shape]})" for shape in approval.admitted_shapes),
    "machines": lambda approval: f"hardware = {approval.machines}",
    "vendor data": lambda approval: _freshness(approval.platform),
    "evidence": lambda approval: f"policy {approval.evidence_policy_hash} at {approval.attestation_issuer}",
    "runs": _runs,
    "executors": _executors,
    "duration": _duration,
    "versions": _versions,
    "workloads": _workloads,
    "submitted by": lambda approval: ", ".join(approval.submitters),
    "output to": _recipients,
    "columns": lambda approval: f"those under the dataset's key{''.join(f', and {name}' for name in approval.columns)}",
    "roster": lambda approval: approval.roster or "none: one owner's signature is enough",
    "key service": lambda approval: approval.key_service,
    "key kept by": lambda approval: approval.back_end,
    _ISSUED: lambda approval: approval.issued_at,
}
"""Every field of an approval is in one of these lines: a test compares them."""


def lines_of(words: list[tuple[str, str]]) -> Iterator[str]:
    """Yield what `approval_words` and `roster_words` return, as lines."""
    for name, text in words:
        yield f"  {name:<12} {text}"
