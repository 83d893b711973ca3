"""A run waits for a service that just restarts, and not for ever."""

import pytest

from strongroom.agent import patience
from strongroom.agent.patience import when_it_answers
from strongroom.base.errors import RefusedError, UnavailableError


def test_asks_again_until_the_service_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_AGAIN_AFTER_S", 0.0)
    told: list[UnavailableError] = []
    silent = iter([UnavailableError("no answer", action="wait")] * 3)

    def ask() -> str:
        for error in silent:
            raise error
        return "an answer"

    assert when_it_answers(ask, patience_s=60, waiting=told.append) == "an answer"
    assert [error.message for error in told] == ["no answer"], "it is told once"


def test_gives_up_after_its_patience() -> None:
    def ask() -> str:
        raise UnavailableError("no answer", action="wait")

    with pytest.raises(UnavailableError, match="no answer"):
        when_it_answers(ask, patience_s=0)


def test_a_refusal_is_an_answer() -> None:
    asked = []

    def ask() -> str:
        asked.append(1)
        raise RefusedError("revoked", action="ask the owner")

    with pytest.raises(RefusedError, match="revoked"):
        when_it_answers(ask, patience_s=60)
    assert len(asked) == 1
