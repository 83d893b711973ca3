"""Promises 1 and 9 of approvals: what counts, for how long, who may give and take it, and who learns why not.

Every test takes the good path of `tests.support.key_service` and changes one thing.
"""

import contextlib
import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.support.key_service import KeyBench, Tee, run_of

from strongroom.base.encoding import canonical_json, parse_json_object, to_b64url
from strongroom.base.errors import (
    AuthenticationError,
    ConflictError,
    FormatError,
    IntegrityError,
    NotFoundError,
    RefusedError,
    StrongroomError,
    VerificationError,
)
from strongroom.crypto.derive import sha256_hex
from strongroom.crypto.jose import sign_jws
from strongroom.crypto.keys import SigningKey
from strongroom.policy.approval import Approval, InputVersions
from strongroom.policy.roster import Roster
from strongroom.policy.signatures import detach
from strongroom.services.people import People
from strongroom.wire import key_service as wire
from strongroom.wire.approvals import ROSTER_TYP, RosterUpload, SignatureUpload

MANY = 12


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[KeyBench]:
    made = KeyBench(tmp_path)
    yield made
    made.store.close()


class Rostered:
    """The bench's dataset `trips` under a roster of three people, two of whom sign; `report` is its owner's alone."""

    def __init__(self, bench: KeyBench) -> None:
        self.bench = bench
        self.alice, self.bob, self.carol = (SigningKey.generate("ES256") for _ in range(3))
        bench.create_dataset("trips")
        bench.create_dataset("report")
        bench.trips, _ = bench.import_version("trips")
        bench.approve("report", "write", max_runs=100)
        self.roster = bench.roster(self.alice, self.bob, self.carol, threshold=2)
        assert bench.propose_roster(self.roster)["holds"]

    def approval(self, **changed: Any) -> Approval:
        return self.bench.approval("trips", "read", **{"roster": self.roster.digest, **changed})

    def approve(self, **changed: Any) -> Approval:
        """Have Alice propose, and Bob sign."""
        approval = self.approval(**changed)
        self.bench.propose(approval, key=self.alice)
        self.bench.sign(approval, key=self.bob)
        return approval


@pytest.fixture
def rostered(bench: KeyBench) -> Rostered:
    return Rostered(bench)


def names(refusal: pytest.ExceptionInfo[StrongroomError]) -> set[str]:
    return {mismatch.name for mismatch in refusal.value.mismatches}


def shown(refusal: pytest.ExceptionInfo[StrongroomError]) -> str:
    """Everything that the refused sees."""
    error = refusal.value
    return " ".join([error.message, error.action, *map(str, error.mismatches)])


def id_of(approval: Approval) -> str:
    return sha256_hex(approval.to_json())


def edit(bench: KeyBench, statement: str, *values: str) -> None:
    """Change the database behind the service's back, and start it again."""
    bench.store.close()
    with contextlib.closing(sqlite3.connect(bench.database)) as connection, connection:
        assert connection.execute(statement, values).rowcount > 0, "nothing was edited"
    bench.start()


# --- k of n ----------------------------------------------------------------------------------------------------------


def test_an_approval_counts_once_as_many_people_signed_as_the_roster_demands(rostered: Rostered) -> None:
    bench, approval = rostered.bench, rostered.approval()
    assert bench.propose(approval, key=rostered.carol) | {"stored_at": ""} == {
        "approval": id_of(approval),
        "stored_at": "",
        "signatures": 1,
        "needed": 2,
    }
    with pytest.raises(RefusedError) as refusal:
        bench.open(Tee(), bench.ticket())
    assert names(refusal) == {"signatures"}
    assert bench.sign(approval, key=rostered.alice)["signatures"] == 2
    bench.open(Tee(), bench.ticket())


def test_a_third_signature_changes_nothing(rostered: Rostered) -> None:
    approval = rostered.approve(max_runs=2)
    rostered.bench.open(Tee(), rostered.bench.ticket())
    assert rostered.bench.sign(approval, key=rostered.carol)["signatures"] == 3
    rostered.bench.open(Tee(number=1), rostered.bench.ticket())
    assert rostered.bench.events().count("approved") == 2, "that of the report, and this one once"


def test_one_person_who_signs_twice_is_one_person(rostered: Rostered) -> None:
    bench, approval = rostered.bench, rostered.approval()
    bench.propose(approval, key=rostered.alice)
    for attempt in (
        lambda: bench.sign(approval, key=rostered.alice),
        lambda: bench.propose(approval, key=rostered.alice),
        lambda: bench.propose(approval, key=rostered.bob),
    ):
        with pytest.raises(ConflictError):
            attempt()
    with pytest.raises(RefusedError) as refusal:
        bench.open(Tee(), bench.ticket())
    assert names(refusal) == {"signatures"}


@pytest.mark.parametrize("who", ["owner", "stranger"])
def test_somebody_outside_the_roster_neither_proposes_nor_signs(rostered: Rostered, who: str) -> None:
    bench, approval = rostered.bench, rostered.approval()
    outsider = bench.owner if who == "owner" else SigningKey.generate("ES256")
    refused = VerificationError if who == "owner" else AuthenticationError
    with pytest.raises(refused):
        bench.propose(approval, key=outsider)
    bench.propose(approval, key=rostered.alice)
    with pytest.raises(refused):
        bench.sign(approval, key=outsider)


def test_a_signature_of_a_stranger_does_not_count_though_a_member_sends_it(rostered: Rostered) -> None:
    bench, approval = rostered.bench, rostered.approval()
    bench.propose(approval, key=rostered.alice)
    upload = SignatureUpload(signature=detach(bench.signed(approval, key=SigningKey.generate("ES256"))))
    with pytest.raises(VerificationError, match="nobody who may sign"):
        bench.approvals.sign(bench.person(upload, key=rostered.bob, approval=id_of(approval)))


def test_a_signature_over_another_approval_does_not_count(rostered: Rostered) -> None:
    bench, approval = rostered.bench, rostered.approval()
    bench.propose(approval, key=rostered.alice)
    with pytest.raises(VerificationError):
        bench.sign(rostered.approval(max_runs=2), key=rostered.bob, of=id_of(approval))
    with pytest.raises(RefusedError):
        bench.open(Tee(), bench.ticket())


def test_a_signature_over_another_order_of_the_fields_does_not_count(rostered: Rostered) -> None:
    bench, approval = rostered.bench, rostered.approval()
    turned = json.dumps(dict(reversed(json.loads(approval.to_json()).items()))).encode()
    public = rostered.bob.verifying_key
    header = {"typ": wire.APPROVAL_TYP, "kid": public.thumbprint}
    token = sign_jws(turned, key=rostered.bob, header=header)
    upload = wire.ApprovalUpload(approval=token, application=bench.description().to_json().decode())
    with pytest.raises(FormatError, match="canonical"):
        bench.approvals.approve(bench.person(upload, key=rostered.bob))
    bench.propose(approval, key=rostered.alice)
    signature = SignatureUpload(signature=detach(token))
    with pytest.raises(VerificationError):
        bench.approvals.sign(bench.person(signature, key=rostered.bob, approval=id_of(approval)))


def test_a_signature_over_something_else_than_an_approval_does_not_count(rostered: Rostered) -> None:
    bench, approval = rostered.bench, rostered.approval()
    bench.propose(approval, key=rostered.alice)
    upload = SignatureUpload(signature=detach(bench.signed(approval, key=rostered.bob, typ=ROSTER_TYP)))
    with pytest.raises(VerificationError):
        bench.approvals.sign(bench.person(upload, key=rostered.bob, approval=id_of(approval)))


def test_an_approval_stripped_of_a_limit_has_no_signatures(rostered: Rostered) -> None:
    bench, limited = rostered.bench, rostered.approval(max_executors=1)
    header, _, signature = bench.signed(limited, key=rostered.alice).split(".")
    stripped = {name: value for name, value in json.loads(limited.to_json()).items() if name != "max_executors"}
    token = f"{header}.{to_b64url(canonical_json(stripped))}.{signature}"
    upload = wire.ApprovalUpload(approval=token, application=bench.description().to_json().decode())
    with pytest.raises(VerificationError):
        bench.approvals.approve(bench.person(upload, key=rostered.alice))


@pytest.mark.parametrize("digest", [None, "f" * 64])
def test_an_approval_under_another_roster_is_refused(rostered: Rostered, digest: str | None) -> None:
    with pytest.raises((RefusedError, VerificationError)):
        rostered.bench.propose(rostered.approval(roster=digest), key=rostered.bench.owner)
    with pytest.raises((RefusedError, VerificationError)):
        rostered.bench.propose(rostered.approval(roster=digest), key=rostered.alice)


def test_owners_alone_approve_nothing_any_more_once_there_is_a_roster(bench: KeyBench) -> None:
    bench.prepare(max_runs=5)
    bench.open(Tee(), bench.ticket())
    alice, bob = SigningKey.generate("ES256"), SigningKey.generate("ES256")
    bench.propose_roster(bench.roster(alice, bob, threshold=2))
    with pytest.raises(RefusedError) as refusal:
        bench.open(Tee(number=1), bench.ticket())
    assert names(refusal) == {"roster"}
    with pytest.raises(RefusedError, match="another roster"):
        bench.approve("trips", "read", max_runs=6)


def test_a_roster_may_let_earlier_approvals_go_on(bench: KeyBench) -> None:
    bench.prepare(max_runs=5)
    alice = SigningKey.generate("ES256")
    bench.propose_roster(bench.roster(alice, threshold=1, keeps_approvals=True))
    bench.open(Tee(), bench.ticket())


def test_another_owner_approves_nothing_of_a_dataset_that_is_not_his(bench: KeyBench) -> None:
    other = SigningKey.generate("ES256")
    bench.other_owners = (other,)
    bench.restart()
    bench.create_dataset("trips")
    approval = bench.approval("trips", "read")
    with pytest.raises(NotFoundError):
        bench.propose(approval, key=other)
    described = bench.description().to_json().decode()
    upload = wire.ApprovalUpload(approval=bench.signed(approval, key=other), application=described)
    with pytest.raises(VerificationError, match="nobody who may sign"):
        bench.approvals.approve(bench.person(upload))


# --- rosters ---------------------------------------------------------------------------------------------------------


def test_only_the_datasets_owner_signs_its_first_roster(bench: KeyBench) -> None:
    other = SigningKey.generate("ES256")
    bench.other_owners = (other,)
    bench.restart()
    bench.create_dataset("trips")
    with pytest.raises(NotFoundError):
        bench.propose_roster(bench.roster(other, threshold=1), key=other)
    by_another = RosterUpload(roster=bench.signed(bench.roster(other, threshold=1), key=other, typ=ROSTER_TYP))
    with pytest.raises(VerificationError, match="nobody who may sign"):
        bench.rosters.propose(bench.person(by_another, name="trips"))
    stranger = SigningKey.generate("ES256")
    with pytest.raises(AuthenticationError):
        bench.propose_roster(bench.roster(stranger, threshold=1), key=stranger)
    assert bench.propose_roster(bench.roster(bench.owner, threshold=1))["holds"]


def test_a_roster_is_changed_by_as_many_members_as_the_old_one_demands(rostered: Rostered) -> None:
    bench = rostered.bench
    dave = SigningKey.generate("ES256")
    changed = bench.roster(rostered.alice, dave, threshold=1, before=rostered.roster)
    assert not bench.propose_roster(changed, key=rostered.alice)["holds"]
    with pytest.raises(ConflictError):
        bench.sign_roster(changed, key=rostered.alice)
    assert bench.sign_roster(changed, key=rostered.carol)["holds"]
    approval = rostered.approval(roster=changed.digest)
    assert bench.propose(approval, key=dave)["signatures"] == 1
    bench.open(Tee(), bench.ticket())


def test_a_roster_is_not_changed_by_members_of_the_new_one(rostered: Rostered) -> None:
    bench = rostered.bench
    dave, erin = SigningKey.generate("ES256"), SigningKey.generate("ES256")
    changed = bench.roster(dave, erin, threshold=2, before=rostered.roster)
    for key in (dave, erin):
        with pytest.raises(AuthenticationError):
            bench.propose_roster(changed, key=key)
    assert not bench.propose_roster(changed, key=rostered.alice)["holds"]
    for key in (dave, bench.owner):
        upload = SignatureUpload(signature=detach(bench.signed(changed, key=key, typ=ROSTER_TYP)))
        with pytest.raises(VerificationError, match="nobody who may sign"):
            bench.rosters.sign(bench.person(upload, key=rostered.bob, roster=changed.digest))
    assert rostered.approve()


def test_who_left_a_roster_is_nobody_at_once_though_rosters_are_not_read_for_each_call(rostered: Rostered) -> None:
    bench = rostered.bench
    stranger, dave = SigningKey.generate("ES256"), SigningKey.generate("ES256")

    def known() -> People:
        with bench.store.reading() as tx:
            desk = bench.desk
            return desk.roster_members.read(
                tx, audience=desk.identity.identity, issuers=desk.people.issuers, clock=desk.clock
            )

    before = known()
    for key in (stranger, dave):
        with pytest.raises(AuthenticationError, match="anybody"):
            bench.why(key=key)
    assert known() is before
    assert bench.why(key=rostered.bob) == []
    changed = bench.roster(rostered.alice, dave, threshold=1, before=rostered.roster)
    bench.propose_roster(changed, key=rostered.alice)
    assert bench.sign_roster(changed, key=rostered.carol)["holds"]
    assert known() is not before
    assert bench.why(key=dave) == []
    for key in (stranger, rostered.bob):
        with pytest.raises(AuthenticationError, match="anybody"):
            bench.why(key=key)


def replayed(rostered: Rostered) -> Roster:
    return rostered.roster


def without_its_predecessor(rostered: Rostered) -> Roster:
    return rostered.bench.roster(rostered.alice, threshold=1, before=replace_digest(rostered.roster))


def replace_digest(roster: Roster) -> Roster:
    return roster.model_copy(update={"issued_at": "2020-01-01T00:00:00Z"})


@pytest.mark.parametrize("made", [replayed, without_its_predecessor])
def test_a_roster_that_does_not_follow_the_one_that_holds_is_refused(
    rostered: Rostered, made: Callable[[Rostered], Roster]
) -> None:
    bench = rostered.bench
    second = bench.roster(rostered.alice, rostered.bob, threshold=1, before=rostered.roster)
    bench.propose_roster(second, key=rostered.alice)
    bench.sign_roster(second, key=rostered.bob)
    with pytest.raises(VerificationError, match="does not follow"):
        bench.propose_roster(made(rostered), key=rostered.alice)
    with pytest.raises(VerificationError, match="nobody who may sign"):
        bench.propose_roster(made(rostered), key=bench.owner)


def test_two_rosters_that_follow_the_same_one_do_not_both_hold(rostered: Rostered) -> None:
    bench = rostered.bench
    first = bench.roster(rostered.alice, rostered.bob, threshold=1, before=rostered.roster)
    second = bench.roster(rostered.bob, rostered.alice, threshold=1, before=rostered.roster)
    bench.propose_roster(first, key=rostered.alice)
    bench.propose_roster(second, key=rostered.alice)
    bench.sign_roster(first, key=rostered.bob)
    with pytest.raises((VerificationError, ConflictError)):
        bench.sign_roster(second, key=rostered.bob)


def test_a_roster_for_another_dataset_or_service_is_refused(rostered: Rostered) -> None:
    bench = rostered.bench
    for changed in ({"dataset": "report"}, {"key_service": "f" * 64}):
        roster = bench.roster(rostered.alice, threshold=1, before=rostered.roster, **changed)
        upload = RosterUpload(roster=bench.signed(roster, key=rostered.alice, typ=ROSTER_TYP))
        with pytest.raises(VerificationError):
            bench.rosters.propose(bench.person(upload, key=rostered.alice, name="trips"))


def test_approvals_of_a_roster_end_with_it_unless_the_next_one_keeps_them(rostered: Rostered) -> None:
    bench = rostered.bench
    rostered.approve(max_runs=5)
    driver, ticket = Tee(), bench.ticket()
    bench.open(driver, ticket)
    keeping = bench.roster(rostered.alice, rostered.bob, threshold=1, before=rostered.roster, keeps_approvals=True)
    bench.propose_roster(keeping, key=rostered.alice)
    bench.sign_roster(keeping, key=rostered.bob)
    bench.keys(driver, ticket)
    ending = bench.roster(rostered.alice, threshold=1, before=keeping)
    bench.propose_roster(ending, key=rostered.alice)
    with pytest.raises(RefusedError) as refusal:
        bench.keys(driver, ticket)
    assert names(refusal) == {"roster"}


# --- edits of the database -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        """UPDATE approvals SET public = replace(public, '"dataset":"trips"', '"dataset":"other"')""",
        "UPDATE rosters SET public = replace(public, '\"number\":1', '\"number\":2')",
        "DELETE FROM rosters",
        "UPDATE signatures SET signer = subject",
        "UPDATE approval_uses SET public = replace(public, '\"runs\":1', '\"runs\":0')",
        "UPDATE approval_uses SET public = replace(public, '\"executors\":1', '\"executors\":0')",
        "DELETE FROM approval_uses",
    ],
)
def test_an_edited_row_makes_its_approval_unusable_and_never_free(rostered: Rostered, statement: str) -> None:
    bench = rostered.bench
    rostered.approve(max_runs=5, max_executors_total=2)
    driver, ticket = Tee(), bench.ticket()
    bench.open(driver, ticket)
    bench.join(Tee(number=1), driver, ticket)
    edit(bench, statement)
    with pytest.raises(IntegrityError):
        bench.open(Tee(number=2), bench.ticket())


def test_counters_that_were_put_back_are_noticed(rostered: Rostered) -> None:
    bench = rostered.bench
    rostered.approve(max_runs=5, max_executors_total=2)
    driver, ticket = Tee(), bench.ticket()
    bench.open(driver, ticket)
    copy = "SELECT approval, public, sealed FROM approval_uses"
    bench.store.close()
    with contextlib.closing(sqlite3.connect(bench.database)) as connection:
        earlier = connection.execute(copy).fetchall()
    bench.start()
    bench.join(Tee(number=1), driver, ticket)
    bench.store.close()
    with contextlib.closing(sqlite3.connect(bench.database)) as connection, connection:
        for approval, public, sealed in earlier:  # genuine rows, of an earlier moment
            change = "UPDATE approval_uses SET public = ?, sealed = ? WHERE approval = ?"
            assert connection.execute(change, (public, sealed, approval)).rowcount == 1
    bench.start()
    with pytest.raises(IntegrityError, match="more or less often"):
        bench.join(Tee(number=2), driver, ticket)


def test_a_roster_that_was_taken_out_of_the_database_does_not_bring_the_earlier_one_back(rostered: Rostered) -> None:
    bench = rostered.bench
    second = bench.roster(rostered.carol, threshold=1, before=rostered.roster)
    bench.propose_roster(second, key=rostered.alice)
    bench.sign_roster(second, key=rostered.bob)
    edit(bench, "DELETE FROM rosters WHERE number = 2")
    with pytest.raises(IntegrityError, match="other rosters than the log says"):
        bench.propose(rostered.approval(), key=rostered.alice)


def test_a_revocation_that_was_taken_out_of_the_database_still_counts(rostered: Rostered) -> None:
    bench = rostered.bench
    approval = rostered.approve()
    bench.revoke(id_of(approval), key=rostered.alice)
    edit(bench, "DELETE FROM revocations")
    with pytest.raises(IntegrityError, match="not what the log says"):
        bench.open(Tee(), bench.ticket())


# --- limits ----------------------------------------------------------------------------------------------------------


def test_an_approval_is_not_valid_before_its_time(bench: KeyBench) -> None:
    bench.prepare(not_before="2026-03-01T12:00:30Z")
    with pytest.raises(RefusedError) as refusal:
        bench.open(Tee(), bench.ticket())
    assert names(refusal) == {"time"}
    assert "12:00:30" not in shown(refusal)
    bench.clock.advance(seconds=31)
    bench.open(Tee(), bench.ticket())


def test_what_has_expired_stays_expired_when_the_clock_goes_back(bench: KeyBench) -> None:
    bench.prepare(not_after="2026-03-01T12:00:30Z", max_runs=5)
    driver, ticket = Tee(), bench.ticket()
    bench.open(driver, ticket)
    bench.clock.advance(seconds=31)
    with pytest.raises(RefusedError):  # a leaf of the log says so, and when
        bench.open(Tee(number=1), bench.ticket())
    bench.clock.advance(seconds=-31)
    with pytest.raises(RefusedError) as refusal:
        bench.open(Tee(number=2), bench.ticket())
    assert names(refusal) == {"time"}
    with pytest.raises(RefusedError) as refusal:
        bench.keys(driver, ticket)
    assert names(refusal) == {"time"}


def test_a_run_gets_nothing_more_after_its_longest_duration(bench: KeyBench) -> None:
    bench.prepare(max_duration_s=60)
    driver, ticket = Tee(), bench.ticket()
    bench.open(driver, ticket)
    bench.clock.advance(seconds=60)
    bench.keys(driver, ticket)
    bench.clock.advance(seconds=1)
    for attempt in (
        lambda: bench.keys(driver, ticket),
        lambda: bench.renew(driver, ticket),
        lambda: bench.join(Tee(number=1), driver, ticket),
        lambda: bench.close(driver, ticket),
    ):
        with pytest.raises(RefusedError) as refusal:
            attempt()
        assert names(refusal) == {"duration"}
    assert bench.close(driver, ticket, outcome="failed").outcome == "failed"


def test_refuses_more_executors_than_an_approval_allows_in_a_run(bench: KeyBench) -> None:
    bench.prepare(max_executors=1, max_runs=2)
    for number in (0, 2):
        driver, ticket = Tee(number=number), bench.ticket()
        bench.open(driver, ticket)
        bench.join(Tee(number=number + 1), driver, ticket)
        with pytest.raises(RefusedError) as refusal:
            bench.join(Tee(number=4), driver, ticket)
        assert names(refusal) == {"executors"}


def test_refuses_more_executors_than_an_approval_allows_over_all_runs(bench: KeyBench) -> None:
    bench.prepare(max_executors_total=1, max_runs=3)
    first, second = Tee(), Tee(number=1)
    tickets = bench.ticket(), bench.ticket()
    bench.open(first, tickets[0])
    bench.open(second, tickets[1])
    bench.join(Tee(number=2), first, tickets[0])
    with pytest.raises(RefusedError) as refusal:
        bench.join(Tee(number=3), second, tickets[1])
    assert names(refusal) == {"executors"}
    with pytest.raises(RefusedError) as refusal:  # a run without executors computes nothing
        bench.open(Tee(number=4), bench.ticket())
    assert names(refusal) == {"executors"}


@pytest.mark.parametrize("asked", [1, 2, 3])
def test_reads_only_the_newest_version_of_the_approved_range(bench: KeyBench, asked: int) -> None:
    for name in ("trips", "report"):
        bench.create_dataset(name)
    for base in (None, 1, 2):
        bench.import_version("trips", base=base)
    bench.approve("report", "write")
    bench.approve("trips", "read", versions=InputVersions(first=1, last=2))
    ticket = bench.ticket(datasets={"trips": asked, "report": None})
    if asked == 2:
        assert bench.version(bench.open(Tee(), ticket).versions["trips"]).number == asked
        return
    with pytest.raises((RefusedError, ConflictError)) as refusal:
        bench.open(Tee(), ticket)
    assert names(refusal) == {"input trips" if asked == 3 else "version of trips"}
    assert "1 to 2" not in shown(refusal)


def test_reads_only_versions_of_the_approved_writers(bench: KeyBench) -> None:
    bench.prepare(max_runs=5)
    driver, ticket = Tee(), bench.ticket()
    write = bench.secrets(driver, bench.open(driver, ticket)).writes["report"]
    bench.close(driver, ticket, commits=(bench.commit(write.write_id),))
    bench.import_version("report", base=1)
    reader = bench.description(datasets={"report": bench.binding("read")})
    owner = f"owner:{bench.owner.verifying_key.thumbprint}"

    def read(number: int) -> None:
        ticket = bench.ticket(application=reader.digest, datasets={"report": number})
        bench.open(Tee(number=number), ticket, application=reader.digest)

    writers = (f"application:{bench.description().digest}",)
    approval = bench.approve("report", "read", description=reader, writers=writers, max_runs=5)
    with pytest.raises(RefusedError) as refusal:
        read(2)
    assert names(refusal) == {"input report"}
    read(1)  # the newest by this writer
    bench.revoke(approval)
    bench.approve("report", "read", description=reader, writers=(owner,), max_runs=5)
    with pytest.raises(RefusedError):
        read(1)
    read(2)


# --- races -----------------------------------------------------------------------------------------------------------


def at_once(attempts: list[Callable[[], object]]) -> list[StrongroomError | None]:
    """Do everything at the same time; return how each ended."""
    barrier = threading.Barrier(len(attempts))

    def end_of(attempt: Callable[[], object]) -> StrongroomError | None:
        barrier.wait()
        try:
            attempt()
        except StrongroomError as error:
            return error
        return None

    with ThreadPoolExecutor(max_workers=len(attempts)) as pool:
        return list(pool.map(end_of, attempts))


def opening(bench: KeyBench, tee: Tee, ticket: str) -> Callable[[], object]:
    call = bench.tee_call(bench.join_request(tee, ticket))
    return lambda: bench.runs.open(call)


def test_of_many_drivers_at_once_only_one_gets_the_only_run(bench: KeyBench) -> None:
    bench.prepare(max_runs=1)
    ends = at_once([opening(bench, Tee(), bench.ticket()) for _ in range(MANY)])
    assert ends.count(None) == 1
    assert all(isinstance(end, RefusedError) for end in ends if end is not None)
    assert bench.events().count("run-opened") == 1


def test_of_many_drivers_at_once_only_one_opens_a_ticket(bench: KeyBench) -> None:
    bench.prepare(max_runs=MANY)
    ticket = bench.ticket()
    ends = at_once([opening(bench, Tee(), ticket) for _ in range(MANY)])
    assert ends.count(None) == 1
    assert all(isinstance(end, ConflictError) for end in ends if end is not None)


def test_of_many_executors_at_once_only_as_many_join_as_are_approved_over_all_runs(bench: KeyBench) -> None:
    bench.prepare(max_runs=2, max_executors_total=3)
    drivers = [(Tee(), bench.ticket(max_executors=MANY)), (Tee(number=1), bench.ticket(max_executors=MANY))]
    for driver, ticket in drivers:
        bench.open(driver, ticket)
    attempts: list[Callable[[], object]] = []
    for number in range(MANY // 2):
        driver, ticket = drivers[number % 2]
        request = bench.join_request(Tee(number=2 + number), ticket, role="executor", driver_key=driver.thumbprint)
        call = bench.tee_call(request, run=run_of(ticket))
        attempts.append(lambda call=call: bench.runs.join(call))  # type: ignore[misc]
    assert at_once(attempts).count(None) == 3


def test_of_many_signatures_at_once_each_counts_once(rostered: Rostered) -> None:
    bench, approval = rostered.bench, rostered.approval()
    bench.propose(approval, key=rostered.alice)
    people = [rostered.bob, rostered.carol] * 3
    ends = at_once([lambda key=key: bench.sign(approval, key=key) for key in people])  # type: ignore[misc]
    assert ends.count(None) == 2
    assert bench.events().count("approval-signed") == 2


# --- revocation ------------------------------------------------------------------------------------------------------


def test_one_signer_revokes_and_a_running_run_gets_nothing_more(rostered: Rostered) -> None:
    bench, approval = rostered.bench, rostered.approve()
    driver, ticket = Tee(), bench.ticket()
    write = bench.secrets(driver, bench.open(driver, ticket)).writes["report"]
    bench.renew(driver, ticket)
    bench.revoke(id_of(approval), key=rostered.carol, reason="Bob was coerced")
    by, at = rostered.carol.verifying_key.thumbprint, "2026-03-01T12:00:00Z"
    for attempt in (
        lambda: bench.renew(driver, ticket),
        lambda: bench.keys(driver, ticket),
        lambda: bench.join(Tee(number=1), driver, ticket),
        lambda: bench.close(driver, ticket, commits=(bench.commit(write.write_id),)),
    ):
        with pytest.raises(RefusedError, match="nothing more is released") as refusal:
            attempt()
        assert f"{id_of(approval)} was revoked by {by} at {at}" in refusal.value.message
        assert "coerced" not in shown(refusal)
    with bench.store.transaction() as tx:
        assert tx.head("report") is None
        assert len(tx.members(run_of(ticket))) == 1
    assert bench.close(driver, ticket, outcome="failed").outcome == "failed"


@pytest.mark.parametrize("who", ["stranger", "member of another dataset's roster", "another owner"])
def test_nobody_else_revokes(rostered: Rostered, who: str) -> None:
    bench, approval = rostered.bench, rostered.approve()
    key = SigningKey.generate("ES256")
    if who == "another owner":
        bench.other_owners = (key,)
        bench.restart()
    elif who != "stranger":
        bench.propose_roster(bench.roster(key, threshold=1, dataset="report", keeps_approvals=True))
    with pytest.raises((AuthenticationError, RefusedError, NotFoundError)):
        bench.revoke(id_of(approval), key=key)
    bench.open(Tee(), bench.ticket())


def test_what_was_revoked_is_not_signed_into_life_again(rostered: Rostered) -> None:
    bench, approval = rostered.bench, rostered.approval()
    bench.propose(approval, key=rostered.alice)
    bench.revoke(id_of(approval), key=rostered.alice)
    with pytest.raises(ConflictError, match="revoked"):
        bench.sign(approval, key=rostered.bob)
    with pytest.raises(ConflictError):
        bench.propose(approval, key=rostered.bob)


def test_a_renewal_is_for_this_run_and_made_just_now(bench: KeyBench) -> None:
    bench.prepare()
    driver, ticket = Tee(), bench.ticket()
    bench.open(driver, ticket)
    assert bench.renew(driver, ticket, nonce="a" * 64).nonce == "a" * 64
    with pytest.raises(VerificationError):
        bench.renew(driver, ticket, run="f" * 64)
    with pytest.raises(RefusedError):
        bench.renew(driver, ticket, issued_at="2026-03-01T11:00:00Z")
    with pytest.raises(VerificationError):
        bench.renew(Tee(number=1), ticket)
    bench.close(driver, ticket)
    with pytest.raises(RefusedError, match="closed"):
        bench.renew(driver, ticket)


# --- who learns why --------------------------------------------------------------------------------------------------


def test_the_refused_sees_what_is_his_own_and_the_owner_sees_everything(bench: KeyBench) -> None:
    read, _ = bench.prepare(not_after="2026-03-01T12:00:30Z", evidence_policy_hash="B" * 43)
    bench.clock.advance(seconds=31)
    ticket = bench.ticket()
    with pytest.raises(RefusedError) as refusal:
        bench.open(Tee(), ticket)
    assert names(refusal) == {"time", "x-ms-policy-hash"}
    assert "B" * 43 not in shown(refusal)
    assert "12:00:30" not in shown(refusal)
    told = {each["approval"]: each for each in bench.why(run=run_of(ticket))}[read]
    found = {each["name"]: (each["expected"], each["actual"]) for each in told["differences"]}
    assert found["time"] == ("at most the approval's 2026-03-01T12:00:30Z", "2026-03-01T12:00:31Z")
    assert found["x-ms-policy-hash"][0] == f'"{"B" * 43}"'
    assert told["run"] == run_of(ticket)


def test_a_leaf_about_a_refusal_has_names_only(bench: KeyBench) -> None:
    bench.prepare(evidence_policy_hash="B" * 43, max_runs=7)
    with pytest.raises(RefusedError):
        bench.open(Tee(), bench.ticket())
    with bench.store.transaction() as tx:
        leaf = tx.leaves(0, 1000)[-1]
    assert parse_json_object(leaf)["mismatches"] == ["x-ms-policy-hash"]
    assert "B" * 43 not in leaf
    bench.store.close()
    with contextlib.closing(sqlite3.connect(bench.database)) as connection:
        rows = connection.execute("SELECT public, sealed FROM refusals").fetchall()
    assert rows
    for public, sealed in rows:
        assert "B" * 43 not in public
        assert b"B" * 43 not in sealed
    bench.start()


def test_an_edited_explanation_is_noticed(bench: KeyBench) -> None:
    bench.prepare(evidence_policy_hash="B" * 43)
    with pytest.raises(RefusedError):
        bench.open(Tee(), bench.ticket())
    edit(bench, "UPDATE refusals SET part = part + 10")
    with pytest.raises(IntegrityError):
        bench.why()


def test_a_stranger_learns_nothing_from_asking_why(bench: KeyBench) -> None:
    bench.prepare(evidence_policy_hash="B" * 43)
    ticket = bench.ticket()
    with pytest.raises(RefusedError):
        bench.open(Tee(), ticket)
    for key in (SigningKey.generate("ES256"), bench.submitter):
        with pytest.raises(AuthenticationError):
            bench.why(key=key, run=run_of(ticket))


def test_another_owner_learns_nothing_from_asking_why(bench: KeyBench) -> None:
    other = SigningKey.generate("ES256")
    bench.other_owners = (other,)
    bench.restart()
    bench.prepare(evidence_policy_hash="B" * 43)
    ticket = bench.ticket()
    with pytest.raises(RefusedError):
        bench.open(Tee(), ticket)
    assert bench.why(key=other) == []
    assert bench.why(key=other, run=run_of(ticket)) == []
    assert parse_json_object(bench.leases.leases(bench.person(key=other)).body) == {"leases": [], "runs": []}


def test_a_member_of_one_datasets_roster_learns_of_no_other_dataset(rostered: Rostered) -> None:
    bench = rostered.bench
    rostered.approve()
    bench.approve("report", "write", evidence_policy_hash="B" * 43, max_runs=9, description=bench.description())
    for each in parse_json_object(bench.approvals.approvals(bench.person()).body)["approvals"]:
        if each["dataset"] == "report" and each["max_runs"] == 100:
            bench.revoke(each["approval"])
    with pytest.raises(RefusedError):
        bench.open(Tee(), bench.ticket())
    assert {each["dataset"] for each in bench.why()} == {"report"}
    assert bench.why(key=rostered.alice) == []
    seen = parse_json_object(bench.approvals.approvals(bench.person(key=rostered.alice)).body)["approvals"]
    assert {each["dataset"] for each in seen} == {"trips"}


def test_asking_for_a_run_does_not_tell_whether_anything_was_approved(bench: KeyBench) -> None:
    bench.prepare()
    stranger = SigningKey.generate("ES256")
    with pytest.raises(RefusedError) as approved:
        bench.open(Tee(), bench.ticket(signer=stranger))
    other = bench.description(arguments=("something else",)).digest
    with pytest.raises(RefusedError) as unknown:
        bench.open(Tee(number=1), bench.ticket(signer=stranger, application=other), application=other)
    said = shown(approved).replace(bench.description().digest, other)
    assert said == shown(unknown)
    assert {each["approval"] for each in bench.why()} - {None}, "the owner sees which approvals there were"


def test_a_submitter_learns_of_no_approval_that_names_another_one(bench: KeyBench) -> None:
    bench.prepare(not_after="2026-03-01T12:00:30Z")
    other = SigningKey.generate("ES256").verifying_key.thumbprint
    bench.approve("trips", "read", submitters=(other,), max_runs=33, purpose="a secret study")
    bench.open(Tee(), bench.ticket())
    bench.clock.advance(seconds=31)
    with pytest.raises(RefusedError) as refusal:
        bench.open(Tee(number=1), bench.ticket())
    assert names(refusal) == {"runs", "time"}, "of the one that names him, though another one lacks less"
    for secret in (other, "33", "secret study"):
        assert secret not in shown(refusal)


def test_a_refusal_that_repeats_in_a_run_is_kept_once(bench: KeyBench) -> None:
    read, _ = bench.prepare()
    driver, ticket = Tee(), bench.ticket()
    bench.open(driver, ticket)
    bench.revoke(read)
    for _ in range(3):
        with pytest.raises(RefusedError):
            bench.renew(driver, ticket)
    assert bench.events().count("refused") == 1
    assert [each["approval"] for each in bench.why(run=run_of(ticket))] == [read]
