"""Workloads: which service accounts of which clusters may run an application, beside what evidence has to say.

A token says who a pod is in its cluster's words, evidence says what runs in it. Where an approval names workloads, a
TEE needs both; either alone gets nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from typing_extensions import override

from strongroom.base.errors import FormatError, Mismatch
from strongroom.wire.model import Message, Url
from strongroom.wire.runtime_data import Role
from strongroom.wire.workload import ServiceAccount, Workload

_ROLES: Final[tuple[Role, ...]] = ("driver", "executor")


class WorkloadDemand(Message):
    """A service account that may join.

    Attributes:
        issuer: Its cluster, exactly as the cluster's tokens say it (`iss`).
        subject: The service account, `system:serviceaccount:NAMESPACE:NAME`.
        role: Whose: the driver's or the executors'; None for both.
    """

    issuer: Url
    subject: ServiceAccount
    role: Role | None = None

    @override
    def __str__(self) -> str:
        return f"{self.subject} of {self.issuer}{'' if self.role is None else f' ({self.role})'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownWorkload:
    """What a TEE showed of the pod around it.

    Attributes:
        workload: Who the pod is, by a token that held; None where there is none.
        otherwise: Why there is none.
    """

    workload: Workload | None = None
    otherwise: str = "no token of a service account"


NOTHING_SHOWN: Final = ShownWorkload()


def demand_both_roles(demands: Sequence[WorkloadDemand]) -> None:
    """Refuse demands that no driver, or no executor, could meet, and such that are there twice.

    Raises:
        FormatError: They are such.
    """
    if len(set(demands)) != len(demands):
        raise FormatError("a workload is named twice")
    missing = [role for role in _ROLES if demands and not _for(demands, role)]
    if missing:
        raise FormatError(f"workloads are named, and none for the {missing[0]}")


def workload_mismatches(demands: Sequence[WorkloadDemand], shown: ShownWorkload, *, role: Role) -> Iterator[Mismatch]:
    """Yield what speaks against a TEE's workload.

    Args:
        demands: What the approval names; nothing: no token is asked for.
        shown: What the TEE showed.
        role: Whose TEE it is.
    """
    found, admitted = shown.workload, _for(demands, role)
    if not demands or (
        found and any((found.issuer, found.subject) == (each.issuer, each.subject) for each in admitted)
    ):
        return
    expected = " or ".join(map(str, admitted)) or "none"
    yield Mismatch(name="workload", expected=expected, actual=str(found) if found else shown.otherwise)


def _for(demands: Sequence[WorkloadDemand], role: Role) -> list[WorkloadDemand]:
    return [each for each in demands if each.role in (None, role)]
