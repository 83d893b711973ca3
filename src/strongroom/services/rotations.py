"""Rotations of identities, as the key service takes and logs them: its own, and its owners'."""

from starlette.routing import BaseRoute

from strongroom.base.errors import ConflictError, RefusedError
from strongroom.keys.store.rotations import RotationRecord, add_rotation, rotation_of
from strongroom.log.rotation import EVENT, read_rotation, rotation_leaf
from strongroom.services.errors import Reply, strongroom_error
from strongroom.services.http import Call, endpoint, json_reply
from strongroom.services.key_desk import KeyDesk
from strongroom.services.people import Role
from strongroom.services.runs import PREFIX
from strongroom.wire.rotation import LoggedRotation, RotationRequest


class RotationDesk:
    """The part of the key service that logs rotations."""

    def __init__(self, desk: KeyDesk) -> None:
        self._desk = desk

    def routes(self) -> list[BaseRoute]:
        """Return the endpoints."""
        return [endpoint(f"{PREFIX}/rotations", self.rotate, methods=("POST",), errors=strongroom_error)]

    def rotate(self, call: Call) -> Reply:
        """Log that an identity was replaced; answer with the proof.

        It takes effect where the identity is configured: of the service at its next start, of an owner when the new key
        is configured. Until then the old one goes on.
        """
        person = self._desk.person(call, role=Role.OWNER)
        token = RotationRequest.from_json(call.body).statement
        rotation, now = read_rotation(token), self._desk.clock.now()
        own = self._desk.identity.identity if rotation.kind == "key-service" else person
        if rotation.old != own:
            raise RefusedError(
                "the rotation is not of this key service's identity, or not of the key that asks for it",
                action="Sign it with the key that is to be replaced.",
            )
        with self._desk.store.transaction() as tx:
            if rotation_of(tx, rotation.old) is not None or rotation_of(tx, rotation.new) is not None:
                raise ConflictError(
                    "one of these identities was replaced before",
                    action="Use the rotation that is in the log: strongroom log show --event identity-rotated",
                )
            add_rotation(tx, rotation.old, RotationRecord(new=rotation.new, statement=token))
            leaf = tx.append_leaf(EVENT, now=now, what={**rotation_leaf(rotation, token), "owner": person})
        (proof,) = self._desk.prove_witnessed([leaf])
        return json_reply(LoggedRotation(statement=token, proof=proof).model_dump(mode="json"), status=201)
