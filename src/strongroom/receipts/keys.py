"""Which keys a run had, by their ids, as its log leaves say."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from strongroom.base.errors import FormatError


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasedKeyIds:
    """The keys of one dataset that the members of a run had.

    Attributes:
        write_ids: The write keys, by the id of their write, sorted.
        keks: The versions of the dataset's KEK that they are wrapped under, sorted; empty in logs of version 1's runs.
    """

    write_ids: tuple[str, ...]
    keks: tuple[str, ...]


def released_key_ids(leaves: Iterable[Mapping[str, Any]]) -> dict[str, ReleasedKeyIds]:
    """Return what a run's leaves say of keys, by dataset: those made when it opened, and those released later.

    Raises:
        FormatError: A leaf is malformed.
    """
    write_ids: dict[str, set[str]] = {}
    keks: dict[str, set[str]] = {}
    for leaf in leaves:
        for name, made in _mapping(leaf.get("writes")).items():
            write_ids.setdefault(name, set()).add(str(_mapping(made).get("write_id")))
            keks.setdefault(name, set()).update(_texts(_mapping(made).get("keks", [])))
        for name, released in _mapping(leaf.get("datasets")).items():
            write_ids.setdefault(name, set()).update(_texts(_mapping(released).get("write_ids")))
            keks.setdefault(name, set()).update(_texts(_mapping(released).get("keks", [])))
    return {
        name: ReleasedKeyIds(write_ids=tuple(sorted(ids)), keks=tuple(sorted(keks[name])))
        for name, ids in sorted(write_ids.items())
    }


def _mapping(value: object) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise FormatError("a log entry of the run is malformed")
    return value


def _texts(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise FormatError("a log entry of the run is malformed")
    return value
