import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
THREAT_MODEL = ROOT / "docs" / "threat-model.md"
PROMISES = 9
LINK = re.compile(r"\]\(([^)\s]+)\)")
TEST_NAME = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
MAKE_COMMAND = re.compile(r"(?:`|^\$ )make ([a-z-]+)", re.MULTILINE)


def promises() -> dict[int, str]:
    parts = re.split(r"^### (\d+)\. ", THREAT_MODEL.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {int(number): text.split("\n## ")[0] for number, text in zip(parts[1::2], parts[2::2], strict=True)}


def named_tests(text: str) -> Iterator[tuple[str, str | None]]:
    for match in TEST_NAME.finditer(text):
        yield match[1], match[2]


def functions_of(path: Path) -> set[str]:
    module = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(module) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def anchors_of(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        assert target.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in anchors_of(target), f"{page.name} links to {link}"


def test_every_promise_names_tests_or_says_not_yet() -> None:
    found = promises()

    assert list(found) == list(range(1, PROMISES + 1))
    for number, text in found.items():
        assert list(named_tests(text)) or "Not yet" in text, f"promise {number}"


def test_the_tests_that_the_threat_model_names_exist() -> None:
    for file, function in named_tests(THREAT_MODEL.read_text(encoding="utf-8")):
        assert (ROOT / file).is_file(), file
        assert function is None or function in functions_of(ROOT / file), f"{file}::{function}"


def test_the_threat_model_names_every_file_of_attacks() -> None:
    named = {file for text in promises().values() for file, _ in named_tests(text) if file.startswith("tests/attacks/")}

    assert named == {f"tests/attacks/{path.name}" for path in (ROOT / "tests" / "attacks").glob("test_*.py")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_make_targets_that_are_named_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))

    assert set(MAKE_COMMAND.findall(page.read_text(encoding="utf-8"))) <= targets


def test_strongroom_commands_that_are_named_exist() -> None:
    reference = (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    known = set(re.findall(r"^## strongroom ([a-z -]+)$", reference, flags=re.MULTILINE))
    groups = {name.split()[0] for name in known if " " in name}

    for page in PAGES:
        for words in re.findall(
            r"(?:`|^\$ )strongroom ([a-z-]+)(?: ([a-z-]+))?", page.read_text("utf-8"), re.MULTILINE
        ):
            command = " ".join(words).strip() if words[0] in groups else words[0]
            assert command in known, f"{page.name}: strongroom {command}"


def test_the_published_benchmark_is_complete_and_the_page_shows_the_same_numbers() -> None:
    folder = ROOT / "docs" / "benchmarks"
    page = (folder / "nyctaxi.md").read_text(encoding="utf-8")
    if "No figures are published yet" in page:
        assert [file.name for file in folder.iterdir()] == ["nyctaxi.md"]
        return
    published = json.loads((folder / "nyctaxi.json").read_text(encoding="utf-8"))

    assert set(published) == {"points", "attest_release_ms", "agent_mb", "service_mb"}
    assert set(published["attest_release_ms"]) == {"p50", "p95"}
    points = published["points"]
    assert {(point["application"], point["executors"]) for point in points} == {
        (application, executors) for application in ("count", "report") for executors in (1, 2, 3)
    }
    for point in points:
        ratio = point["protected_over_plain"]
        assert ratio == pytest.approx(point["protected_s"] / point["plain_s"], abs=0.001)
        assert f"| {point['application']} | {point['executors']} |" in page
        assert f"| {ratio:.3f} |" in page


def test_the_published_attestation_benchmark_is_complete_and_the_page_shows_the_same_numbers() -> None:
    folder = ROOT / "docs" / "benchmarks"
    page = (folder / "attestation.md").read_text(encoding="utf-8")
    if "No figures are published yet" in page:
        assert [file.name for file in folder.glob("attestation*")] == ["attestation.md"]
        return
    published = json.loads((folder / "attestation.json").read_text(encoding="utf-8"))

    assert (folder / "attestation.png").is_file()
    assert "Simulated hardware: the\ncost of verification is real, that of quoting is not measured." in page
    assert set(published["kinds"]) == set(published["rates"]) == set(published["latencies"])
    assert [cost["rules"] for cost in published["policies"]] == [10, 100, 1_000, 10_000]
    assert list(published["families"]) == ["1", "10", "100", "1000"]
    assert published["memory"][-1]["attestations"] >= 100_000
    for name, spread in published["kinds"].items():
        assert f"| {name} | {spread['p50_ms']:.2f} | {spread['p95_ms']:.2f} |" in page
        rate, latency = published["rates"][name], published["latencies"][name]
        assert f"| {name} | {rate['per_second']:.1f} | {rate['cpu_ms']:.1f} | {latency['per_second']:.1f} |" in page


def test_the_published_key_benchmark_is_complete_and_the_page_shows_the_same_numbers() -> None:
    folder = ROOT / "docs" / "benchmarks"
    page = (folder / "keys.md").read_text(encoding="utf-8")
    if "No figures are published yet" in page:
        assert [file.name for file in folder.glob("keys*")] == ["keys.md"]
        return
    published = json.loads((folder / "keys.json").read_text(encoding="utf-8"))

    assert (folder / "keys.png").is_file()
    assert published["large"]["keys"] >= 1_000_000
    assert published["large"]["leaves"] >= 10_000_000
    assert "release" in {each["what"] for each in published["asked"]}
    for each in published["asked"]:
        rate, latency = each["rate"], each["latency"]
        row = f"| {each['what']} | {each['database']} | {rate['per_second']:.1f} | {rate['cpu_ms']:.1f} |"
        assert f"{row} {latency['per_second']:.1f} |" in page
    for each in published["commits"]:
        assert f"| {each['database']} | {each['threads']} | {each['grouped']:.0f} | {each['alone']:.0f} |" in page
