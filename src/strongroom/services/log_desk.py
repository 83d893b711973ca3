"""What anybody may read of the log: checkpoints, proofs; and what only auditors read: its leaves."""

from typing import Final

from starlette.routing import BaseRoute

from strongroom.base.errors import NotFoundError
from strongroom.services.errors import Reply, strongroom_error
from strongroom.services.http import Call, Handler, endpoint, json_reply, text_reply
from strongroom.services.key_desk import KeyDesk
from strongroom.services.people import Role
from strongroom.services.runs import PREFIX

_MAX_LEAVES: Final = 1000


class LogDesk:
    """The part of the key service that shows its log."""

    def __init__(self, desk: KeyDesk) -> None:
        self._desk = desk

    def routes(self) -> list[BaseRoute]:
        """Return the endpoints."""
        handlers: dict[str, Handler] = {
            "/log/checkpoint": self.checkpoint,
            "/log/witnessed": self.witnessed,
            "/log/leaves": self.leaves,
            "/log/inclusion": self.inclusion,
            "/log/consistency": self.consistency,
        }
        return [endpoint(PREFIX + path, handler, errors=strongroom_error) for path, handler in handlers.items()]

    def checkpoint(self, _call: Call) -> Reply:
        """Answer with the newest checkpoint, a signed note."""
        return text_reply(self._desk.store.checkpoint())

    def witnessed(self, _call: Call) -> Reply:
        """Answer with the newest checkpoint that witnesses cosigned, with their signatures."""
        note = self._desk.witnesses.newest() if self._desk.witnesses else None
        if note is None:
            raise NotFoundError(
                "no witness has cosigned this log",
                action="Configure witnesses of the key service's log, or see in its own log why they do not sign.",
            )
        return text_reply(note)

    def leaves(self, call: Call) -> Reply:
        """List leaves; they say who runs what on whose data, so only auditors read them."""
        self._desk.person(call, role=Role.AUDITOR)
        start, end = call.number("start"), call.number("end")
        with self._desk.store.reading() as tx:
            return json_reply({"leaves": list(tx.leaves(start, min(end, start + _MAX_LEAVES)))})

    def inclusion(self, call: Call) -> Reply:
        """Answer with an inclusion proof."""
        path = self._desk.store.inclusion(call.number("index"), call.number("size"))
        return json_reply({"path": [node.hex() for node in path]})

    def consistency(self, call: Call) -> Reply:
        """Answer with a consistency proof."""
        path = self._desk.store.consistency(call.number("first"), call.number("second"))
        return json_reply({"path": [node.hex() for node in path]})
