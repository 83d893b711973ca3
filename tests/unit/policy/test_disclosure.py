"""What a refusal tells whom it refuses."""

import pytest

from strongroom.base.errors import Mismatch
from strongroom.policy.disclosure import disclose


def shown(name: str, *, expected: str = "the owner's secret", actual: str = "mine") -> Mismatch:
    (found,) = disclose([Mismatch(name=name, expected=expected, actual=actual)])
    return found


@pytest.mark.parametrize(
    "name",
    ["x-ms-policy-hash", "machine", "submitter", "application", "time", "duration", "input trips", "access", "new"],
)
def test_never_shows_what_an_owner_decided(name: str) -> None:
    found = shown(name)
    assert "secret" not in str(found)
    assert found.actual == "mine"


@pytest.mark.parametrize("name", ["runs", "executors", "signatures", "roster"])
def test_of_counts_only_that_they_are_reached(name: str) -> None:
    found = shown(name, actual="7 opened")
    assert "secret" not in str(found)
    assert "7" not in str(found)


@pytest.mark.parametrize("name", ["datasets", "member", "version of trips", "write of trips", "approval for trips"])
def test_shows_what_is_the_askers_own(name: str) -> None:
    assert shown(name, expected="his own") == Mismatch(name=name, expected="his own", actual="mine")


def test_shows_each_difference_once() -> None:
    twice = [Mismatch(name="runs", expected=f"fewer than {limit} opened", actual="9 opened") for limit in (1, 2)]
    assert len(disclose(twice)) == 1
