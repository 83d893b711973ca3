"""Turns: as many callers compute at once as there are processors, each to its end."""

import threading

import pytest

from strongroom.services.evidence_kinds import Turn, Turns

DEADLINE_S = 60


def test_who_has_a_turn_finishes_before_the_next_begins() -> None:
    turns, told = Turns(1), list[str]()

    def second() -> None:
        with turns.one() as turn:
            turn.begin()
            told.append("second begins")

    with turns.one() as turn:
        turn.begin()
        thread = threading.Thread(target=second)
        thread.start()
        turn.begin()  # has it already
        told.append("first ends")
    thread.join(DEADLINE_S)
    assert told == ["first ends", "second begins"]


def test_as_many_have_a_turn_at_once_as_there_are() -> None:
    turns = Turns(2)
    with turns.one() as first, turns.one() as second:
        first.begin()
        second.begin()


def test_a_turn_comes_back_when_its_holder_fails_and_was_never_taken_when_it_fails_before() -> None:
    turns = Turns(1)

    def fail(*, begins: bool) -> None:
        with turns.one() as turn:
            if begins:
                turn.begin()
            raise ValueError("the holder failed")

    for begins in (False, True):
        with pytest.raises(ValueError, match="failed"):
            fail(begins=begins)
    with turns.one() as turn:
        turn.begin()


def test_who_is_alone_need_not_wait() -> None:
    turn = Turn()
    turn.begin()
    turn.end()
