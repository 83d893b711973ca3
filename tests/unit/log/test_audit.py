"""The audit of a log's leaves: a good log, and one edit of it for each finding."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from strongroom.base.encoding import canonical_json
from strongroom.log.audit import AuditReport, audit

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
RUN, OTHER = "a" * 64, "b" * 64
APP, APPROVAL = "c" * 64, "d" * 32
Leaves = list[dict[str, Any]]


def leaf(event: str, **what: Any) -> dict[str, Any]:
    return {"version": 1, "event": event, "time": "2026-03-01T10:00:00Z", **what}


def good() -> Leaves:
    """An import, an approval, and a run that reads and writes."""
    return [
        leaf("dataset-created", dataset="report", owner="o"),
        leaf("dataset-version", dataset="trips", dataset_version=1, writer="owner:o", statement="s0"),
        leaf("approved", approval=APPROVAL, dataset="trips", application=APP, max_runs=1),
        leaf(
            "run-opened",
            run=RUN,
            number=0,
            application=APP,
            approvals={"trips": APPROVAL},
            max_executors=1,
            not_after="2026-03-01T11:00:00Z",
        ),
        leaf("member-joined", run=RUN, number=1, member=1),
        leaf("keys-released", run=RUN, number=2, member=1),
        leaf("dataset-version", dataset="report", dataset_version=1, writer=f"run:{RUN}", statement="s1"),
        leaf("run-closed", run=RUN, number=3, outcome="succeeded", versions={"report": "s1"}),
        leaf("revoked", approval=APPROVAL),
    ]


def audited(leaves: Leaves) -> AuditReport:
    return audit((canonical_json(each).decode() for each in leaves), now=NOW)


def found(report: AuditReport) -> str:
    return " | ".join(finding.text for finding in report.findings)


def test_a_good_log_agrees_with_itself() -> None:
    report = audited(good())
    assert found(report) == ""
    assert (report.leaves, report.runs) == (9, {"opened": 1, "succeeded": 1})
    (use,) = report.approvals
    assert (use.runs, use.max_runs, use.revoked) == (1, 1, True)


def without(position: int) -> Callable[[Leaves], None]:
    return lambda leaves: leaves.__delitem__(position)


def changed(position: int, **what: Any) -> Callable[[Leaves], None]:
    return lambda leaves: leaves[position].update(what)


def again(position: int, **what: Any) -> Callable[[Leaves], None]:
    return lambda leaves: leaves.insert(position + 1, {**json.loads(json.dumps(leaves[position])), **what})


EDITS: list[tuple[Callable[[Leaves], None], str]] = [
    (without(4), "entry 1 is missing"),
    (without(5), "entry 2 is missing"),
    (without(3), "was not opened"),
    (without(2), "not in the log"),
    (without(6), "closes with a version of report that is not in the log"),
    (without(7), "wrote a version of report, and did not close with it"),
    (changed(7, versions={}), "did not close with it"),
    (changed(7, versions={"report": "other"}), "not in the log"),
    (changed(5, run=OTHER), "a run that was not opened"),
    (changed(5, member=2), "did not join the run"),
    (changed(4, member=2), "member 1 of the run is missing"),
    (changed(3, max_executors=0), "more than the 0 executors"),
    (changed(3, application="e" * 64), "another application"),
    (changed(2, max_runs=0), "allows 0 run(s)"),
    (changed(1, dataset_version=2), "version 1 of the dataset is missing"),
    (changed(6, writer=f"run:{OTHER}"), "a run that was not opened"),
    (changed(8, approval="f" * 32), "revoked that is not in the log"),
    (again(3, number=1), "opened a second time"),
    (again(7, number=4), "closed a second time"),
    (again(5, number=3), "entry 4 is missing"),
    (lambda leaves: leaves.append(leaf("keys-released", run=RUN, number=4, member=1)), "follows the run's closing"),
    (lambda leaves: leaves.append(leaf("keys-released")), "released to nobody"),
    (lambda leaves: leaves.insert(3, leaves.pop()), "that was revoked"),
    (changed(4, time="2026-03-01T09:00:00Z"), "the time goes back"),
    (changed(4, version=2), "malformed"),
    (lambda leaves: leaves.append({"event": "x"}), "malformed"),
    (changed(3, approvals=[]), "malformed"),
]


@pytest.mark.parametrize(("edit", "says"), EDITS, ids=map(str, range(len(EDITS))))
def test_finds_what_should_not_be(edit: Callable[[Leaves], None], says: str) -> None:
    leaves = good()
    edit(leaves)
    assert says in found(audited(leaves))


def test_an_open_run_past_its_ticket_is_worth_a_look() -> None:
    (finding,) = audited(good()[:6]).findings
    assert "its ticket ended at" in finding.text
    assert not finding.grave


def test_a_leaf_that_is_not_canonical_is_found() -> None:
    texts = [json.dumps(each) for each in good()]
    assert all(finding.text.startswith("the entry is malformed") for finding in audit(texts, now=NOW).findings)


def test_any_text_is_read_or_reported() -> None:
    texts = ["", "[]", "null", "\ud800", "{}", '{"event":1}', canonical_json(leaf("run-opened", run=[])).decode()]
    assert len(audit(texts, now=NOW).findings) >= len(texts)
