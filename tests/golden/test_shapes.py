"""What the shapes add to pods, character by character."""

import pytest
from tests.support.shapes import CASES, FOLDER, render

from strongroom.cluster.shapes import SHAPES


@pytest.mark.parametrize("case", CASES)
def test_adds_what_it_added(case: str) -> None:
    assert render(case) == (FOLDER / f"{case}.json").read_text(encoding="utf-8")


def test_no_file_is_left_over() -> None:
    assert {path.stem for path in FOLDER.glob("*")} == set(CASES)


def test_every_shape_is_there() -> None:
    assert {case.shape for case in CASES.values()} == set(SHAPES)
