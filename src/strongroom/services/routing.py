"""Finding what answers a request without comparing its path with every address that a service has.

The key service has a hundred addresses, and its busiest ones would be compared last.
"""

from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

from starlette.routing import BaseRoute, Match, Route, Router
from starlette.types import Receive, Scope, Send
from typing_extensions import override

_Shape: TypeAlias = tuple[int, str]
"""How many slashes a path has, and what comes after the last one; "{" for anything."""
_ANY: Final = "{"


class ShapedRouter(Router):
    """A router that looks first at the routes whose paths can be alike: as many slashes, the same last part.

    What it finds is what trying all of them in their order would find; where it finds nothing, all are tried.

    Args:
        routes: The routes. Without another convertor than the default one, a parameter holds no slash.
    """

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        super().__init__(routes=routes, redirect_slashes=False)
        places = {_shape_of(route) for route in routes}
        lasts = {last for _, last in filter(None, places)}
        counts = {count for count, _ in filter(None, places)}
        self._shaped = {
            (count, last): tuple(_fitting(routes, count=count, last=last)) for count in counts for last in lasts
        }

    @override
    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http":
            path = scope["path"]
            count, last = path.count("/"), path.rpartition("/")[2]
            for route in self._shaped.get((count, last)) or self._shaped.get((count, _ANY), ()):
                match, found = route.matches(scope)
                if match is Match.FULL:
                    scope.update(found, router=self, route=route)
                    await route.handle(scope, receive, send)
                    return
        await super().app(scope, receive, send)


def _shape_of(route: BaseRoute) -> _Shape | None:
    """Return the shape of a route's paths; None where they have several."""
    if not isinstance(route, Route) or ":path}" in route.path:
        return None
    last = route.path.rpartition("/")[2]
    return route.path.count("/"), _ANY if "{" in last else last


def _fitting(routes: Iterable[BaseRoute], *, count: int, last: str) -> Iterable[BaseRoute]:
    for route in routes:
        shape = _shape_of(route)
        if shape is None or (shape[0] == count and shape[1] in {_ANY, last}):
            yield route
