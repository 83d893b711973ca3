"""The owner's approval: which application may do what with which dataset, on which evidence, how often, until when."""

import hashlib
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Annotated, Final, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator
from typing_extensions import override

from strongroom.base.clock import to_rfc3339
from strongroom.base.encoding import Json, canonical_json
from strongroom.base.errors import FormatError, Mismatch, RefusedError
from strongroom.base.workflow import Step
from strongroom.crypto.keys import VerifyingKey
from strongroom.policy import back_ends
from strongroom.policy.back_ends import BackEnd, Requirements, demand_least_numbers, demand_supported
from strongroom.policy.claims import Claims, ClaimValue, show
from strongroom.policy.release_policy import ReleasePolicy, parse_release_policy
from strongroom.policy.shapes import TEES_OF, Form, forms, shape_of
from strongroom.policy.tee_claims import HARDWARE, TEE_CLAIMS, hardware_type
from strongroom.policy.workloads import WorkloadDemand, demand_both_roles
from strongroom.wire.model import ColumnName, DatasetName, Hex32, Message, Shape, TeeKind, Timestamp, Url
from strongroom.wire.runtime_data import Role
from strongroom.wire.ticket import RunTicket
from strongroom.wire.vault_key import VaultKind

_BACK_END_NAMES: Final[Mapping[TeeKind, back_ends.TeeKind]] = {
    "sgx": back_ends.TeeKind.SGX,
    "tdx": back_ends.TeeKind.TDX,
    "snp": back_ends.TeeKind.SNP,
}
_NODE_NAMES: Final[Mapping[TeeKind, tuple[back_ends.TeeKind, ...]]] = {
    "tdx": (back_ends.TeeKind.TDX, back_ends.TeeKind.AZURE_VM_TDX),
    "snp": (back_ends.TeeKind.SNP, back_ends.TeeKind.AZURE_VM_SNP),
}
"""Confidential nodes are such virtual machines, and those of Azure with a paravisor below them."""
_PLACES: Final[Mapping[Shape, back_ends.Place]] = {
    "process": "launch",
    "pod": "document",
    "confidential-node": "runtime",
}
MAX_RUNS: Final = 1_000_000
MAX_EXECUTORS: Final = 10_000
MAX_PURPOSE: Final = 500
_MIN_DURATION_S: Final = 60
_MAX_DURATION_S: Final = 366 * 24 * 3600
_PolicyHash = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{43}\Z")]


MachineId = Annotated[
    str, StringConstraints(pattern=r"^((ppid|platform-instance):[0-9a-f]{32}|chip-id:[0-9a-f]{128})\Z")
]
"""One machine, as its vendor's signature names it: a processor package, a platform of several, or an AMD chip."""


class PlatformDemand(Message):
    """Which machines may run it, and how fresh the vendor's word about them must be.

    Attributes:
        machines: The machines, or "any": every machine that the vendor vouches for, whoever owns it.
        min_tcb_evaluation_data_number: Intel's TCB data must be at least this new; a host cannot go back to data that
            did not know of a weakness yet. AMD has no such number.
        min_crl_number: The same for the revocation list that the machine's certificate was looked up in. None of either
            demands none: only where the attestation service cannot say it (`demand_enforceable`).
    """

    machines: Literal["any"] | Annotated[tuple[MachineId, ...], Field(min_length=1, max_length=10_000)]
    min_tcb_evaluation_data_number: int | None = Field(ge=0)
    min_crl_number: int | None = Field(ge=0)


Writer = Annotated[str, StringConstraints(pattern=r"^(owner|application):[0-9a-f]{64}\Z")]
"""Who wrote a version: a person by key thumbprint, or a run of an application by its digest."""


class InputVersions(Message):
    """Which versions of a dataset may be read.

    Attributes:
        first: The oldest one.
        last: The newest one; None for no end: every later version too.
    """

    first: int = Field(ge=1)
    last: int | None = Field(ge=1)

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.last is not None and self.last < self.first:
            raise ValueError("a range of versions ends before it begins")
        return self

    def __contains__(self, number: int) -> bool:
        return self.first <= number and (self.last is None or number <= self.last)

    @override
    def __str__(self) -> str:
        if self.first == self.last:
            return f"{self.first}"
        return f"{self.first} and later" if self.last is None else f"{self.first} to {self.last}"


class Approval(Message):
    """One owner's word on one application and one dataset. Its signer, an owner, is verified by the caller.

    Attributes:
        dataset: The dataset's name at this key service.
        key_service: Identity of the key service that keeps the dataset's keys.
        application: Digest of the approved application.
        access: Whether the application may read the dataset or write its next version.
        evidence_policy_hash: Name of the evidence policy that must have appraised the evidence (`x-ms-policy-hash`).
        attestation_issuer: The attestation service whose results are believed (`iss`).
        hardware: Exactly this kind: approval of simulated hardware is no approval of real hardware, nor the reverse.
        platform: Which machines, and how fresh the vendor's word about them; None for simulated hardware only.
        tees: The kinds of TEE it may run in; SGX alone unless the owner says otherwise.
        shape: What approvals said before there were several: a TEE for each process. Exactly one of this and the next.
        shapes: The shapes that it may have (`policy.shapes`): the weaker one is never meant unless it is said.
        max_runs: How many runs may be opened in all.
        not_after: Until when runs may be opened, inclusive.
        submitters: Thumbprints of the keys that may sign run tickets; at least one.
        recipients: Public P-256 JWKs (`kty`, `crv`, `x`, `y`) to which the application's output is sealed.
        columns: The columns with a key of their own that it may read. Of such a column that is not named, it gets no
            key; all other columns are read with the dataset's.
        back_end: What keeps the key. That a vault enforces less than a key service of Strongroom's has to be said here:
            `policy.key_back_ends` lists what, and refuses approvals that state more.
        issued_at: When the owner said so.
        not_before: From when on runs may be opened, inclusive; None for at once.
        max_executors: How many executors may join one run, replacements included; None for what its ticket says.
        max_executors_total: How many may join over all runs; None for no limit beyond `max_runs`.
        max_duration_s: How many seconds after its opening a run gets its last key and may commit; None for as long as
            ticket and approval hold.
        versions: Which versions may be read; None for every one.
        writers: Whose versions may be read; None for everybody's.
        purpose: What for, in the owner's words: shown and logged, and nothing is decided by it.
        roster: SHA-256 of the dataset's roster that it was given under; None where the owners approve alone.
        workloads: Which service accounts of which clusters it may run as, beside everything else; none named: no token
            is asked for.
    """

    version: Literal[1] = 1
    dataset: DatasetName
    key_service: Hex32
    application: Hex32
    access: Literal["read", "write"]
    evidence_policy_hash: _PolicyHash
    attestation_issuer: Url
    hardware: Literal["real", "simulated"]
    platform: PlatformDemand | None = None
    tees: tuple[TeeKind, ...] = Field(default=("sgx",), min_length=1, max_length=3)
    shape: Literal["process"] | None = Field(default=None, exclude_if=lambda shape: shape is None)
    shapes: tuple[Shape, ...] = Field(default=(), max_length=3, exclude_if=lambda shapes: not shapes)
    max_runs: int = Field(default=1, ge=1, le=MAX_RUNS)
    not_after: Timestamp | None = None
    submitters: tuple[Hex32, ...] = Field(min_length=1, max_length=64)
    recipients: tuple[dict[str, str], ...] = Field(default=(), max_length=64)
    columns: tuple[ColumnName, ...] = Field(default=(), max_length=1000)
    back_end: Literal["strongroom"] | VaultKind = "strongroom"
    issued_at: Timestamp
    not_before: Timestamp | None = None
    max_executors: int | None = Field(default=None, ge=1, le=MAX_EXECUTORS)
    max_executors_total: int | None = Field(default=None, ge=1, le=MAX_RUNS)
    max_duration_s: int | None = Field(default=None, ge=_MIN_DURATION_S, le=_MAX_DURATION_S)
    versions: InputVersions | None = None
    writers: Annotated[tuple[Writer, ...], Field(min_length=1, max_length=64)] | None = None
    purpose: str = Field(default="", max_length=MAX_PURPOSE)
    roster: Hex32 | None = None
    workloads: tuple[WorkloadDemand, ...] = Field(default=(), max_length=64, exclude_if=lambda named: not named)

    @field_validator("purpose")
    @classmethod
    def _purpose_is_one_line(cls, purpose: str) -> str:
        if not purpose.isprintable():
            raise FormatError("the purpose is one line of printable text")
        return purpose

    @field_validator("tees")
    @classmethod
    def _tees_are_named_once(cls, tees: tuple[TeeKind, ...]) -> tuple[TeeKind, ...]:
        if len(set(tees)) != len(tees):
            raise FormatError("a kind of TEE is named twice")
        return tees

    @field_validator("workloads")
    @classmethod
    def _workloads_can_be_shown(cls, workloads: tuple[WorkloadDemand, ...]) -> tuple[WorkloadDemand, ...]:
        demand_both_roles(workloads)
        return workloads

    @field_validator("recipients")
    @classmethod
    def _recipients_are_public_keys(cls, recipients: tuple[dict[str, str], ...]) -> tuple[dict[str, str], ...]:
        for jwk in recipients:
            key = VerifyingKey.from_jwk(jwk)
            if key.algorithm != "ES256" or key.to_jwk() != jwk:
                raise FormatError("a recipient is a public P-256 JWK with nothing but kty, crv, x and y")
        return recipients

    @model_validator(mode="after")
    def _names_shapes_that_can_be(self) -> Self:
        admitted = self.admitted_shapes
        if not admitted or (self.shape is not None and self.shapes) or len(set(admitted)) != len(admitted):
            raise ValueError("an approval names the shapes that it admits, each once")
        for shape in admitted:
            if not set(self.tees) & set(TEES_OF[shape]):
                raise ValueError(f"none of the kinds of TEE that are named can be a {shape}")
        for tee in self.tees:
            if all(tee not in TEES_OF[shape] for shape in admitted):
                raise ValueError(f"none of the shapes that are named can be of {tee}")
        return self

    @model_validator(mode="after")
    def _real_hardware_is_named(self) -> Self:
        if self.hardware == "real" and self.platform is None:
            raise ValueError("an approval of real hardware names its machines (or any) and the least numbers")
        return self

    @model_validator(mode="after")
    def _can_be_met(self) -> Self:
        if self.not_before is not None and self.not_after is not None and self.not_after < self.not_before:
            raise ValueError("the approval ends before it begins")
        if self.access == "write" and (self.versions is not None or self.writers is not None):
            raise ValueError("an approval to write does not limit which versions are read")
        return self

    def admits_version(self, number: int, *, writers: frozenset[str]) -> bool:
        """Return whether the application may read a version.

        Args:
            number: The version.
            writers: Everything that its writer is called: `owner:…`, or `run:…` and `application:…`.
        """
        in_range = self.versions is None or number in self.versions
        return in_range and (self.writers is None or not writers.isdisjoint(self.writers))

    @property
    def admitted_shapes(self) -> tuple[Shape, ...]:
        """The shapes that a TEE may have."""
        return self.shapes if self.shape is None else (self.shape,)

    @property
    def machines(self) -> str:
        """Which machines may run it, in words."""
        if self.platform is None or self.platform.machines == "any":
            return "any"
        return ", ".join(self.platform.machines)


def approval_release_policy(approval: Approval, *, role: Role) -> ReleasePolicy:
    """Return the release policy that an approval amounts to, in Azure Key Vault's grammar.

    Args:
        approval: The approval.
        role: Whose TEE asks for keys; drivers and executors never pass for each other.

    Returns:
        A policy over the attestation result's claims. The platform is left to `appraise_result`, what counts runs and
        time to `authorize_run`: the grammar has no word for either.

    Source: design of the TEE's shapes; Azure Key Vault, "Secure key release policy grammar".
    """
    authorities: list[Json] = [
        _authority(approval, role=role, form=form)
        for shape in approval.admitted_shapes
        for tee in approval.tees
        for form in forms(shape, tee, application=approval.application)
    ]
    return parse_release_policy(canonical_json({"version": "1.0.0", "anyOf": authorities}))


def _authority(approval: Approval, *, role: Role, form: Form) -> Json:
    demanded: dict[str, ClaimValue] = {
        "x-ms-policy-hash": approval.evidence_policy_hash,
        **form.evidence,
        **form.demanded,
        **form.application,
        "x-ms-runtime.application": approval.application,
        "x-ms-runtime.role": role,
        HARDWARE: approval.hardware,
    }
    conditions: list[Json] = [{"claim": claim, "equals": value} for claim, value in demanded.items()]
    return {"authority": approval.attestation_issuer, "allOf": conditions}


def appraise_result(approval: Approval, claims: Claims, *, role: Role) -> tuple[Mismatch, ...]:
    """Compare an attestation result with everything that an approval demands of a TEE.

    Args:
        approval: The owner's approval; its signature is already verified.
        claims: The verified attestation result's claims.
        role: Whose TEE asks for keys.

    Returns:
        All differences; none means that it meets the approval.
    """
    mismatches = [*_shape_mismatches(approval, claims), *_platform_mismatches(approval.platform, claims)]
    try:
        approval_release_policy(approval, role=role).evaluate(claims)
    except RefusedError as refusal:
        mismatches += refusal.mismatches
    return tuple(mismatches)


def demand_enforceable(approval: Approval, back_end: BackEnd) -> None:
    """Refuse an approval that the attestation service behind it cannot enforce, or that demands less than it could.

    1. It is for a key service of Strongroom's: what a vault would leave undone, no service takes over unasked.
    2. For each shape and kind of TEE the back end has a claim for everything that is demanded.
    3. Of real hardware every least number is demanded that the back end can say.

    Args:
        approval: The owner's approval.
        back_end: Which attestation service its issuer is.

    Raises:
        RefusedError: It cannot, or a number is missing.
    """
    if approval.back_end != "strongroom":
        raise RefusedError(
            "the approval is for a vault, not for a key service",
            action="Approve again, for the key service that keeps the dataset's key.",
            step=Step.POLICY,
            mismatches=(Mismatch(name="back end", expected="strongroom", actual=approval.back_end),),
        )
    for requirements in _requirements(approval):
        demand_supported(requirements, back_end)
        if approval.hardware == "real":
            demand_least_numbers(requirements, back_end)


def _requirements(approval: Approval) -> Iterator[Requirements]:
    """Yield what an approval needs of each shape and kind of TEE that it admits."""
    for shape in approval.admitted_shapes:
        for tee in approval.tees:
            if tee in TEES_OF[shape]:
                names = _NODE_NAMES[tee] if shape == "confidential-node" else (_BACK_END_NAMES[tee],)
                yield from (_requirements_of(approval, tee, name=name, place=_PLACES[shape]) for name in names)


def _requirements_of(
    approval: Approval, tee: TeeKind, *, name: back_ends.TeeKind, place: back_ends.Place
) -> Requirements:
    """Return what an approval needs for one kind of TEE; migration is refused by every approval."""
    platform = approval.platform
    return Requirements(
        tee=name,
        hardware=approval.hardware,
        application=place,
        hardware_ids="any" if platform is None else platform.machines,
        min_tcb_evaluation_data_number=None
        if platform is None or tee == "snp"
        else platform.min_tcb_evaluation_data_number,
        min_crl_number=None if platform is None else platform.min_crl_number,
        no_migration=True,
    )


def authorize_run(
    approval: Approval,
    *,
    ticket: RunTicket,
    claims: Claims,
    runs_opened: int,
    now: datetime,
    executors_joined: int = 0,
) -> None:
    """Decide whether a driver may open a run under an approval.

    1. The ticket asks for the approved application and dataset, and an approved submitter signed it.
    2. Ticket and approval are valid at `now`, and the approval has a run left, and executors for it.
    3. The driver's attestation result meets the approval (`appraise_result`).
    4. The attested driver belongs to this very ticket.
    The caller MUST have verified the ticket's signature, the result and the nonce in it, MUST compare the access that
    the application's description asks for with the approval's, and MUST count the run in the same transaction.

    Args:
        approval: The owner's approval; its signature is already verified.
        ticket: The run ticket; its signature by `ticket.submitter` is already verified.
        claims: The verified attestation result's claims.
        runs_opened: How many runs were opened under this approval so far.
        now: The key service's time.
        executors_joined: How many executors joined all runs under this approval so far.

    Raises:
        RefusedError: Something differs; the mismatches name everything that does.
    """
    mismatches = [
        *_ticket_mismatches(approval, ticket),
        *_time_mismatches(approval, ticket, now=now),
        *_count_mismatches(approval, runs_opened, executors_joined),
        *appraise_result(approval, claims, role="driver"),
        *_run_mismatches(ticket, claims),
    ]
    if mismatches:
        raise RefusedError(
            f"the approval for dataset {approval.dataset} does not cover this run",
            action="ask the owner for an approval that names what was asked for",
            step=Step.RELEASE,
            mismatches=tuple(mismatches),
        )


def _ticket_mismatches(approval: Approval, ticket: RunTicket) -> Iterator[Mismatch]:
    if ticket.application != approval.application:
        yield Mismatch(name="application", expected=approval.application, actual=ticket.application)
    if approval.dataset not in ticket.datasets:
        yield Mismatch(name="dataset", expected=approval.dataset, actual=", ".join(sorted(ticket.datasets)))
    if ticket.submitter not in approval.submitters:
        yield Mismatch(name="submitter", expected=" or ".join(approval.submitters), actual=ticket.submitter)


def _time_mismatches(approval: Approval, ticket: RunTicket, *, now: datetime) -> Iterator[Mismatch]:
    moment = to_rfc3339(now)
    if moment > ticket.not_after:
        yield Mismatch(name="time", expected=f"at most the ticket's {ticket.not_after}", actual=moment)
    yield from validity_mismatches(approval, now=now)


def validity_mismatches(approval: Approval, *, now: datetime, opened_at: datetime | None = None) -> Iterator[Mismatch]:
    """Yield what speaks against an approval at a time.

    Args:
        approval: The approval.
        now: The key service's time.
        opened_at: When the run in question was opened; None for one that is to be opened.
    """
    moment = to_rfc3339(now)
    if approval.not_before is not None and moment < approval.not_before:
        yield Mismatch(name="time", expected=f"at least the approval's {approval.not_before}", actual=moment)
    if approval.not_after is not None and moment > approval.not_after:
        yield Mismatch(name="time", expected=f"at most the approval's {approval.not_after}", actual=moment)
    if opened_at is not None and approval.max_duration_s is not None:
        end = to_rfc3339(opened_at + timedelta(seconds=approval.max_duration_s))
        if moment > end:
            yield Mismatch(name="duration", expected=f"at most {approval.max_duration_s} s, until {end}", actual=moment)


def executor_mismatches(approval: Approval, *, in_run: int, in_all: int) -> Iterator[Mismatch]:
    """Yield what speaks against one more executor under an approval.

    Args:
        approval: The approval.
        in_run: How many joined this run so far.
        in_all: How many joined all runs under this approval so far.
    """
    if approval.max_executors is not None and in_run >= approval.max_executors:
        yield Mismatch(
            name="executors", expected=f"at most {approval.max_executors} in a run", actual=f"{in_run} joined"
        )
    if approval.max_executors_total is not None and in_all >= approval.max_executors_total:
        expected = f"at most {approval.max_executors_total} over all runs"
        yield Mismatch(name="executors", expected=expected, actual=f"{in_all} joined")


def _count_mismatches(approval: Approval, runs_opened: int, executors_joined: int) -> Iterator[Mismatch]:
    yield from executor_mismatches(approval, in_run=0, in_all=executors_joined)
    if runs_opened >= approval.max_runs:
        yield Mismatch(name="runs", expected=f"fewer than {approval.max_runs} opened", actual=f"{runs_opened} opened")


def _shape_mismatches(approval: Approval, claims: Claims) -> Iterator[Mismatch]:
    shape = shape_of(claims)
    if shape is not None and shape not in approval.admitted_shapes:
        yield Mismatch(name="shape", expected=" or ".join(approval.admitted_shapes), actual=shape)


def _platform_mismatches(demand: PlatformDemand | None, claims: Claims) -> Iterator[Mismatch]:
    if demand is None:
        return
    if demand.machines != "any":
        found = claims.get("x-ms-strongroom-machines")
        machines = [str(each) for each in found] if isinstance(found, list) else []
        if not set(machines) & set(demand.machines):
            actual = ", ".join(machines) or "no such claim"
            yield Mismatch(name="machine", expected=" or ".join(demand.machines), actual=actual)
    least = {"x-ms-strongroom-crl-number": demand.min_crl_number}
    if hardware_type(claims) != TEE_CLAIMS["snp"].attestation_type:
        least["x-ms-strongroom-tcb-evaluation-data-number"] = demand.min_tcb_evaluation_data_number
    for name, number in least.items():
        if number is None:
            continue
        actual_number = claims.get(name)
        if isinstance(actual_number, bool) or not isinstance(actual_number, int) or actual_number < number:
            yield Mismatch(name=name, expected=f"at least {number}", actual=show(actual_number))


def _run_mismatches(ticket: RunTicket, claims: Claims) -> Iterator[Mismatch]:
    run = hashlib.sha256(ticket.to_json()).hexdigest()
    match claims.get("x-ms-runtime"):
        case {"run": str(attested)} if attested == run:
            return
        case {"run": str(attested)}:
            yield Mismatch(name="x-ms-runtime.run", expected=run, actual=attested)
        case _:
            yield Mismatch(name="x-ms-runtime.run", expected=run, actual="no such claim")
