"""The chart's values without Helm: the schema is strict and complete, and templates use exactly what it names."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from strongroom.cli.generated_chart import CHART, chart_files, defaults

# `$values` and `.` stand for a service's own values in these templates; which ones, the callers say.
OF_SERVICES = ("attestationService", "keyService", "collateralService")
USE = re.compile(r"\.Values\.([A-Za-z]+(?:\.[A-Za-z]+)*)")
LOCAL = re.compile(r"\$(values|attestation|keys|collateral)\.([A-Za-z]+(?:\.[A-Za-z]+)*)")


@pytest.fixture(scope="module")
def schema(repo_root: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((repo_root / CHART / "values.schema.json").read_text())
    return found


@pytest.fixture(scope="module")
def templates(repo_root: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (repo_root / CHART / "templates").iterdir()}


def objects(schema: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every place of a schema that describes an object with members of its own."""
    if "properties" in schema:
        yield path, schema
    for name, member in schema.items():
        if isinstance(member, dict):
            yield from objects(member, f"{path}.{name}")


def places(schema: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Yield every value's dotted path; groups of values too."""
    for name, member in schema["properties"].items():
        place = f"{path}.{name}" if path else name
        yield place
        if "default" not in member:
            yield from places(member, place)


def test_an_unknown_value_is_refused_everywhere(schema: dict[str, Any]) -> None:
    found = dict(objects(schema))
    assert len(found) > 15
    assert [path for path, each in found.items() if each.get("additionalProperties") is not False] == []


def test_every_value_says_what_it_is_and_what_it_is_without_a_word(schema: dict[str, Any]) -> None:
    def incomplete(members: Mapping[str, Any], path: str) -> Iterator[str]:
        for name, member in members.items():
            if not member.get("description", "").endswith("."):
                yield f"{path}{name}: no description"
            if "default" not in member:
                yield from incomplete(member["properties"], f"{path}{name}.")

    assert list(incomplete(schema["properties"], "")) == []


def test_templates_use_only_values_that_there_are(schema: dict[str, Any], templates: dict[str, str]) -> None:
    known = set(places(schema))
    used = {match[1] for text in templates.values() for match in USE.finditer(text)}
    assert used <= known
    of_services = {place.partition(".")[2] for place in known if place.startswith(OF_SERVICES)}
    of_services |= {place.partition(".")[2] for place in known if place.startswith("simulatedPlatform")}
    local = {match[2] for text in templates.values() for match in LOCAL.finditer(text)}
    assert local <= of_services


def test_every_value_is_used(schema: dict[str, Any], templates: dict[str, str]) -> None:
    text = "\n".join(templates.values())
    leaves = {place for place in places(schema) if not any(other.startswith(f"{place}.") for other in places(schema))}
    assert {place for place in leaves if not re.search(rf"\.{place.rpartition('.')[2]}\b", text)} == set()


def test_what_is_written_in_yaml_is_the_schemas_defaults(repo_root: Path, schema: dict[str, Any]) -> None:
    written = (repo_root / CHART / "values.yaml").read_text()
    assert written == chart_files(repo_root)[CHART / "values.yaml"]
    assert set(defaults(schema)) == {line.partition(":")[0] for line in written.splitlines() if line[:1].isalpha()}


def test_the_page_lists_every_value(repo_root: Path, schema: dict[str, Any]) -> None:
    page = (repo_root / CHART / "README.md").read_text()
    leaves = [place for place in places(schema) if not any(other.startswith(f"{place}.") for other in places(schema))]
    assert [place for place in leaves if f"| `{place}` |" not in page] == []


def test_no_template_names_a_secrets_content(templates: dict[str, str]) -> None:
    """Secrets are made by their owner and named; the chart makes none."""
    for name, text in templates.items():
        assert "kind: Secret" not in text, name
        assert "stringData" not in text, name
        assert "b64enc" not in text, name
