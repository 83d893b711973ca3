"""Rotations of identities, as the key service logs and hands them out.

They are its owners', its own, and those of the attestation services that it believes.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from starlette.routing import BaseRoute

from strongroom.base.errors import ConflictError, RefusedError
from strongroom.crypto.keys import SigningKey
from strongroom.keys.store.rotations import RotationRecord, add_rotation, all_rotations, rotation_of
from strongroom.log.rotation import EVENT, read_rotation, rotation_leaf, sign_rotation
from strongroom.services.errors import Reply, strongroom_error
from strongroom.services.http import Call, endpoint, json_reply
from strongroom.services.key_desk import KeyDesk
from strongroom.services.people import Role
from strongroom.services.runs import PREFIX
from strongroom.wire.rotation import LoggedRotation, RotationRequest, Rotations

_MAX_LISTED: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnSuccessor:
    """How an attested service, whose keys nobody else can use, replaces its own identity.

    Attributes:
        prepare: Returns the key that is to take the identity's place, and its certificate (PEM).
        install: Puts it there, for the next start.
    """

    prepare: Callable[[datetime], tuple[SigningKey, str]]
    install: Callable[[], None]


class RotationDesk:
    """The part of the key service that logs rotations.

    Args:
        desk: What it works with.
        believed: The identities of the attestation services whose results the key service believes.
        successor: How it replaces its own identity; None where its operator has the key, and does that.
    """

    def __init__(self, desk: KeyDesk, *, believed: Collection[str], successor: OwnSuccessor | None) -> None:
        self._desk = desk
        self._believed = frozenset(believed)
        self._successor = successor

    def routes(self) -> list[BaseRoute]:
        """Return the endpoints."""
        return [
            endpoint(f"{PREFIX}/rotations", self.rotate, methods=("POST",), errors=strongroom_error),
            endpoint(f"{PREFIX}/rotations", self.logged, errors=strongroom_error),
            endpoint(f"{PREFIX}/identity/rotate", self.rotate_own, methods=("POST",), errors=strongroom_error),
        ]

    def rotate(self, call: Call) -> Reply:
        """Log that an identity was replaced; answer with the proof.

        It takes effect where the identity is configured: of a service at its next start, of an owner when the new key
        is configured. Until then the old one goes on.
        """
        person = self._desk.person(call, role=Role.OWNER)
        token = RotationRequest.from_json(call.body).statement
        rotation = read_rotation(token)
        own = {
            "attestation-service": self._believed,
            "key-service": {self._desk.identity.identity},
            "owner": {person},
        }[rotation.kind]
        if rotation.old not in own:
            raise RefusedError(
                "the rotation is not of this key service's identity, not of an attestation service that it believes, or"
                " not of the key that asks for it",
                action="Sign it with the key that is to be replaced.",
            )
        return self._log(token, person=person)

    def rotate_own(self, call: Call) -> Reply:
        """Replace the identity of an attested key service, which takes effect at its next start.

        1. An owner asks for it.
        2. The service makes the new key, sealed as all of its keys, and the old one signs that it follows.
        3. That is logged, and then the new key is put in the old one's place; `finish_rotation` goes on after a crash.
        """
        person = self._desk.person(call, role=Role.OWNER)  # 1
        if self._successor is None:
            raise ConflictError(
                "this key service is run by its owner, who has its identity key",
                action="Replace it where the service runs: strongroom identity rotate key-service",
            )
        now, old = self._desk.clock.now(), self._desk.identity
        new, certificate_pem = self._successor.prepare(now)  # 2
        token = sign_rotation("key-service", old=old.key, new=new, certificate_pem=certificate_pem, now=now)
        reply = self._log(token, person=person)  # 3
        self._successor.install()
        return reply

    def logged(self, call: Call) -> Reply:
        """Answer with all rotations, oldest first, each with its proof: what people hand to who pinned an old one."""
        self._desk.caller(call, Role.OWNER, Role.APPROVER, Role.SUBMITTER, Role.AUDITOR)
        with self._desk.store.reading() as tx:
            found = all_rotations(tx)[-_MAX_LISTED:]
        proofs = self._desk.prove_witnessed([each.leaf or 0 for each in found]) if found else ()
        rotations = tuple(
            LoggedRotation(statement=each.statement, proof=proof) for each, proof in zip(found, proofs, strict=True)
        )
        return json_reply(Rotations(rotations=rotations).model_dump(mode="json"))

    def _log(self, token: str, *, person: str) -> Reply:
        rotation, now = read_rotation(token), self._desk.clock.now()
        with self._desk.store.transaction() as tx:
            if rotation_of(tx, rotation.old) is not None or rotation_of(tx, rotation.new) is not None:
                raise ConflictError(
                    "one of these identities was replaced before",
                    action="Use the rotation that is in the log: strongroom log show --event identity-rotated",
                )
            leaf = tx.append_leaf(EVENT, now=now, what={**rotation_leaf(rotation, token), "owner": person})
            add_rotation(tx, rotation.old, RotationRecord(new=rotation.new, statement=token, leaf=leaf))
        (proof,) = self._desk.prove_witnessed([leaf])
        return json_reply(LoggedRotation(statement=token, proof=proof).model_dump(mode="json"), status=201)
