"""The decision to let keys out: pure functions over a verified attestation result, approvals and the run's state.

`services` verifies the result and hands its claims in; the store counts and records in the same transaction.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from strongroom.application.description import ApplicationDescription
from strongroom.base.clock import to_rfc3339
from strongroom.base.encoding import from_b64url, parse_json_object
from strongroom.base.errors import ConflictError, FormatError, Mismatch, RefusedError, VerificationError
from strongroom.base.limits import LIMITS
from strongroom.base.workflow import Step
from strongroom.crypto.derive import sha256_hex
from strongroom.crypto.jose import unverified_header, verify_jws
from strongroom.crypto.keys import VerifyingKey
from strongroom.keys.records import MemberRecord, OpenedRun
from strongroom.policy.approval import Approval, appraise_result, authorize_run
from strongroom.policy.claims import Claims
from strongroom.policy.tee_claims import quote_hash
from strongroom.wire.key_service import CloseRequest, DatasetVersion, JoinRequest, KeysRequest
from strongroom.wire.runtime_data import RuntimeData
from strongroom.wire.ticket import TICKET_TYP, RunTicket

Hardware = Literal["simulated", "real"]
_ASK_OWNER: Final = "Ask the data owner; the mismatches say what differs from what was approved."


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedTicket:
    """A run ticket whose signature by `ticket.submitter` holds.

    Attributes:
        token: The compact JWS.
        run: SHA-256 of the ticket's bytes.
    """

    token: str
    ticket: RunTicket
    run: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestedTee:
    """A TEE, as a verified attestation result describes it.

    Attributes:
        signing_key: Signs the TEE's requests.
        encryption_key: Public JWK of the RSA key to which secrets are sealed.
        tee_key: Thumbprint of that key.
    """

    claims: Claims
    runtime: RuntimeData
    signing_key: VerifyingKey
    encryption_key: dict[str, str]
    tee_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An approval that may cover a dataset of a run.

    Attributes:
        id: SHA-256 of its compact JWS.
        approval: Its content; an owner's signature over it is verified.
        revoked: Whether it was revoked.
        runs_opened: How many runs were opened under it.
    """

    id: str
    approval: Approval
    revoked: bool
    runs_opened: int


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


def verify_ticket(token: str) -> VerifiedTicket:
    """Verify a run ticket.

    1. Its header carries the submitter's public key, and the signature holds with it.
    2. The key is the one that the ticket names; the ticket's bytes are in their one canonical form.
    The caller MUST compare the submitter with what an approval names.

    Raises:
        FormatError: Not a ticket.
        VerificationError: The signature does not hold, or is of another key than the named submitter's.
    """
    jwk = unverified_header(token).get("jwk")
    if not isinstance(jwk, dict):
        raise FormatError("the run ticket's header carries no public key (jwk)")
    key = VerifyingKey.from_jwk(jwk)
    payload = verify_jws(token, key=key, typ=TICKET_TYP).payload
    ticket = RunTicket.from_json(payload)
    if key.thumbprint != ticket.submitter:
        raise VerificationError("the run ticket is signed by another key than its submitter's")
    if ticket.to_json() != payload:
        raise FormatError("the run ticket is not canonical JSON")
    return VerifiedTicket(token=token, ticket=ticket, run=sha256_hex(payload))


def read_attested_tee(request: JoinRequest, *, claims: Claims) -> AttestedTee:
    """Return the TEE that a verified result describes.

    1. The runtime data sent beside the result are, read strictly, those in the result (`x-ms-runtime`).
    2. The quote sent beside it is of the result's kind of TEE, and the one that the result was made from.
    3. Their keys are of the kinds that are used.
    The caller MUST have verified the result, and MUST check the request's signature with `signing_key`.

    Raises:
        FormatError: Not such runtime data.
        VerificationError: Evidence and result do not belong together.
    """
    runtime_bytes = from_b64url(request.evidence.runtime_data)
    if parse_json_object(runtime_bytes) != claims.get("x-ms-runtime"):
        raise VerificationError("the attestation result is about other runtime data")
    if quote_hash(claims, request.evidence.kind) != sha256_hex(from_b64url(request.evidence.quote)):
        raise VerificationError("the attestation result is about another quote")
    runtime = RuntimeData.from_json(runtime_bytes)
    signing_key = VerifyingKey.from_jwk(runtime.signing_key)
    encryption_key = VerifyingKey.from_jwk(runtime.keys[0])
    if signing_key.algorithm != "ES256" or encryption_key.algorithm != "RS256":
        raise FormatError("a TEE signs with a P-256 key and receives secrets with an RSA key")
    return AttestedTee(
        claims=claims,
        runtime=runtime,
        signing_key=signing_key,
        encryption_key=encryption_key.to_jwk(),
        tee_key=encryption_key.thumbprint,
    )


def demand_hardware(claims: Claims, *, accepted: Hardware) -> None:
    """Refuse evidence of simulated hardware where real hardware is required, and the reverse.

    Raises:
        RefusedError: The result is about another kind of hardware, or does not say.
    """
    actual = claims.get("x-ms-strongroom-hardware")
    if actual != accepted:
        raise _refusal(
            "the evidence is of hardware that this key service does not accept",
            [Mismatch(name="x-ms-strongroom-hardware", expected=accepted, actual=str(actual))],
        )


def bindings_here(description: ApplicationDescription, *, key_service: str) -> dict[str, Literal["read", "write"]]:
    """Return the datasets that an application binds to one key service, and how."""
    return {name: each.access for name, each in description.datasets.items() if each.key_service == key_service}


def authorize_opening(
    *,
    ticket: VerifiedTicket,
    tee: AttestedTee,
    description: ApplicationDescription,
    key_service: str,
    candidates: Mapping[str, Sequence[Candidate]],
    heads: Mapping[str, int | None],
    now: datetime,
) -> Opening:
    """Decide whether a driver may open a run.

    1. The ticket names exactly the datasets that the application binds.
    2. Each dataset bound to this key service has an approval, not revoked, for exactly that access, that covers
       ticket, submitter, result, time and count (`authorize_run`).
    3. The versions to read and to build on exist; "latest" means the newest one now.
    The caller MUST have verified ticket, result, nonce and the request's signature, MUST take `description` from
    an approval of this very application, and MUST count and record the run in the same transaction.

    Args:
        ticket: The verified ticket.
        tee: The driver's TEE.
        description: What the application is.
        key_service: This service's identity.
        candidates: For each bound dataset: the approvals of this application for it.
        heads: For each bound dataset: the number of its newest version.
        now: The present time.

    Raises:
        RefusedError: No; the mismatches say why.
        ConflictError: A dataset has a newer version than the ticket names.
    """
    if set(ticket.ticket.datasets) != set(description.datasets):
        bound, named = (", ".join(sorted(names)) for names in (description.datasets, ticket.ticket.datasets))
        raise _refusal(
            "the run ticket names other datasets than the application",
            [Mismatch(name="datasets", expected=bound, actual=named)],
        )
    bindings = bindings_here(description, key_service=key_service)
    covering = {
        name: _covering(name, access, candidates.get(name, ()), ticket=ticket, tee=tee, now=now)
        for name, access in bindings.items()
    }
    reads = {
        name: _version_to_read(name, ticket, pinned=description.datasets[name].version, head=heads.get(name))
        for name, access in bindings.items()
        if access == "read"
    }
    writes = {
        name: _version_to_build_on(name, ticket, pinned=description.datasets[name].version, head=heads.get(name))
        for name, access in bindings.items()
        if access == "write"
    }
    return Opening(approvals={name: each.id for name, each in covering.items()}, reads=reads, writes=writes)


def authorize_joining(
    *,
    run: OpenedRun,
    ticket: RunTicket,
    members: Sequence[MemberRecord],
    tee: AttestedTee,
    approvals: list[Approval],
) -> None:
    """Decide whether an executor may join a run.

    1. Its runtime data name this run, this application and this run's driver.
    2. Its result meets every approval (`appraise_result`) under which the run was opened.
    3. It is not a member yet, and the ticket has a place left.
    The caller MUST have verified result, nonce and request, and MUST check `demand_standing`.

    Raises:
        RefusedError: No; the mismatches say why.
    """
    runtime = tee.runtime
    expected = {"role": "executor", "run": run.run, "application": run.application, "driver_key": run.driver_key}
    mismatches = [
        Mismatch(name=f"x-ms-runtime.{name}", expected=value, actual=str(getattr(runtime, name)))
        for name, value in expected.items()
        if getattr(runtime, name) != value
    ]
    for approval in approvals:
        mismatches += appraise_result(approval, tee.claims, role="executor")
    if any(member.tee_key == tee.tee_key or member.signing_key == tee.signing_key.to_jwk() for member in members):
        mismatches.append(Mismatch(name="member", expected="a TEE with new keys", actual="one that joined already"))
    if len(members) > ticket.max_executors:
        mismatches.append(
            Mismatch(
                name="executors",
                expected=f"at most {ticket.max_executors} over the whole run",
                actual=str(len(members)),
            )
        )
    if mismatches:
        raise _refusal("the executor may not join this run", list(dict.fromkeys(mismatches)))


def demand_open(*, closed: bool) -> None:
    """Refuse anything more to a run that was closed.

    Raises:
        RefusedError: It was.
    """
    if closed:
        raise _refusal("the run is closed", [Mismatch(name="run", expected="open", actual="closed")])


def demand_standing(
    *, ticket: RunTicket, approvals: Mapping[str, tuple[Approval, bool]], closed: bool, now: datetime
) -> None:
    """Refuse when a run that was opened may have nothing more.

    Args:
        ticket: The run's ticket.
        approvals: For each dataset: the approval the run was opened under, and whether it was revoked since.
        closed: Whether the run was closed.
        now: The present time.

    Raises:
        RefusedError: The run is closed, its ticket or an approval has expired, or an approval was revoked.
    """
    demand_open(closed=closed)
    moment = to_rfc3339(now)
    mismatches: list[Mismatch] = []
    if moment > ticket.not_after:
        mismatches.append(Mismatch(name="time", expected=f"at most the ticket's {ticket.not_after}", actual=moment))
    for dataset, (approval, revoked) in approvals.items():
        if revoked:
            mismatches.append(Mismatch(name=f"approval for {dataset}", expected="standing", actual="revoked"))
        if approval.not_after is not None and moment > approval.not_after:
            mismatches.append(
                Mismatch(name="time", expected=f"at most the approval's {approval.not_after}", actual=moment)
            )
    if mismatches:
        raise _refusal("nothing more is released to this run", mismatches)


def open_member_request(token: str, members: Sequence[MemberRecord], *, typ: str) -> tuple[bytes, MemberRecord]:
    """Find the member of a run that signed a request.

    Returns:
        The request's bytes, and the member.

    Raises:
        FormatError: Not a JWS.
        VerificationError: No member of this run signed it, or it is another kind of request.
    """
    for member in members:
        try:
            return verify_jws(token, key=VerifyingKey.from_jwk(member.signing_key), typ=typ).payload, member
        except VerificationError:
            continue
    raise VerificationError("the request is not signed by a member of this run")


def demand_fresh(issued_at: str, *, now: datetime) -> None:
    """Refuse a signed request that was not made just now.

    Raises:
        RefusedError: Its time differs from this service's by more than the accepted skew of clocks.
    """
    skew = timedelta(seconds=LIMITS.clock_skew_s)
    if not to_rfc3339(now - skew) <= issued_at <= to_rfc3339(now + skew):
        raise _refusal(
            "the request was not made just now",
            [Mismatch(name="issued_at", expected=f"about {to_rfc3339(now)}", actual=issued_at)],
        )


def authorize_keys(request: KeysRequest, *, run: OpenedRun, versions: Mapping[str, DatasetVersion]) -> None:
    """Decide whether a member may have the write keys it asks for.

    1. The request is about this run.
    2. Each dataset is one of the run's, at exactly the version that the run is bound to.
    3. Each write id is one of that version's.

    Args:
        request: What the member asks for; its signature and the run's standing are checked.
        run: The run.
        versions: For each asked dataset that the run is bound to: the statement of that version.

    Raises:
        RefusedError: No.
    """
    mismatches = [*_other_run(request.run, run)]
    for name, asked in request.datasets.items():
        bound = run.bound_version(name)
        if bound is None or asked.number != bound or name not in versions:
            mismatches.append(
                Mismatch(name=f"version of {name}", expected=str(bound) if bound else "none", actual=str(asked.number))
            )
            continue
        named = {*asked.write_keys, *(each for keys in asked.column_keys.values() for each in keys)}
        foreign = sorted(named - set(versions[name].write_ids))
        mismatches += [
            Mismatch(name=f"write of {name}", expected="one of the bound version's", actual=each) for each in foreign
        ]
    if mismatches:
        raise _refusal("the run may not have these keys", mismatches)


def authorize_close(
    request: CloseRequest,
    *,
    run: OpenedRun,
    member: MemberRecord,
    leaves: int,
    bases: Mapping[str, DatasetVersion | None],
) -> None:
    """Decide whether a run may be closed with these commits.

    1. The driver asks, about this run, and has counted every leaf of it.
    2. A failed run commits nothing; each committed dataset is one that the run writes, named once.
    3. A commit's files were written by this run, or stand in the version it builds on.
    The caller MUST compare and swap the versions in the same transaction.

    Args:
        request: The request.
        run: The run.
        member: Who signed it.
        leaves: How many leaves the run has.
        bases: For each dataset that is written: the statement of its newest version.

    Raises:
        RefusedError: No.
        ConflictError: The run has more leaves than the driver knows.
    """
    mismatches = [*_other_run(request.run, run)]
    if member.number != 0:
        mismatches.append(Mismatch(name="role", expected="driver", actual=member.role))
    if request.outcome == "failed" and request.commits:
        mismatches.append(Mismatch(name="commits", expected="none of a failed run", actual=str(len(request.commits))))
    datasets = [commit.dataset for commit in request.commits]
    if len(set(datasets)) != len(datasets):
        mismatches.append(Mismatch(name="commits", expected="one for each dataset", actual=", ".join(datasets)))
    for commit in request.commits:
        write = run.writes.get(commit.dataset)
        if write is None:
            mismatches.append(Mismatch(name="dataset", expected=", ".join(run.writes), actual=commit.dataset))
            continue
        base = bases.get(commit.dataset)
        known = {write.write_id, *(base.write_ids if base else ())}
        mismatches += [
            Mismatch(name=f"write of {commit.dataset}", expected="the run's own, or the base version's", actual=each)
            for each in sorted(set(commit.write_ids) - known)
        ]
    if mismatches:
        raise _refusal("the run cannot be closed like this", mismatches)
    if request.leaves != leaves:
        raise ConflictError(
            "the run has other log entries than its driver counted",
            action="List the run again, and close it with a receipt that holds every entry.",
            step=Step.WRITE,
            mismatches=(Mismatch(name="leaves", expected=str(leaves), actual=str(request.leaves)),),
        )


def _covering(
    name: str,
    access: str,
    candidates: Sequence[Candidate],
    *,
    ticket: VerifiedTicket,
    tee: AttestedTee,
    now: datetime,
) -> Candidate:
    """Return the first approval that covers a dataset; otherwise refuse with what the nearest one lacks."""
    refusals: list[tuple[Mismatch, ...]] = []
    for candidate in candidates:
        mismatches = [*_candidate_mismatches(candidate, access)]
        try:
            authorize_run(
                candidate.approval,
                ticket=ticket.ticket,
                claims=tee.claims,
                runs_opened=candidate.runs_opened,
                now=now,
            )
        except RefusedError as refusal:
            mismatches += refusal.mismatches
        if not mismatches:
            return candidate
        refusals.append(tuple(mismatches))
    if not refusals:
        raise _refusal(
            f"no approval lets this application {access} dataset {name}",
            [Mismatch(name="application", expected="an approved one", actual=ticket.ticket.application)],
        )
    nearest = min(refusals, key=len)
    raise _refusal(f"no approval for dataset {name} covers this run", nearest)


def _candidate_mismatches(candidate: Candidate, access: str) -> Iterator[Mismatch]:
    if candidate.revoked:
        yield Mismatch(name=f"approval for {candidate.approval.dataset}", expected="standing", actual="revoked")
    if candidate.approval.access != access:
        yield Mismatch(name="access", expected=candidate.approval.access, actual=access)


def _version_to_read(name: str, ticket: VerifiedTicket, *, pinned: int | None, head: int | None) -> int:
    wanted = ticket.ticket.datasets[name]
    if head is None or wanted is None or not 1 <= wanted <= head:
        raise _refusal(
            f"dataset {name} has no such version",
            [Mismatch(name=f"version of {name}", expected=f"1 to {head}" if head else "none", actual=str(wanted))],
        )
    if pinned is not None and wanted != pinned:
        raise _refusal(
            f"the application is approved for another version of dataset {name}",
            [Mismatch(name=f"version of {name}", expected=str(pinned), actual=str(wanted))],
        )
    if pinned is None and wanted != head:
        raise ConflictError(
            f"dataset {name} has a newer version than the run ticket names",
            action="Submit again.",
            step=Step.RELEASE,
            mismatches=(Mismatch(name=f"version of {name}", expected=str(head), actual=str(wanted)),),
        )
    return wanted


def _version_to_build_on(name: str, ticket: VerifiedTicket, *, pinned: int | None, head: int | None) -> int | None:
    if ticket.ticket.datasets[name] is not None:
        raise _refusal(
            "the run ticket names a version to read of a dataset that is only written",
            [Mismatch(name=f"version of {name}", expected="none", actual=str(ticket.ticket.datasets[name]))],
        )
    if pinned is not None and pinned != head:
        raise ConflictError(
            f"the application writes on version {pinned} of dataset {name}, which is not its newest one",
            action="Pack the application for the newest version and have it approved.",
            step=Step.RELEASE,
            mismatches=(Mismatch(name=f"version of {name}", expected=str(pinned), actual=str(head)),),
        )
    return head


def _other_run(asked: str, run: OpenedRun) -> Iterator[Mismatch]:
    if asked != run.run:
        yield Mismatch(name="run", expected=run.run, actual=asked)


def _refusal(message: str, mismatches: Sequence[Mismatch]) -> RefusedError:
    return RefusedError(message, action=_ASK_OWNER, step=Step.RELEASE, mismatches=tuple(mismatches))
