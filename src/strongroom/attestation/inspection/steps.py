"""The steps of a verification, each with what it found, and the verdict."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, Literal, TypeAlias

from strongroom.attestation.evidence.simulated import SIMULATED_HARDWARE
from strongroom.attestation.inspection.files import AttestedData
from strongroom.attestation.verifier import TrustedRoot, TrustedRoots
from strongroom.base.clock import to_rfc3339
from strongroom.base.encoding import Json
from strongroom.base.errors import Mismatch, NotFoundError, StrongroomError, UntrustedRootError, VerificationError
from strongroom.crypto import x509

_REPORT_DATA_BYTES: Final = 64
Hardware: TypeAlias = Literal["real", "simulated"]


class Result(StrEnum):
    """What became of a step."""

    HOLDS = "holds"
    REFUSED = "REFUSED"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One step of a verification.

    Attributes:
        name: What was looked at.
        result: What became of it.
        detail: What was found, or why not.
        mismatches: Everything that differed.
    """

    name: str
    result: Result
    detail: str
    mismatches: tuple[Mismatch, ...] = ()

    def to_json(self) -> dict[str, Json]:
        """Return it for other programs."""
        return {
            "name": self.name,
            "result": self.result,
            "detail": self.detail,
            "mismatches": [
                {"name": each.name, "expected": each.expected, "actual": each.actual} for each in self.mismatches
            ],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What a verification came to.

    Attributes:
        is_verified: Whether the verifier accepted the evidence, and no step was refused.
        now: The time of the check.
        checks: The steps, in order.
        hardware: Of what kind the root is, where one was trusted; "simulated" protects nothing.
        claims: What the evidence says, as Azure Attestation names it; empty where it was refused.
        reasons: Why it was refused; empty where it was not.
        actions: What to do next about each reason, where that is known.
    """

    is_verified: bool
    now: datetime
    checks: tuple[Check, ...]
    hardware: Hardware | None
    claims: Mapping[str, Json]
    reasons: tuple[str, ...]
    actions: tuple[str, ...]

    def to_json(self) -> dict[str, Json]:
        """Return it for other programs."""
        return {
            "verified": self.is_verified,
            "at": to_rfc3339(self.now),
            "hardware": self.hardware,
            "checks": [check.to_json() for check in self.checks],
            "reasons": list(self.reasons),
            "actions": list(self.actions),
            "claims": dict(self.claims),
        }


class Ladder:
    """Steps that are run one after another; each tells what it found, or is noted with its error."""

    def __init__(self, now: datetime) -> None:
        self.now = now.astimezone(UTC).replace(microsecond=0)
        self.checks: list[Check] = []
        self.hardware: Hardware | None = None
        self._errors: list[StrongroomError] = []

    def step(self, name: str, work: Callable[[], str]) -> None:
        """Run a step; it returns what it found, or raises."""
        try:
            self.checks.append(Check(name=name, result=Result.HOLDS, detail=work()))
        except StrongroomError as error:
            self.failed(name, error)

    def note(self, name: str, detail: str) -> None:
        """Say that a step has nothing to check."""
        self.checks.append(Check(name=name, result=Result.NOT_CHECKED, detail=detail))

    def launch(self, work: Callable[[], str], *, refuse_unsafe: bool) -> None:
        """Check what makes a TEE open to its host; perhaps it is the policy that must refuse it."""
        if refuse_unsafe:
            self.step("launch", work)
            return
        try:
            self.checks.append(Check(name="launch", result=Result.HOLDS, detail=work()))
        except StrongroomError as error:
            self.note("launch", f"{error.message}: a policy must name it")

    def end(self, verify: Callable[[], tuple[Mapping[str, Json], str]]) -> Verification:
        """Run the verifier itself.

        Args:
            verify: Returns the claims and who decided, or raises.
        """
        claims: Mapping[str, Json] = {}
        refusal: StrongroomError | None = None
        try:
            claims, decided = verify()
        except StrongroomError as error:
            refusal = error
            self.failed("verifiers", error)
        else:
            self.checks.append(Check(name="verifiers", result=Result.HOLDS, detail=decided))
        # A step that does not hold refuses too, whatever the verifier says: the two can only differ by a defect.
        errors = [*self._errors, *([] if refusal is None else [refusal])]
        return Verification(
            is_verified=not errors,
            now=self.now,
            checks=tuple(self.checks),
            hardware=self.hardware,
            claims={} if errors else claims,
            reasons=tuple(dict.fromkeys(error.message for error in errors)),
            actions=tuple(dict.fromkeys(error.action for error in errors if error.action)),
        )

    def failed(self, name: str, error: StrongroomError) -> None:
        """Note what a step raised: refused, or not checked where something for it is missing."""
        if isinstance(error, NotFoundError):
            self.note(name, error.message)
            return
        for check in self.checks:
            if check.result is Result.REFUSED and check.detail == error.message:
                self.note(name, f"ended at what is said under {check.name}")
                return
        self._errors.append(error)
        self.checks.append(Check(name=name, result=Result.REFUSED, detail=error.message, mismatches=error.mismatches))

    # --- steps that several kinds of evidence have ---

    def chain(self, chain_der: Sequence[bytes], roots: TrustedRoots, *, leaf_is_listed: bool) -> None:
        """Check a certificate chain without its revocation lists."""

        def work() -> str:
            root = _find(roots, chain_der[-1])
            self.hardware = root.hardware
            self._verify_chain(chain_der, root, revocation=None, leaf_is_listed=leaf_is_listed)
            names = " ← ".join(x509.common_name(each) for each in chain_der)
            return f"{names} ({'SIMULATED' if root.simulated else 'real'} hardware)"

        self.step("certificates", work)

    def revocation(
        self,
        chain_der: Sequence[bytes],
        roots: TrustedRoots,
        lists: Callable[[], Sequence[bytes]],
        *,
        leaf_is_listed: bool,
    ) -> None:
        """Look the chain's certificates up in their issuers' lists."""

        def work() -> str:
            revocation = x509.RevocationLists(lists())
            end = self._verify_chain(
                chain_der, roots.find(chain_der[-1]), revocation=revocation, leaf_is_listed=leaf_is_listed
            )
            return f"no certificate is revoked; lists and certificates hold until {to_rfc3339(end)}"

        self.step("revocation", work)

    def binding(self, report_data: bytes, runtime: AttestedData | None) -> None:
        """Check what the report data stand for."""
        if runtime is None:
            self.note("binding", "no runtime data were given: the evidence stands for nothing but itself")
            return

        def work() -> str:
            demand_equal(
                "the evidence does not bind this runtime data",
                name="report_data",
                expected=hashlib.sha256(runtime.data).digest().ljust(_REPORT_DATA_BYTES, b"\0"),
                actual=report_data,
            )
            return f"report_data is SHA-256 of the runtime data ({len(runtime.data)} bytes, {runtime.kind})"

        self.step("binding", work)

    def _verify_chain(
        self,
        chain_der: Sequence[bytes],
        root: TrustedRoot,
        *,
        revocation: x509.RevocationLists | None,
        leaf_is_listed: bool,
    ) -> datetime:
        return x509.verify_chain(
            chain_der,
            roots_der=[root.certificate_der],
            revocation=revocation,
            now=self.now,
            understood_in_root=SIMULATED_HARDWARE if root.simulated else None,
            leaf_is_listed=leaf_is_listed,
        ).not_after


def _find(roots: TrustedRoots, root_der: bytes) -> TrustedRoot:
    try:
        return roots.find(root_der)
    except UntrustedRootError as error:
        found = f"{x509.common_name(root_der)}, SHA-256 of its key {x509.spki_sha256(root_der)}"
        mismatch = Mismatch(name="root", expected="the vendor's own, or one that was named", actual=found)
        raise UntrustedRootError(error.message, action=error.action, mismatches=(mismatch,)) from error


def demand_equal(message: str, *, name: str, expected: bytes, actual: bytes) -> None:
    """Refuse bytes that are not the expected ones, and say both.

    Raises:
        VerificationError: They differ.
    """
    if actual != expected:
        raise VerificationError(
            message, mismatches=(Mismatch(name=name, expected=expected.hex(), actual=actual.hex()),)
        )
