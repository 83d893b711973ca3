"""What TEEs ask of the key service: a nonce, opening and joining a run, keys, the run's record, closing."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from starlette.routing import BaseRoute

from strongroom.application.description import ApplicationDescription, parse_description
from strongroom.attestation.evidence.azure_vtpm import azure_vm_of, demand_vtpm_binds
from strongroom.attestation.evidence.fields import read_fields
from strongroom.base.clock import to_rfc3339
from strongroom.base.encoding import Json, from_b64url, to_b64url
from strongroom.base.errors import ConflictError, RefusedError, StrongroomError, VerificationError
from strongroom.base.secret import SecretBytes
from strongroom.base.workflow import Step
from strongroom.crypto.derive import sha256_hex
from strongroom.crypto.jose import seal, unverified_payload, verify_jws
from strongroom.crypto.random import random_secret
from strongroom.keys.admission import (
    Candidate,
    authorize_joining,
    authorize_opening,
    demand_open,
    demand_standing,
    names_submitter,
    refuse_unknown,
)
from strongroom.keys.joined import JoinedRuns
from strongroom.keys.nonce import make_nonce, verify_nonce
from strongroom.keys.records import MemberRecord, OpenedRun, OpenedRunSecrets, RunWrite, VersionRecord
from strongroom.keys.refusal import ExplainedRefusalError
from strongroom.keys.release import (
    AttestedTee,
    VerifiedTicket,
    authorize_close,
    authorize_keys,
    bindings_here,
    demand_fresh,
    demand_hardware,
    member_named,
    open_member_request,
    read_attested_tee,
    verify_ticket,
)
from strongroom.keys.store import StoredRun, Transaction
from strongroom.keys.store.leases import count_executor, count_run, use_of
from strongroom.keys.store.rows import edited
from strongroom.policy.approval import Approval
from strongroom.policy.consent import NO_PROOF
from strongroom.policy.shapes import shape_of
from strongroom.policy.workloads import NOTHING_SHOWN, ShownWorkload
from strongroom.receipts.build import evidence_of
from strongroom.services.closed_runs import ClosedRun, closed_before
from strongroom.services.consents import candidates, held, proof_of, roster_now
from strongroom.services.data_keys import keks_of, make_write, unwrap_write_keys, usable_kek
from strongroom.services.errors import Reply, strongroom_error
from strongroom.services.http import Call, endpoint, jose_reply, json_reply
from strongroom.services.key_desk import KeyDesk, commit_version, stored_version
from strongroom.services.refusing import disclosed, keep_first_refusal, keep_refusal
from strongroom.services.workloads import VerifiedWorkload
from strongroom.wire import key_service as wire
from strongroom.wire.approvals import ApprovalProof
from strongroom.wire.lease import RENEW_TYP, RENEWAL_TYP, Renewal, RenewRequest

PREFIX: Final = "/strongroom/v1"
_REPORT_DATA_BYTES: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class _Applicant:
    """A TEE at the door: its result, evidence and request are verified, its nonce is ours and has not expired.

    Attributes:
        workload: Who the pod is around it, by a token that holds; whether it counts, the store decides.
    """

    request: wire.JoinRequest
    tee: AttestedTee
    ticket: VerifiedTicket
    nonce: str
    nonce_expires_at: int
    workload: VerifiedWorkload | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Admission:
    """What an admitted TEE receives."""

    run: StoredRun
    member: MemberRecord
    leaf: int
    versions: dict[str, VersionRecord]


_Decision = Callable[[Transaction, _Applicant, datetime], _Admission]


class RunDesk:
    """The part of the key service that TEEs talk to."""

    def __init__(self, desk: KeyDesk) -> None:
        self._desk = desk

    def routes(self) -> list[BaseRoute]:
        """Return the endpoints."""
        handlers: dict[str, Callable[[Call], Reply]] = {
            "/nonce": self.nonce,
            "/runs": self.open,
            "/runs/{run}/members": self.join,
            "/runs/{run}/keys": self.keys,
            "/runs/{run}/renew": self.renew,
            "/runs/{run}/list": self.record,
            "/runs/{run}/rebase": self.rebase,
            "/runs/{run}/close": self.close,
        }
        return [
            endpoint(PREFIX + path, handler, methods=("POST",), errors=strongroom_error)
            for path, handler in handlers.items()
        ]

    def nonce(self, _call: Call) -> Reply:
        """Answer with a fresh nonce; nothing is stored until it is used."""
        now = self._desk.clock.now()
        nonce, expires_at = make_nonce(self._desk.store.nonce_key, now=now)
        expiry = datetime.fromtimestamp(expires_at, tz=now.tzinfo)
        return json_reply(wire.Nonce(nonce=nonce, expires_at=to_rfc3339(expiry)))

    def open(self, call: Call) -> Reply:
        """Open a run for a driver."""
        self._desk.demand_witnesses()
        applicant, now = self._applicant(call.text()), self._desk.clock.now()
        return self._admit(applicant, self._open_run, now=now)

    def join(self, call: Call) -> Reply:
        """Let an executor join an open run."""
        applicant, now = self._applicant(call.text()), self._desk.clock.now()
        if applicant.ticket.run != call.path["run"]:
            raise VerificationError("the request is for another run than its address", step=Step.RELEASE)
        return self._admit(applicant, self._join_run, now=now)

    def keys(self, call: Call) -> Reply:
        """Release write keys of bound versions to a member."""
        return self._kept(call, self._keys, typ=wire.KEYS_TYP)

    def renew(self, call: Call) -> Reply:
        """Tell a member that its run still stands: it asks before it gives out another batch of keys."""
        return self._kept(call, self._renew, typ=RENEW_TYP)

    def _renew(self, call: Call) -> Reply:
        now = self._desk.clock.now()
        with self._desk.store.reading() as tx:
            run, member, payload = self._member_request(tx, call, typ=RENEW_TYP)
            request = RenewRequest.from_json(payload)
            demand_fresh(request.issued_at, now=now)
            if request.run != run.record.run:
                raise VerificationError("the request is for another run than its address", step=Step.RELEASE)
            self._demand_standing(tx, run.record, now=now)
        answer = Renewal(
            key_service=self._desk.identity.identity, run=request.run, tee_key=member.tee_key, nonce=request.nonce
        )
        return jose_reply(self._desk.sign(answer, typ=RENEWAL_TYP))

    def _keys(self, call: Call) -> Reply:
        now = self._desk.clock.now()
        with self._desk.store.transaction() as tx:
            run, member, payload = self._member_request(tx, call, typ=wire.KEYS_TYP)
            request = wire.KeysRequest.from_json(payload)
            demand_fresh(request.issued_at, now=now)
            approvals = self._demand_standing(tx, run.record, now=now)
            bound = {name: run.record.bound_version(name) for name in request.datasets}
            versions = {name: stored_version(self._desk, tx, name, number) for name, number in bound.items() if number}
            authorize_keys(request, run=run.record, versions=versions)
            stated = [each.approval for each in approvals.values()]
            keys = self._write_keys(tx, request, run=run.record, approvals=stated, now=now)
            released: dict[str, Json] = {
                name: {
                    "version": asked.number,
                    "write_ids": sorted(asked.write_keys),
                    **({"columns": sorted(keys.columns[name])} if name in keys.columns else {}),
                    "keks": keks_of(tx, name, asked.write_keys),
                }
                for name, asked in request.datasets.items()
            }
            leaf = tx.append_run_leaf(
                "keys-released",
                run=request.run,
                now=now,
                what={"member": member.number, "tee_key": member.tee_key, "datasets": released},
            )
        answer = wire.ReleasedKeys(
            key_service=self._desk.identity.identity,
            run=request.run,
            tee_key=member.tee_key,
            sealed=_seal_to(member, keys.to_json(), purpose="write-keys"),
            proof=self._desk.store.prove([leaf])[0],
        )
        return jose_reply(self._desk.sign(answer, typ=wire.RELEASED_KEYS_TYP))

    def record(self, call: Call) -> Reply:
        """Answer a run's driver with every member and leaf of the run."""
        now = self._desk.clock.now()
        with self._desk.store.reading() as tx:
            run, member, payload = self._member_request(tx, call, typ=wire.LIST_TYP)
            request = wire.ListRequest.from_json(payload)
            demand_fresh(request.issued_at, now=now)
            if member.number != 0 or request.run != run.record.run:
                raise RefusedError("only a run's driver lists its members", step=Step.WRITE)
            return json_reply(run_record(tx, run.record))

    def rebase(self, call: Call) -> Reply:
        """Let a run's write build on the newest version, because another one came in between.

        The driver gets that version's keys as it got the first one's, and adds its files to it. An application that
        pins the version it writes on is not moved.
        """
        return self._kept(call, self._rebase, typ=wire.REBASE_TYP)

    def _rebase(self, call: Call) -> Reply:
        now = self._desk.clock.now()
        with self._desk.store.transaction() as tx:
            run, member, payload = self._member_request(tx, call, typ=wire.REBASE_TYP)
            request = wire.RebaseRequest.from_json(payload)
            demand_fresh(request.issued_at, now=now)
            approvals = self._demand_standing(tx, run.record, now=now)
            write, head = run.record.writes.get(request.dataset), tx.head(request.dataset)
            if member.number != 0 or request.run != run.record.run or write is None:
                raise RefusedError("only a run's driver moves the writes of its run", step=Step.WRITE)
            held_now = {name: [each] for name, each in approvals.items()}
            description = self._description(tx, held_now, verify_ticket(run.record.ticket))
            if head is None or head == write.base or description.datasets[request.dataset].version is not None:
                raise RefusedError("the write builds on the version that it has to build on", step=Step.WRITE)
            moved = {**run.record.writes, request.dataset: write.model_copy(update={"base": head})}
            tx.update_run(run.record.model_copy(update={"writes": moved}), run.secrets)
            version = tx.version(request.dataset, head)
            leaf = tx.append_run_leaf(
                "write-rebased",
                run=request.run,
                now=now,
                what={"dataset": request.dataset, "base": head, "previous": write.base},
            )
        proof, *others = self._desk.store.prove([leaf, *([] if version.leaf is None else [version.leaf])])
        answer = wire.Rebased(
            key_service=self._desk.identity.identity,
            run=request.run,
            dataset=request.dataset,
            statement=version.statement,
            proof=proof,
            version_proof=others[0] if others else None,
        )
        return jose_reply(self._desk.sign(answer, typ=wire.REBASED_TYP))

    def close(self, call: Call) -> Reply:
        """Close a run: all commits take effect together, or none."""
        return self._kept(call, self._close, typ=wire.CLOSE_TYP)

    def _close(self, call: Call) -> Reply:
        now = self._desk.clock.now()
        with self._desk.store.transaction() as tx:
            run, member, payload = self._member_request(tx, call, typ=wire.CLOSE_TYP)
            request = wire.CloseRequest.from_json(payload)
            demand_fresh(request.issued_at, now=now)
            if (again := closed_before(tx, request, member=member)) is not None:
                return self._closing(request, again)
            self._desk.demand_witnesses()
            if request.outcome == "succeeded":
                self._demand_standing(tx, run.record, now=now)
            else:  # a run that lost its approval may still end, and commits nothing
                demand_open(closed=tx.outcome(run.record.run) is not None)
            positions = tx.run_leaves(run.record.run)
            heads = {name: tx.head(name) for name in run.record.writes}
            bases = {name: stored_version(self._desk, tx, name, head) if head else None for name, head in heads.items()}
            authorize_close(request, run=run.record, member=member, leaves=len(positions), bases=bases)
            statements = {
                commit.dataset: commit_version(self._desk, tx, commit, writer=f"run:{request.run}", now=now)
                for commit in request.commits
            }
            digests: dict[str, Json] = {
                name: sha256_hex(statement.encode("ascii")) for name, statement in statements.items()
            }
            leaf = tx.append_run_leaf(
                "run-closed",
                run=request.run,
                now=now,
                what={"outcome": request.outcome, "receipt": request.receipt, "versions": digests},
            )
        return self._closing(request, ClosedRun(leaf=leaf, positions=positions, versions=statements))

    def _closing(self, request: wire.CloseRequest, closed: ClosedRun) -> Reply:
        proof, *others = self._desk.prove_witnessed([closed.leaf, *closed.positions])
        closing = wire.Closing(
            key_service=self._desk.identity.identity,
            run=request.run,
            outcome=request.outcome,
            receipt=request.receipt,
            leaves=len(closed.positions),
            versions=dict(closed.versions),
            proof=proof,
            member_proofs=tuple(others),
            mode=self._desk.mode,
            master_key=self._desk.master_key,
        )
        return jose_reply(self._desk.sign(closing, typ=wire.CLOSING_TYP))

    # --- admission ----------------------------------------------------------------------------------------------

    def _applicant(self, token: str) -> _Applicant:
        """Verify what a TEE shows.

        1. The result is of a trusted attestation service and holds now.
        2. Evidence and result belong together, and the request is signed with the TEE's key.
        3. The ticket is signed by its submitter.
        4. The nonce in the runtime data is ours and has not expired.
        5. A service account's token, if one came, is a configured cluster's, and for us. One that does not hold counts
           as none: whether one is needed, approvals say.
        """
        request = wire.JoinRequest.from_json(unverified_payload(token))
        result = self._desk.issuers.verify(request.result)
        tee = read_attested_tee(request, claims=result.claims)
        _demand_bound_runtime_data(request.evidence)
        verify_jws(token, key=tee.signing_key, typ=wire.JOIN_TYP, remember=False)  # it may hold a token
        ticket = verify_ticket(request.ticket)
        nonce = tee.runtime.nonces.get(self._desk.identity.identity)
        if nonce is None:
            raise RefusedError("the evidence has no nonce of this key service", step=Step.RELEASE)
        expires_at = verify_nonce(self._desk.store.nonce_key, nonce, now=self._desk.clock.now())
        workload, shown = self._workload(request.workload_token)
        return _Applicant(
            request=request,
            tee=replace(tee, shown=shown),
            ticket=ticket,
            nonce=nonce,
            nonce_expires_at=expires_at,
            workload=workload,
        )

    def _workload(self, token: str | None) -> tuple[VerifiedWorkload | None, ShownWorkload]:
        if token is None:
            return None, NOTHING_SHOWN
        if self._desk.workloads is None:
            return None, ShownWorkload(otherwise="a token, and this key service knows no cluster")
        try:
            verified = self._desk.workloads.verify(token)
        except StrongroomError as error:
            return None, ShownWorkload(otherwise=error.message)
        return verified, ShownWorkload(workload=verified.workload)

    def _admit(self, applicant: _Applicant, decide: _Decision, *, now: datetime) -> Reply:
        """Use the nonce up, decide, and record either way; `decide` raises before it writes."""
        refusal: StrongroomError | None = None
        admission: _Admission | None = None
        with self._desk.store.transaction() as tx:
            tx.use_nonce(applicant.nonce, expires_at=applicant.nonce_expires_at, now=now)
            now = tx.present(now)
            applicant = _with_first_use(tx, applicant, self._desk.joined)
            try:
                admission = decide(tx, applicant, now)
            except (RefusedError, ConflictError) as error:
                ticket, what = applicant.ticket, _member_leaf(applicant)
                keep_refusal(tx, error, run=ticket.run, ticket=ticket.ticket, now=now, what=what)
                refusal = disclosed(error)
        if refusal is not None or admission is None:
            raise refusal or RefusedError("the TEE was not admitted", step=Step.RELEASE)
        return jose_reply(self._release(admission))

    def _open_run(self, tx: Transaction, applicant: _Applicant, now: datetime) -> _Admission:
        ticket, tee = applicant.ticket, applicant.tee
        demand_hardware(tee.claims, accepted=self._desk.hardware)
        tx.demand_unopened(ticket.run)
        seen = ticket.ticket.checkpoints.get(self._desk.identity.identity)
        if seen is not None:
            self._desk.store.demand_extends(seen)
        identity = self._desk.identity.identity
        found = self._candidates(tx, ticket)
        if not any(names_submitter(each, ticket.ticket) for named in found.values() for each in named):
            raise refuse_unknown(ticket=ticket, tee=tee, candidates=found, now=now)
        description = self._description(tx, found, ticket)
        bindings = bindings_here(description, key_service=identity)
        opening = authorize_opening(
            ticket=ticket,
            tee=tee,
            description=description,
            key_service=identity,
            candidates=found,
            heads={name: tx.head(name) for name in bindings},
            writers_of=lambda dataset, number: self._writers(tx, dataset, number),
            now=now,
        )
        for name in bindings:
            usable_kek(tx, name, now=now)
        made = {name: make_write(tx, tx.dataset(name), base=base, now=now) for name, base in opening.writes.items()}
        run = StoredRun(
            record=OpenedRun(
                run=ticket.run,
                ticket=ticket.token,
                application=ticket.ticket.application,
                approvals=opening.approvals,
                reads=opening.reads,
                writes={name: each.write for name, each in made.items()},
                driver_key=tee.signing_key.thumbprint,
                opened_at=to_rfc3339(now),
            ),
            secrets=OpenedRunSecrets(
                share=to_b64url(random_secret().reveal()),
                write_keys={name: to_b64url(each.key.reveal()) for name, each in made.items()},
                column_keys={
                    name: {column: to_b64url(key.reveal()) for column, key in each.columns.items()}
                    for name, each in made.items()
                },
            ),
        )
        rosters = {name: roster_now(tx, name) for name in bindings}
        for approval in dict.fromkeys(opening.approvals.values()):
            count_run(tx, use_of(tx, approval))
        tx.add_run(run.record, run.secrets)
        writes: dict[str, Json] = {
            name: {
                "write_id": each.write.write_id,
                "base": each.write.base,
                "keks": keks_of(tx, name, [each.write.write_id]),
            }
            for name, each in made.items()
        }
        return self._enter(
            tx,
            applicant,
            run,
            now=now,
            event="run-opened",
            what={
                "approvals": dict(opening.approvals),
                "rosters": {name: roster.digest for name, roster in rosters.items() if roster is not None},
                "submitter": ticket.ticket.submitter,
                "max_executors": ticket.ticket.max_executors,
                "not_after": ticket.ticket.not_after,
                "reads": dict(opening.reads),
                "writes": writes,
            },
        )

    def _join_run(self, tx: Transaction, applicant: _Applicant, now: datetime) -> _Admission:
        demand_hardware(applicant.tee.claims, accepted=self._desk.hardware)
        run = tx.run(applicant.ticket.run)
        approvals = self._demand_standing(tx, run.record, now=now)
        authorize_joining(
            run=run.record,
            ticket=applicant.ticket.ticket,
            joined=self._desk.joined.read(tx, run.record.run),
            tee=applicant.tee,
            approvals=approvals,
        )
        counts: dict[str, Json] = {}
        for approval in dict.fromkeys(run.record.approvals.values()):
            use = use_of(tx, approval)
            count_executor(tx, use)
            counts[approval] = use.executors + 1
        return self._enter(tx, applicant, run, now=now, event="member-joined", what={"executors": counts})

    def _enter(
        self,
        tx: Transaction,
        applicant: _Applicant,
        run: StoredRun,
        *,
        now: datetime,
        event: str,
        what: dict[str, Json],
    ) -> _Admission:
        tee = applicant.tee
        member = MemberRecord(
            run=run.record.run,
            number=tx.count_members(run.record.run),
            role=tee.runtime.role,
            joined_at=to_rfc3339(now),
            signing_key=tee.signing_key.to_jwk(),
            encryption_key=tee.encryption_key,
            tee_key=tee.tee_key,
            result=applicant.request.result,
            evidence=applicant.request.evidence,
            workload=tee.shown.workload,
        )
        tx.add_member(member)
        if applicant.workload is not None:
            tx.use_token(applicant.workload.token_id, expires_at=applicant.workload.expires_at)
        leaf = tx.append_run_leaf(
            event, run=run.record.run, now=now, what={**_member_leaf(applicant), "member": member.number, **what}
        )
        bases = {name: write.base for name, write in run.record.writes.items() if write.base is not None}
        versions = {name: tx.version(name, number) for name, number in {**run.record.reads, **bases}.items()}
        return _Admission(run=run, member=member, leaf=leaf, versions=versions)

    def _release(self, admission: _Admission) -> str:
        run, member = admission.run, admission.member
        proof, version_proofs = self._prove_admission(admission)
        secrets = wire.RunSecrets(
            share=run.secrets.share,
            writes={name: _new_write(write, run.secrets, name) for name, write in run.record.writes.items()},
        )
        release = wire.Release(
            key_service=self._desk.identity.identity,
            run=run.record.run,
            role=member.role,
            number=member.number,
            tee_key=member.tee_key,
            versions={name: version.statement for name, version in admission.versions.items()},
            sealed=_seal_to(member, secrets.to_json(), purpose="run-secrets"),
            simulated=self._desk.hardware == "simulated",
            proof=proof,
            version_proofs=version_proofs,
        )
        return self._desk.sign(release, typ=wire.RELEASE_TYP)

    def _prove_admission(self, admission: _Admission) -> tuple[wire.LogProof, dict[str, wire.LogProof]]:
        """Prove the member's leaf and those of the versions; a run's opening under a checkpoint that was cosigned."""
        versions = {name: each.leaf for name, each in admission.versions.items() if each.leaf is not None}
        prove = self._desk.prove_witnessed if admission.member.role == "driver" else self._desk.store.prove
        proof, *others = prove([admission.leaf, *versions.values()])
        return proof, dict(zip(versions, others, strict=True))

    # --- what decisions rest on ---------------------------------------------------------------------------------

    def _candidates(self, tx: Transaction, ticket: VerifiedTicket) -> dict[str, list[Candidate]]:
        return {
            name: candidates(self._desk, tx, dataset=name, application=ticket.ticket.application)
            for name in ticket.ticket.datasets
        }

    def _description(
        self, tx: Transaction, found: Mapping[str, Sequence[Candidate]], ticket: VerifiedTicket
    ) -> ApplicationDescription:
        """Return the application's description, as it was stored with an approval that names the submitter."""
        for candidate in (each for named in found.values() for each in named):
            if names_submitter(candidate, ticket.ticket):
                description = parse_description(tx.approval(candidate.id).description.encode("utf-8"))
                if description.digest == ticket.ticket.application:
                    return description
        raise edited("an application's description is not the one that was approved")

    def _writers(self, tx: Transaction, dataset: str, number: int) -> frozenset[str]:
        """Return everything that the writer of a version is called: `owner:…`, or `run:…` and `application:…`."""
        writer = stored_version(self._desk, tx, dataset, number).writer
        kind, _, name = writer.partition(":")
        if kind != "run":
            return frozenset({writer})
        return frozenset({writer, f"application:{tx.run(name).record.application}"})

    def _demand_standing(self, tx: Transaction, run: OpenedRun, *, now: datetime) -> dict[str, Candidate]:
        """Refuse a run that may have nothing more; return the approvals it was opened under."""
        approvals = {dataset: held(self._desk, tx, dataset, approval) for dataset, approval in run.approvals.items()}
        demand_standing(
            ticket=verify_ticket(run.ticket).ticket,
            approvals=approvals,
            closed=tx.outcome(run.run) is not None,
            opened_at=datetime.fromisoformat(run.opened_at),
            now=tx.present(now),
        )
        for dataset in run.approvals:
            usable_kek(tx, dataset, now=now)
        return approvals

    def _kept(self, call: Call, answer: Callable[[Call], Reply], *, typ: str) -> Reply:
        """Answer a member; where its run has lost its lease, keep why: nothing of the refused work stays."""
        try:
            return answer(call)
        except ExplainedRefusalError as error:
            now = self._desk.clock.now()
            with self._desk.store.transaction() as tx:
                run, member, _ = self._member_request(tx, call, typ=typ)
                ticket, what = verify_ticket(run.record.ticket).ticket, {"member": member.number}
                keep_first_refusal(tx, error, run=run.record.run, ticket=ticket, now=tx.present(now), what=what)
            raise

    def _write_keys(
        self,
        tx: Transaction,
        request: wire.KeysRequest,
        *,
        run: OpenedRun,
        approvals: Iterable[Approval],
        now: datetime,
    ) -> wire.WriteKeys:
        """Open the keys that were asked for; column keys only of datasets that are read, and that approvals name."""
        opened = {approval.dataset: approval.columns for approval in approvals if approval.dataset in run.reads}
        answers = [
            unwrap_write_keys(tx, name, asked, columns=opened.get(name, ()), now=now)
            for name, asked in request.datasets.items()
        ]
        return wire.WriteKeys(
            keys={name: keys for answer in answers for name, keys in answer.keys.items()},
            columns={name: keys for answer in answers for name, keys in answer.columns.items()},
        )

    def _member_request(self, tx: Transaction, call: Call, *, typ: str) -> tuple[StoredRun, MemberRecord, bytes]:
        run, token = tx.run(call.path["run"]), call.text()
        number = member_named(token)
        if number is None:  # it does not say which member it is, so each may be
            signers = tx.members(run.record.run)
        else:
            named = tx.member(run.record.run, number)
            signers = () if named is None else (named,)
        payload, member = open_member_request(token, signers, typ=typ)
        return run, member, payload


def run_record(tx: Transaction, run: OpenedRun) -> wire.RunRecord:
    """Return everything the key service knows of a run."""
    members = tuple(
        wire.RunMember(
            number=member.number,
            role=member.role,
            joined_at=member.joined_at,
            result=member.result,
            evidence=member.evidence,
        )
        for member in tx.members(run.run)
    )
    return wire.RunRecord(
        run=run.run,
        members=members,
        approvals={dataset: tx.approval(approval).approval for dataset, approval in run.approvals.items()},
        proofs={dataset: proof for dataset, proof in _proofs(tx, run).items() if proof != NO_PROOF},
        leaves=tx.prove(tx.run_leaves(run.run)),
    )


def _proofs(tx: Transaction, run: OpenedRun) -> dict[str, ApprovalProof]:
    return {dataset: proof_of(tx, approval=each, dataset=dataset) for dataset, each in run.approvals.items()}


def _demand_bound_runtime_data(evidence: wire.Evidence) -> None:
    """Refuse runtime data whose exact bytes are not the ones that the quote binds, or a confidential VM's vTPM."""
    report_data = read_fields(evidence.kind, from_b64url(evidence.quote)).report_data
    if evidence.vtpm is not None:
        demand_vtpm_binds(azure_vm_of(evidence_of(evidence)), report_data=report_data)
        return
    digest = bytes.fromhex(sha256_hex(from_b64url(evidence.runtime_data))).ljust(_REPORT_DATA_BYTES, b"\0")
    if report_data != digest:
        raise VerificationError("the quote binds other runtime data", step=Step.RELEASE)


def _with_first_use(tx: Transaction, applicant: _Applicant, runs: JoinedRuns) -> _Applicant:
    """Take away a workload whose token, or whose pod in this run, let a TEE in before: a pod is one TEE."""
    verified = applicant.workload
    if verified is None:
        return applicant
    if tx.token_was_used(verified.token_id):
        otherwise = "a service account's token that was used before"
    elif runs.read(tx, applicant.ticket.run).has_pod(verified.workload):
        otherwise = "the token of a pod that joined this run before"
    else:
        return applicant
    return replace(applicant, workload=None, tee=replace(applicant.tee, shown=ShownWorkload(otherwise=otherwise)))


def _member_leaf(applicant: _Applicant) -> dict[str, Json]:
    runtime, workload = applicant.tee.runtime, applicant.tee.shown.workload
    return {
        "application": runtime.application,
        "role": runtime.role,
        "tee_key": applicant.tee.tee_key,
        "signing_key": applicant.tee.signing_key.thumbprint,
        "result": sha256_hex(applicant.request.result.encode("ascii")),
        "quote": sha256_hex(from_b64url(applicant.request.evidence.quote)),
        "hardware": applicant.tee.claims.get("x-ms-strongroom-hardware"),
        "shape": shape_of(applicant.tee.claims),
        **({} if workload is None else {"workload": workload.model_dump(mode="json")}),
    }


def _new_write(write: RunWrite, secrets: OpenedRunSecrets, dataset: str) -> wire.NewWrite:
    keys = secrets.column_keys.get(dataset, {})
    columns = {
        column: wire.NewColumnKey(key=keys[column], wrapped=wrapped) for column, wrapped in write.columns.items()
    }
    return wire.NewWrite(
        write_id=write.write_id,
        key=secrets.write_keys[dataset],
        wrapped=write.wrapped,
        base=write.base,
        columns=columns,
    )


def _seal_to(member: MemberRecord, secret: bytes, *, purpose: str) -> str:
    return seal(
        SecretBytes(secret),
        recipient_jwk=member.encryption_key,
        context={"run": member.run, "tee_key": member.tee_key, "purpose": purpose},
    )
