"""What anybody may ask before signing in, and what whoever did may ask about himself."""

from starlette.routing import BaseRoute

from strongroom.services.errors import Reply, strongroom_error
from strongroom.services.http import Call, endpoint, json_reply
from strongroom.services.people import People, Role
from strongroom.wire.sign_in import WhoYouAre

_PREFIX = "/strongroom/v1"


class SignInDesk:
    """The part of a service that says how people sign in, and who they are here.

    Args:
        people: Everybody whom the service knows.
    """

    def __init__(self, people: People) -> None:
        self._people = people

    def routes(self) -> list[BaseRoute]:
        """Return the endpoints."""
        return [
            endpoint(f"{_PREFIX}/sign-in", self.offer, errors=strongroom_error),
            endpoint(f"{_PREFIX}/me", self.me, errors=strongroom_error),
        ]

    def offer(self, _call: Call) -> Reply:
        """Answer with the issuers at which people may sign in; open."""
        return json_reply(self._people.issuers.offer())

    def me(self, call: Call) -> Reply:
        """Answer with the caller's name and roles; for everybody with any role."""
        person = self._people.caller(call, *Role)
        return json_reply(
            WhoYouAre(
                name=person.name,
                identity=person.identity,
                roles=tuple(sorted(person.roles)),
                key=person.key.thumbprint if person.key else None,
            )
        )
