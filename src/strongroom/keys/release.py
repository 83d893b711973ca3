"""The decision to let keys out: pure functions over what a TEE shows and the state of its run.

`services` verifies the result and hands its claims in; the store counts and records in the same transaction. Who may
open and join a run, and how long it stands, is in `keys.admission`.
"""

import functools
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
from strongroom.policy.claims import Claims
from strongroom.policy.tee_claims import AZURE_VM, INITDATA, quote_hash
from strongroom.policy.workloads import NOTHING_SHOWN, ShownWorkload
from strongroom.wire.key_service import CloseRequest, DatasetVersion, Evidence, JoinRequest, KeysRequest
from strongroom.wire.runtime_data import RuntimeData
from strongroom.wire.ticket import TICKET_TYP, RunTicket

Hardware = Literal["simulated", "real"]
_ASK_OWNER: Final = "Ask the data owner; the mismatches say what differs from what was approved."
_NUMBER_DIGITS: Final = 9
_REMEMBERED_TICKETS: Final = 512
_REMEMBERED_CHARACTERS: Final = 8 << 10
"""Longer tickets are verified anew each time: so few megabytes are kept."""


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
        shown: What it showed beside, of the pod around it: its cluster's word, nothing that is attested.
    """

    claims: Claims
    runtime: RuntimeData
    signing_key: VerifyingKey
    encryption_key: dict[str, str]
    tee_key: str
    shown: ShownWorkload = NOTHING_SHOWN


def verify_ticket(token: str) -> VerifiedTicket:
    """Verify a run ticket.

    1. Its header carries the submitter's public key, and the signature holds with it.
    2. The key is the one that the ticket names; the ticket's bytes are in their one canonical form.
    The ticket is the whole of what decides, the time does not: so one that held is remembered by its text, and one that
    did not is verified again.
    The caller MUST compare the submitter with what an approval names, and the time with the ticket's.

    Raises:
        FormatError: Not a ticket.
        VerificationError: The signature does not hold, or is of another key than the named submitter's.
    """
    return _remembered(token) if len(token) <= _REMEMBERED_CHARACTERS else _verify_ticket(token)


def _verify_ticket(token: str) -> VerifiedTicket:
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


_remembered: Final = functools.lru_cache(maxsize=_REMEMBERED_TICKETS)(_verify_ticket)


def read_attested_tee(request: JoinRequest, *, claims: Claims) -> AttestedTee:
    """Return the TEE that a verified result describes.

    1. The runtime data sent beside the result are, read strictly, those in the result (`x-ms-runtime`).
    2. The quote sent beside it is of the result's kind of TEE, and the one that the result was made from; so are the
       document that the TEE was launched with, and what a confidential VM's vTPM says.
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
    _demand_beside(request.evidence, claims)
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


def _demand_beside(evidence: Evidence, claims: Claims) -> None:
    """Refuse evidence without what a result rests on beside the quote, or with more: auditors get what is sent here."""
    if (evidence.vtpm is not None) != (claims.get("x-ms-attestation-type") == AZURE_VM):
        raise VerificationError("the attestation result is about evidence with a vTPM, or the evidence beside it is")
    document = None if evidence.initdata is None else sha256_hex(from_b64url(evidence.initdata))
    if claims.get(INITDATA) != document:
        raise VerificationError("the attestation result is about a TEE that was launched with other initdata")


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


def member_named(token: str) -> int | None:
    """Return which member of a run says that it signed a request (`kid`); None where it does not say.

    Raises:
        FormatError: Not a JWS.
    """
    kid = unverified_header(token).get("kid")
    if isinstance(kid, str) and kid.isascii() and kid.isdigit() and len(kid) <= _NUMBER_DIGITS:
        return int(kid)
    return None


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


def _other_run(asked: str, run: OpenedRun) -> Iterator[Mismatch]:
    if asked != run.run:
        yield Mismatch(name="run", expected=run.run, actual=asked)


def _refusal(message: str, mismatches: Sequence[Mismatch]) -> RefusedError:
    return RefusedError(message, action=_ASK_OWNER, step=Step.RELEASE, mismatches=tuple(mismatches))
