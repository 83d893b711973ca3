"""Names that people shorten: digests, run ids, approval ids."""

from collections.abc import Mapping
from typing import TypeVar

from strongroom.base.errors import ConflictError, NotFoundError

_Found = TypeVar("_Found")


def find_by_prefix(text: str, candidates: Mapping[str, _Found], what: str) -> _Found:
    """Return the one candidate whose name begins with a text.

    Args:
        text: A whole name or its beginning; a final "…", as tables print it, is ignored.
        candidates: What can be meant, by name.
        what: What they are, for the error.

    Raises:
        NotFoundError: None begins so.
        ConflictError: Several do.
    """
    wanted = text.removesuffix("…").lower()
    if wanted in candidates:
        return candidates[wanted]
    found = [name for name in candidates if wanted and name.startswith(wanted)]
    if not found:
        known = ", ".join(f"{name[:12]}…" for name in list(candidates)[:5]) or "none"
        raise NotFoundError(f"there is no {what} {text}", action=f"give the beginning of one that exists: {known}")
    if len(found) > 1:
        raise ConflictError(f"{text} is the beginning of {len(found)} {what}s", action="give more of its characters")
    return candidates[found[0]]
