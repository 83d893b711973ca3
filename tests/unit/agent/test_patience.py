"""A run's end waits for a service that just restarts, and not for ever."""

import pytest

from strongroom.agent import finish
from strongroom.base.errors import RefusedError, UnavailableError


def test_asks_again_until_the_service_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finish, "_AGAIN_AFTER_S", 0.0)
    silent = iter([UnavailableError("no answer", action="wait")] * 3)

    def ask() -> str:
        for error in silent:
            raise error
        return "an answer"

    assert finish._when_it_answers(ask) == "an answer"


def test_gives_up_after_its_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finish, "_PATIENCE_S", 0.0)

    def ask() -> str:
        raise UnavailableError("no answer", action="wait")

    with pytest.raises(UnavailableError, match="no answer"):
        finish._when_it_answers(ask)


def test_a_refusal_is_an_answer() -> None:
    asked = []

    def ask() -> str:
        asked.append(1)
        raise RefusedError("revoked", action="ask the owner")

    with pytest.raises(RefusedError, match="revoked"):
        finish._when_it_answers(ask)
    assert len(asked) == 1
