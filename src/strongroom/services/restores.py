"""After a restore from a backup: what waits for an owner's word, and that word, logged."""

from typing import Final

from starlette.routing import BaseRoute

from strongroom.base.errors import ConflictError, VerificationError
from strongroom.crypto.jose import unverified_header, verify_jws
from strongroom.keys.release import demand_fresh
from strongroom.services.errors import Reply, strongroom_error
from strongroom.services.http import Call, endpoint, json_reply
from strongroom.services.key_desk import KeyDesk
from strongroom.services.people import Role
from strongroom.services.runs import PREFIX
from strongroom.wire.restore import (
    RESTORE_ACCEPTANCE_TYP,
    PendingRestore,
    RestoreAcceptance,
    RestoreAcceptanceUpload,
)

PATH: Final = f"{PREFIX}/log/restore"


class RestoreDesk:
    """The part of the key service where owners accept restores."""

    def __init__(self, desk: KeyDesk) -> None:
        self._desk = desk

    def routes(self) -> list[BaseRoute]:
        """Return the endpoints."""
        return [
            endpoint(PATH, self.pending, errors=strongroom_error),
            endpoint(PATH, self.accept, methods=("POST",), errors=strongroom_error),
        ]

    def pending(self, call: Call) -> Reply:
        """Answer with the restore that waits for an owner."""
        self._desk.person(call)
        with self._desk.store.reading() as tx:
            restore = tx.log_state().restore
        with self._desk.store.log() as view:
            return json_reply(PendingRestore(restore=restore, log_size=view.size, checkpoint=view.note))

    def accept(self, call: Call) -> Reply:
        """Take an owner's signed word that the restore is meant; releases go on.

        1. An owner signed the statement, and it is for this service and fresh.
        2. It names the restore that waits, so that no statement serves twice.
        3. The log records it, whole.
        """
        self._desk.person(call)
        now, token = self._desk.clock.now(), RestoreAcceptanceUpload.from_json(call.body).statement
        owner, said = self._statement(token)  # 1
        demand_fresh(said.issued_at, now=now)
        with self._desk.store.transaction() as tx:
            if tx.log_state().restore != said.restore:  # 2
                raise ConflictError(
                    "no restore of that name waits for an owner",
                    action="Look again: strongroom key-service accept-restore",
                )
            tx.append_leaf(  # 3
                "restore-accepted",
                now=now,
                what={"restore": said.restore, "owner": owner, "lost_size": said.lost_size, "statement": token},
            )
        return json_reply({"restore": said.restore, "accepted": True})

    def _statement(self, token: str) -> tuple[str, RestoreAcceptance]:
        kid = unverified_header(token).get("kid")
        key = self._desk.people.keys(Role.OWNER).get(kid) if isinstance(kid, str) else None
        if key is None:
            raise VerificationError("the statement is not signed by an owner this key service knows")
        said = RestoreAcceptance.from_json(verify_jws(token, key=key, typ=RESTORE_ACCEPTANCE_TYP).payload)
        if said.key_service != self._desk.identity.identity:
            raise VerificationError("the statement is about another key service")
        return key.thumbprint, said
