"""The time to the first token is told of everybody who wanted one: those who left without it waited longest."""

from __future__ import annotations

from tests.server.engine.desk import Desk

NAME = "shira_time_to_first_token_seconds"


def told(desk: Desk) -> tuple[float, float]:
    """How many, and the sum of their times."""
    return desk.value(f"{NAME}_count") or 0, round(desk.value(f"{NAME}_sum") or 0, 9)


def test_it_is_told_when_the_token_is_made_and_once() -> None:
    desk = Desk()
    request = desk.ask(max_new_tokens=5)
    desk.clock.seconds += 1
    desk.turn()
    assert told(desk) == (1, 1 + desk.step_s)
    desk.turn()
    desk.clock.seconds += 60
    desk.abort(request)
    assert told(desk) == (1, 1 + desk.step_s)


def test_who_left_after_a_minute_without_one_waited_a_minute() -> None:
    desk = Desk(max_batch=1)
    desk.ask(max_new_tokens=50)
    waiting = desk.ask()
    desk.turn()
    desk.clock.seconds += 60
    desk.abort(waiting)
    assert told(desk) == (2, 60 + 2 * desk.step_s)
    assert desk.value(f"{NAME}_bucket", le="40.0") == 1


def test_who_left_before_it_was_late_tells_nothing() -> None:
    desk = Desk()
    request = desk.ask()
    desk.clock.seconds += 2
    desk.abort(request)
    assert told(desk) == (0, 0)
