import pytest

from strongroom.base.errors import ConflictError, NotFoundError
from strongroom.cli.prefixes import find_by_prefix

CANDIDATES = {"aabb": 1, "aacc": 2, "aa": 3}


@pytest.mark.parametrize(("text", "found"), [("aab", 1), ("aacc", 2), ("aa", 3), ("AAB…", 1)])
def test_finds_by_beginning_or_whole_name(text: str, found: int) -> None:
    assert find_by_prefix(text, CANDIDATES, "run") == found


def test_refuses_the_beginning_of_several() -> None:
    with pytest.raises(ConflictError, match="a is the beginning of 3 runs"):
        find_by_prefix("a", CANDIDATES, "run")


@pytest.mark.parametrize("text", ["x", "", "…", "aabbc"])
def test_says_which_there_are_when_none_fits(text: str) -> None:
    with pytest.raises(NotFoundError) as refusal:
        find_by_prefix(text, CANDIDATES, "run")

    assert "aabb…" in refusal.value.action
