"""Who stands in a roster that holds: known to the key service without standing in its configuration."""

import threading

from strongroom.base.clock import Clock
from strongroom.crypto.jose import unverified_payload
from strongroom.keys.store import Transaction
from strongroom.keys.store.rosters import count_rosters, newest_rosters
from strongroom.policy.roster import Roster
from strongroom.services.people import People, Person, Role
from strongroom.services.sign_in import TokenIssuers


class RosterMembers:
    """The members of all rosters that hold. Threads may share it.

    Anybody can make the service ask who he is; so all rosters are read when there is another one, and not for each
    call. Rosters only come, and each ends the one before it: whoever is in none any more is unknown at once. To be
    known is to have a name: whether somebody answers for a dataset is asked of that dataset's rosters, read anew each
    time.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: tuple[int, People] | None = None

    def read(self, tx: Transaction, *, audience: str, issuers: TokenIssuers, clock: Clock) -> People:
        """Return the members, each with the key that the roster names.

        Args:
            tx: A transaction.
            audience: The service's identity, which their tokens must name.
            issuers: Whose sign-in is believed.
            clock: For the validity of tokens.

        Raises:
            IntegrityError: A roster was edited.
        """
        count = count_rosters(tx)
        with self._lock:
            known = self._known
        if known is None or known[0] != count:
            rosters = [roster_in(record.signed.statement) for record in newest_rosters(tx)]
            keys = {thumbprint: key for roster in rosters for thumbprint, key in roster.keys.items()}
            members = [
                Person(identity=each, name=f"member-{each[:12]}", roles=frozenset({Role.APPROVER}), key=key)
                for each, key in keys.items()
            ]
            known = count, People(members, audience=audience, issuers=issuers, clock=clock)
            with self._lock:
                self._known = known
        return known[1]


def roster_in(statement: str) -> Roster:
    """Return the roster in a stored statement."""
    return Roster.from_json(unverified_payload(statement))
