"""What is generated of the chart, from its values' schema: the values with their comments, and the table of them."""

import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from strongroom.base.encoding import Json, parse_json_object
from strongroom.base.errors import ConfigurationError
from strongroom.cli.yaml_text import to_yaml

CHART: Final = Path("deploy/charts/strongroom")
_HEAD: Final = (
    "# Generated from values.schema.json (`strongroom dev generate`): edit the schema.\n"
    "# What is called the owner's word decides whom the services believe. `strongroom chart values` writes it, and\n"
    "# clients pin it: if it is changed here, they refuse the services until the owner pins the change.\n\n"
)
_TABLE: Final = re.compile(r"(<!-- values -->\n).*?(<!-- end of values -->\n)", re.DOTALL)
_WIDTH: Final = 116


def chart_files(root: Path) -> dict[Path, str]:
    """Return the chart's generated files, by their path in the source tree.

    Args:
        root: The source tree, whose schema and page are read.

    Raises:
        ConfigurationError: The page has no place for the table.
    """
    schema = parse_json_object((root / CHART / "values.schema.json").read_bytes())
    page = (root / CHART / "README.md").read_text(encoding="utf-8")
    if not _TABLE.search(page):
        raise ConfigurationError(f"{CHART / 'README.md'} has no place for the table of values", action="Restore it.")
    table = "".join(_rows(schema))
    return {
        CHART / "values.yaml": _HEAD + to_yaml(defaults(schema), comments=dict(_comments(schema))),
        CHART / "README.md": _TABLE.sub(lambda marks: f"{marks[1]}{table}{marks[2]}", page),
    }


def defaults(schema: Mapping[str, Any]) -> dict[str, Json]:
    """Return the defaults that a schema gives the members of an object, and those of their members."""
    return {
        name: member["default"] if "default" in member else defaults(member)
        for name, member in schema["properties"].items()
    }


def _members(schema: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, member in schema["properties"].items():
        place = f"{path}.{name}" if path else name
        yield place, member
        if "default" not in member:
            yield from _members(member, place)


def _comments(schema: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for place, member in _members(schema):
        yield place, textwrap.fill(member["description"], width=_WIDTH - 2 * place.count("."))


def _rows(schema: Mapping[str, Any]) -> Iterator[str]:
    yield "| value | default | what it is |\n|---|---|---|\n"
    for place, member in _members(schema):
        if "default" in member:
            default = json.dumps(member["default"])
            choice = f" One of {', '.join(f'`{each}`' for each in member['enum'])}." if "enum" in member else ""
            text = f"{member['description']}{choice}".replace("|", "\\|")
            yield f"| `{place}` | `{default}` | {text} |\n"
