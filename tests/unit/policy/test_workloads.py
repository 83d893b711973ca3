"""Workloads in approvals: which service accounts, for whom, and what speaks against one."""

from typing import Any

import pytest
from tests.unit.policy.test_approval import approval

from strongroom.base.errors import FormatError
from strongroom.policy.approval import Approval
from strongroom.policy.workloads import NOTHING_SHOWN, ShownWorkload, WorkloadDemand, workload_mismatches
from strongroom.wire.runtime_data import Role
from strongroom.wire.workload import Workload

ISSUER = "https://kubernetes.default.svc.cluster.local"
DRIVER, EXECUTOR = "system:serviceaccount:team-a:driver", "system:serviceaccount:team-a:executor"
ROLES: tuple[Role, ...] = ("driver", "executor")


def demand(subject: str = DRIVER, role: Role | None = None, issuer: str = ISSUER) -> WorkloadDemand:
    return WorkloadDemand(issuer=issuer, subject=subject, role=role)


def shown(subject: str = DRIVER, issuer: str = ISSUER) -> ShownWorkload:
    return ShownWorkload(workload=Workload(issuer=issuer, subject=subject, pod="pod-1", pod_uid="u-1"))


@pytest.mark.parametrize("role", ROLES)
def test_nothing_is_asked_for_where_nothing_is_named(role: Role) -> None:
    for each in (NOTHING_SHOWN, shown()):
        assert list(workload_mismatches((), each, role=role)) == []


def test_an_account_for_both_or_one_for_each() -> None:
    both = (demand(),)
    assert all(list(workload_mismatches(both, shown(), role=role)) == [] for role in ROLES)
    each = (demand(DRIVER, "driver"), demand(EXECUTOR, "executor"))
    assert list(workload_mismatches(each, shown(DRIVER), role="driver")) == []
    assert list(workload_mismatches(each, shown(EXECUTOR), role="executor")) == []
    (mismatch,) = workload_mismatches(each, shown(EXECUTOR), role="driver")
    assert (mismatch.name, mismatch.expected) == ("workload", f"{DRIVER} of {ISSUER} (driver)")
    assert mismatch.actual == f"{EXECUTOR} of {ISSUER}"


@pytest.mark.parametrize(
    "other",
    [
        NOTHING_SHOWN,
        ShownWorkload(otherwise="the service account's token is expired"),
        shown("system:serviceaccount:team-b:driver"),
        shown("system:serviceaccount:team-a:driver2"),
        shown(issuer="https://other.example"),
        shown(issuer=f"{ISSUER}/"),
    ],
)
def test_no_other_account_and_no_token_will_do(other: ShownWorkload) -> None:
    (mismatch,) = workload_mismatches((demand(),), other, role="driver")
    assert mismatch.actual == (str(other.workload) if other.workload else other.otherwise)


@pytest.mark.parametrize(
    "workloads",
    [
        [{"issuer": ISSUER, "subject": DRIVER, "role": "driver"}],
        [{"issuer": ISSUER, "subject": DRIVER, "role": "executor"}],
        [{"issuer": ISSUER, "subject": DRIVER}, {"issuer": ISSUER, "subject": DRIVER}],
        [{"issuer": ISSUER, "subject": "team-a/driver"}],
        [{"issuer": ISSUER, "subject": "system:serviceaccount:team-a"}],
        [{"issuer": ISSUER, "subject": "system:serviceaccount:team-a:driver:x"}],
        [{"issuer": ISSUER, "subject": "system:serviceaccount:*:driver"}],
        [{"issuer": "http://plain.example", "subject": DRIVER}],
        [{"issuer": ISSUER, "subject": DRIVER, "pod": "x"}],
        [{"issuer": ISSUER}],
    ],
)
def test_an_approval_names_accounts_that_somebody_could_be_in_both_roles(workloads: list[dict[str, Any]]) -> None:
    with pytest.raises(FormatError):
        approval(workloads=workloads)


def test_an_approval_with_workloads_survives_its_canonical_form_and_one_without_is_as_it_was() -> None:
    named = approval(workloads=[{"issuer": ISSUER, "subject": DRIVER}])
    assert Approval.from_json(named.to_json()) == named
    assert b"workloads" not in approval().to_json()
