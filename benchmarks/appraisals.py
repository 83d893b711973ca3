"""Verification and appraisal in this process, on one core: each kind of evidence, long policies, many platforms."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from figures import Spread, exponent
from machines import KINDS, Machines, Request, long_policy, policy
from sessions import BenchmarkError

from strongroom.attestation.claims import demand_named, incoming_claims
from strongroom.attestation.endorsements.dcap import DirectoryEndorsements
from strongroom.attestation.endorsements.snp import DirectoryRevocations
from strongroom.base.encoding import parse_json_object
from strongroom.base.limits import LIMITS
from strongroom.policy import evidence_grammar
from strongroom.policy.claims import Claim
from strongroom.policy.evidence_policy import EvidencePolicy, parse_evidence_policy
from strongroom.services.azure_guest import POLICY_TYPE, AzureGuestDesk
from strongroom.services.evidence_kinds import EVIDENCE_KINDS, Anchors, VerifiedClaims, read_attest_request
from strongroom.services.evidence_policies import POLICY_TYPES
from strongroom.services.http import Call

_WARM_UPS = 5
_Argument = TypeVar("_Argument")


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyCost:
    """What a policy of some length costs; the medians, in milliseconds."""

    rules: int
    parse_ms: float
    evaluate_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """How a cost grows with a size.

    Attributes:
        overall: Exponent of the power law that fits all sizes.
        last: The same from the last size but one to the last: what fixed costs no longer hide.
    """

    overall: float
    last: float

    @classmethod
    def of(cls, sizes: Sequence[int], costs: Sequence[float]) -> "Growth":
        """Fit costs to sizes."""
        return cls(overall=round(exponent(sizes, costs), 2), last=round(exponent(sizes[-2:], costs[-2:]), 2))


class Appraiser:
    """What the attestation service does between request and signature, on its own code.

    Args:
        machines: Whose roots are trusted.
        endorsements: The folder with what the vendors say of them.
    """

    def __init__(self, machines: Machines, endorsements: Path) -> None:
        self._roots = machines.trusted_roots
        self._dcap, self._snp = DirectoryEndorsements(endorsements), DirectoryRevocations(endorsements)
        self._policies = {name: parse_evidence_policy(policy(name)) for name in POLICY_TYPES if name != "OpenEnclave"}
        self._guests = AzureGuestDesk(anchors=lambda: nullcontext(self._anchors()), appraise=self._appraise_guest)

    def attest(self, request: Request) -> None:
        """Parse and verify evidence, make its claims, appraise them.

        Raises:
            StrongroomError: It is not accepted.
        """
        if request.type == "AzureVm":
            self._guests.attest_vm(Call(path={}, query={}, authorization="", body=request.body))
        else:
            self._appraise(request.type, self._verify(request))

    def claims(self, request: Request) -> tuple[Claim, ...]:
        """Return what a policy reads of evidence."""
        return incoming_claims(self._verify(request).claims)

    def _anchors(self) -> Anchors:
        """Return what evidence is verified with at this moment, as the service does for each request."""
        return Anchors(roots=self._roots, endorsements=self._dcap, revocations=self._snp, now=datetime.now(tz=UTC))

    def _verify(self, request: Request) -> VerifiedClaims:
        kind = EVIDENCE_KINDS[request.type]
        return kind.verify(read_attest_request(parse_json_object(request.body), kind), self._anchors())

    def _appraise_guest(self, verified: VerifiedClaims) -> str:
        self._appraise(POLICY_TYPE, verified)
        return ""

    def _appraise(self, name: str, verified: VerifiedClaims) -> None:
        evaluation = self._policies[name].evaluate(incoming_claims(verified.claims))
        demand_named(verified.claims, named=evaluation.named)


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """Keep this process, and what it starts meanwhile, on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def two_cores() -> tuple[int, int]:
    """Return the core of what is measured and that of whoever asks.

    Raises:
        BenchmarkError: There is one core only.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:  # noqa: PLR2004 - the measured one, and that of whoever asks
        raise BenchmarkError("two cores are needed: one for what is measured, one for who asks")
    return cores[0], cores[1]


def measure_kinds(machines: Machines, *, rounds: int) -> Mapping[str, Spread]:
    """Verify and appraise evidence of each kind, the kinds in turn, every time evidence of its own.

    Returns:
        By the kind's name.
    """
    with tempfile.TemporaryDirectory() as folder:
        endorsements = Path(folder, "endorsements")
        machines.write_endorsements(endorsements)
        appraiser = Appraiser(machines, endorsements)
        requests = {kind.name: [kind.make(machines) for _ in range(_WARM_UPS + rounds)] for kind in KINDS}
        seconds: dict[str, list[float]] = {kind.name: [] for kind in KINDS}
        for number in range(_WARM_UPS + rounds):
            for kind in KINDS:
                taken = _timed(appraiser.attest, requests[kind.name][number])
                if number >= _WARM_UPS:
                    seconds[kind.name].append(taken)
    return {name: Spread.of(taken) for name, taken in seconds.items()}


def measure_policies(machines: Machines, *, sizes: Sequence[int], work: int) -> list[PolicyCost]:
    """Parse and evaluate policies of different lengths; each permits by its last rule.

    Args:
        machines: Whose evidence is appraised.
        sizes: How many rules.
        work: Each size is repeated until so many rules were parsed, and at least three times.
    """
    with tempfile.TemporaryDirectory() as folder, _policies_of_any_length():
        endorsements = Path(folder, "endorsements")
        machines.write_endorsements(endorsements)
        claims = Appraiser(machines, endorsements).claims(machines.sgx())
        return [_policy_cost(size, claims, work=work) for size in sizes]


def measure_families(machines: Machines, *, sizes: Sequence[int], attestations: int) -> dict[int, Spread]:
    """Attest platforms of many families, one after the other, with a folder that knows them all.

    Returns:
        By the number of families.
    """
    families = [machines.intel]
    found: dict[int, Spread] = {}
    for size in sizes:
        families += [machines.intel.of_another_family(now=machines.now) for _ in range(size - len(families))]
        with tempfile.TemporaryDirectory() as folder:
            endorsements = Path(folder, "endorsements")
            machines.write_endorsements(endorsements, families=families[1:])
            appraiser = Appraiser(machines, endorsements)
            for family in families:  # the service has met each before: files are read once
                appraiser.attest(machines.sgx(platform=family))
            requests = [machines.sgx(platform=families[number % size]) for number in range(max(size, attestations))]
            found[size] = Spread.of([_timed(appraiser.attest, request) for request in requests])
    return found


def _policy_cost(size: int, claims: Sequence[Claim], *, work: int) -> PolicyCost:
    text, parsed = long_policy(size), list[EvidencePolicy]()
    times = max(3, work // size)
    parse = Spread.of([_timed(lambda each: parsed.append(parse_evidence_policy(each)), text) for _ in range(times)])
    evaluate = Spread.of([_timed(parsed[0].evaluate, claims) for _ in range(times)])
    return PolicyCost(rules=size, parse_ms=parse.p50_ms, evaluate_ms=evaluate.p50_ms)


@contextmanager
def _policies_of_any_length() -> Iterator[None]:
    """Lift the bounds on a policy's length, which the service keeps: what grows is seen best beyond them."""
    bounds = evidence_grammar.LIMITS, evidence_grammar.MAX_RULES
    evidence_grammar.LIMITS = replace(LIMITS, policy_text_bytes=1 << 24)
    evidence_grammar.MAX_RULES = 1 << 24
    try:
        yield
    finally:
        evidence_grammar.LIMITS, evidence_grammar.MAX_RULES = bounds


def _timed(call: Callable[[_Argument], object], argument: _Argument) -> float:
    started = time.perf_counter()
    call(argument)
    return time.perf_counter() - started
