"""What people ask of the key service about rosters: look at them, propose one, sign one.

The first roster of a dataset is its owner's word alone; each later one needs as many members of the roster before it as
that one demands, and holds from the moment the last of them signed.
"""

from datetime import datetime

from starlette.routing import BaseRoute

from strongroom.base.clock import to_rfc3339
from strongroom.base.encoding import Json
from strongroom.base.errors import ConflictError, NotFoundError, VerificationError
from strongroom.crypto.derive import sha256_hex
from strongroom.crypto.jose import unverified_payload
from strongroom.keys.store import Transaction
from strongroom.keys.store.rosters import (
    ROSTER_CHANGED,
    RosterProposal,
    RosterRecord,
    SignatureRecord,
    add_roster,
    add_signature,
    propose_roster,
    proposed_roster,
    proposed_rosters,
    rosters_of,
    signatures_of,
)
from strongroom.policy.roster import SignedBy, read_roster
from strongroom.policy.signatures import attach, signer_of
from strongroom.services.consents import approver, demand_answers_for, owners_of, roster_now
from strongroom.services.errors import Reply, strongroom_error
from strongroom.services.http import Call, Handler, endpoint, json_reply
from strongroom.services.key_desk import KeyDesk
from strongroom.services.roster_members import roster_in
from strongroom.services.runs import PREFIX
from strongroom.wire.approvals import RosterUpload, SignatureUpload, SignedRoster


class RosterDesk:
    """The part of the key service that keeps rosters."""

    def __init__(self, desk: KeyDesk) -> None:
        self._desk = desk

    def routes(self) -> list[BaseRoute]:
        """Return the endpoints."""
        handlers: list[tuple[str, str, Handler]] = [
            ("GET", "/datasets/{name}/rosters", self.rosters),
            ("POST", "/datasets/{name}/rosters", self.propose),
            ("POST", "/rosters/{roster}/signatures", self.sign),
        ]
        return [
            endpoint(PREFIX + path, handler, methods=(method,), errors=strongroom_error)
            for method, path, handler in handlers
        ]

    def rosters(self, call: Call) -> Reply:
        """Answer with a dataset's rosters and with those that wait for signatures."""
        person, name = approver(self._desk, call), call.path["name"]
        with self._desk.store.reading() as tx:
            demand_answers_for(tx, person.identity, name)
            chain = rosters_of(tx, name)
            before = roster_in(chain[-1].statement) if chain else None
            waiting: list[Json] = [
                {
                    "roster": proposal.id,
                    "proposed_at": proposal.proposed_at,
                    **_signed(tx, proposal).model_dump(mode="json"),
                }
                for proposal in proposed_rosters(tx, name)
                if before is not None and roster_in(proposal.statement).previous == before.digest
            ]
            answer: Json = {
                "dataset": name,
                "owner": tx.dataset(name).owner,
                "rosters": [each.model_dump(mode="json") for each in chain],
                "waiting": waiting,
            }
        return json_reply(answer)

    def propose(self, call: Call) -> Reply:
        """Store a proposed roster with its first signature."""
        person = approver(self._desk, call)
        statement, now = RosterUpload.from_json(call.body).roster, self._desk.clock.now()
        name, roster = call.path["name"], sha256_hex(unverified_payload(statement))
        with self._desk.store.transaction() as tx:
            now = tx.present(now)
            demand_answers_for(tx, person.identity, name)
            read = self._read(tx, name, SignedRoster(statement=statement))
            propose_roster(
                tx, RosterProposal(id=roster, dataset=name, statement=statement, proposed_at=to_rfc3339(now))
            )
            if not read.is_complete:
                what: dict[str, Json] = {"dataset": name, "roster": roster, "signers": list(read.signers)}
                tx.append_leaf("roster-proposed", now=now, what=what)
            self._hold_if_complete(tx, SignedRoster(statement=statement), read, now=now)
        return json_reply(_answer(roster, read), status=201)

    def sign(self, call: Call) -> Reply:
        """Add another person's signature to a proposed roster; with the last one that it needs, it holds."""
        person = approver(self._desk, call)
        upload, now, roster = SignatureUpload.from_json(call.body), self._desk.clock.now(), call.path["roster"]
        with self._desk.store.transaction() as tx:
            now = tx.present(now)
            proposal = proposed_roster(tx, roster)
            if proposal is None:
                raise NotFoundError("there is no such roster")
            demand_answers_for(tx, person.identity, proposal.dataset, hidden="such roster")
            signer = signer_of(attach(upload.signature, unverified_payload(proposal.statement)))
            before = _signed(tx, proposal)
            if signer in self._read(tx, proposal.dataset, before).signers:
                raise ConflictError("this person has signed it already", action="Another person has to sign it.")
            signed = before.model_copy(update={"signatures": (*before.signatures, upload.signature)})
            read = self._read(tx, proposal.dataset, signed)
            add_signature(
                tx,
                SignatureRecord(subject=roster, signer=signer, signature=upload.signature, signed_at=to_rfc3339(now)),
            )
            what: dict[str, Json] = {"dataset": proposal.dataset, "roster": roster, "signer": signer}
            tx.append_leaf("roster-signed", now=now, what={**what, "signatures": len(read.signers)})
            self._hold_if_complete(tx, signed, read, now=now)
        return json_reply(_answer(roster, read), status=201)

    def _read(self, tx: Transaction, dataset: str, signed: SignedRoster) -> SignedBy:
        """Read a roster that is to follow the one that holds now."""
        read = read_roster(signed, before=roster_now(tx, dataset), owners=owners_of(self._desk, tx, dataset))
        if (read.roster.dataset, read.roster.key_service) != (dataset, self._desk.identity.identity):
            raise VerificationError("the roster is for another dataset, or for another key service")
        return read

    def _hold_if_complete(self, tx: Transaction, signed: SignedRoster, read: SignedBy, *, now: datetime) -> None:
        if not read.is_complete:
            return
        roster = read.roster
        add_roster(tx, RosterRecord(dataset=roster.dataset, number=roster.number, signed=signed))
        tx.append_leaf(
            ROSTER_CHANGED,
            now=now,
            what={
                "dataset": roster.dataset,
                "roster": roster.digest,
                "roster_number": roster.number,
                "members": sorted(roster.keys),
                "threshold": roster.threshold,
                "keeps_approvals": roster.keeps_approvals,
                "signers": list(read.signers),
            },
        )


def _signed(tx: Transaction, proposal: RosterProposal) -> SignedRoster:
    signatures = tuple(each.signature for each in signatures_of(tx, proposal.id))
    return SignedRoster(statement=proposal.statement, signatures=signatures)


def _answer(roster: str, read: SignedBy) -> Json:
    return {
        "roster": roster,
        "signatures": len(read.signers),
        "needed": read.needed,
        "holds": read.is_complete,
    }
