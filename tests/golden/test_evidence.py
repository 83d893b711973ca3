"""What `evidence` and `policy test` print of simulated evidence, character by character."""

from pathlib import Path

import pytest
from tests.support.evidence_files import CASES, FOLDER, render


@pytest.mark.parametrize("case", CASES)
def test_prints_what_it_printed(case: str) -> None:
    assert render(case) == (FOLDER / f"{case}.txt").read_text(encoding="utf-8")


def test_no_output_is_left_over() -> None:
    assert {path.stem for path in FOLDER.glob("*.txt")} == set(CASES)


def test_the_page_shows_what_the_commands_print(repo_root: Path) -> None:
    """A line with nothing but … stands for lines that are left out."""
    page = (repo_root / "docs" / "how-to" / "evidence.md").read_text(encoding="utf-8")
    outputs = {path.read_text(encoding="utf-8").split("\n")[0]: path for path in FOLDER.glob("*.txt")}
    blocks = [block.partition("```")[0].strip("\n").split("\n") for block in page.split("```console")[1:]]
    shown = [block for block in blocks if len(block) > 2]
    assert len(shown) >= 5
    for block in shown:
        printed = iter(outputs[block[0]].read_text(encoding="utf-8").split("\n"))
        for line in block:
            assert line == "…" or line in printed, line
