"""Bit fields of hardware reports: a name for each position."""

from collections.abc import Mapping


def read_bits(value: int, positions: Mapping[str, int]) -> dict[str, bool]:
    """Return whether each named bit of a value is set."""
    return {name: bool(value >> position & 1) for name, position in positions.items()}


def write_bits(fields: object, positions: Mapping[str, int]) -> int:
    """Return the value in which exactly those bits are set whose names are true in an object."""
    return sum(1 << position for name, position in positions.items() if getattr(fields, name))
