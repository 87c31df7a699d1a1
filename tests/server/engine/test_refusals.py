"""Who is not taken in, and until when: queues, deadlines, draining."""

from __future__ import annotations

from typing import Any

import pytest

from server.core.errors import (
    DeadlineExceeded,
    DeadlineUnreachable,
    Draining,
    QueueFull,
    RequestRejected,
    ServerError,
)
from server.engine.cost import CostModel
from server.engine.messages import ImageEvent
from server.engine.rates import NUM_STEPS_KNOWN, Rates
from tests.server.engine.desk import Desk
from tests.server.engine.fakes import make_blend, make_request
from tests.server.engine.painter import FakePainter, make_image_request

A, B = make_blend("a"), make_blend("b")
FREE_TO_MIX = CostModel(correction_s=0.0, patch_s=0.0)


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    desk = Desk(max_queue=2)
    desk.ask(), desk.ask()
    refusal = desk.clients[desk.ask()].error
    assert isinstance(refusal, QueueFull)
    assert refusal.retry_after_s == 1  # nothing is known yet
    desk.turn()
    assert not desk.clients[desk.ask()].events


def test_when_to_come_back_follows_from_how_many_requests_end_in_a_second() -> None:
    desk = Desk(max_queue=60, max_batch=1)
    desk.step_s = 0.5
    for _ in range(30):
        desk.ask(max_new_tokens=1)
    desk.turns(10)
    for _ in range(40):
        desk.ask(max_new_tokens=1)
    refusal = desk.clients[desk.ask()].error
    assert isinstance(refusal, QueueFull)
    assert refusal.retry_after_s == pytest.approx(30, abs=3)  # 60 wait, two end in a second


def refusal_of(desk: Desk, **wishes: Any) -> ServerError | None:
    return desk.scheduler.refusal([make_request(**wishes)], desk.clock.now())


def test_a_request_that_could_never_run_is_refused_at_once() -> None:
    desk = Desk(max_kv_tokens=108)
    assert refusal_of(desk, num_prompt_tokens=100) is None
    refusal = refusal_of(desk, num_prompt_tokens=101)
    assert isinstance(refusal, RequestRejected)
    assert refusal.param is None
    assert "101 prompt tokens and 8 new ones" in str(refusal)
    assert "room for 108 tokens" in str(refusal)
    assert "kv_budget_bytes" in str(refusal)


def test_a_draining_server_takes_nothing_new() -> None:
    desk = Desk()
    desk.scheduler.is_draining = True
    assert isinstance(refusal_of(desk), Draining)


def test_a_deadline_that_the_clients_own_backlog_leaves_no_time_for_is_refused_at_once() -> None:
    desk = Desk(max_batch=1)
    desk.step_s = 1.0
    for _ in range(40):
        desk.ask(client="heavy", max_new_tokens=1)
    desk.turns(20)
    now = desk.clock.now()
    refusal = refusal_of(desk, client="heavy", arrived_s=now, deadline_s=now + 5.0)
    assert refusal_of(desk, client="heavy", arrived_s=now, deadline_s=now + 60.0) is None
    assert refusal_of(desk, client="light", arrived_s=now, deadline_s=now + 5.0) is None
    assert refusal_of(desk, client="heavy", arrived_s=now) is None
    desk.ask(num_prompt_tokens=2560, deadline_s=now + 5.0)
    assert desk.value("shira_deadline_refusals_total") == 1
    assert isinstance(refusal, DeadlineUnreachable)
    assert 1 <= refusal.retry_after_s <= 60
    assert "5000 ms" in str(refusal)


def test_a_request_that_waited_so_long_that_its_prompt_takes_too_long_is_refused() -> None:
    desk = Desk(max_batch=1, patience_steps=1000)
    desk.step_s = 1.0
    desk.ask(max_new_tokens=60)
    desk.turns(20)
    late = desk.ask(num_prompt_tokens=2560, deadline_s=desk.clock.now() + 15.0)
    desk.turns(4)
    assert not desk.clients[late].events
    desk.turns(4)
    assert isinstance(desk.clients[late].error, DeadlineUnreachable)


def test_nobody_is_refused_by_how_long_something_heavier_took() -> None:
    """A plain picture was told that it takes ten times what it takes, after one that ran ten adapters in every step."""
    desk = Desk(painter=FakePainter(), schedule="fused", quantum_steps=1)

    def refusal(token_cost: float) -> ServerError | None:
        now = desk.clock.now()
        asked = make_image_request(num_steps=20, arrived_s=now, deadline_s=now + 3.0, token_cost=token_cost)
        return desk.scheduler.refusal([asked], now)

    desk.step_s = 0.2
    desk.ask_image(num_steps=200, token_cost=10.0)
    desk.turns(64)
    assert refusal(1.0) is None
    assert isinstance(refusal(10.0), DeadlineUnreachable)
    assert isinstance(refusal(20.0), DeadlineUnreachable)

    desk.step_s = 0.02
    light = desk.ask_image(num_steps=20, deadline_s=desk.clock.now() + 3.0)
    desk.run_out()
    assert isinstance(desk.clients[light].events[-1], ImageEvent)


def test_a_backlog_of_light_requests_is_not_measured_by_heavier_ones_that_ended() -> None:
    rates = Rates()
    for number in range(NUM_STEPS_KNOWN):
        rates.ran(0.1, now=float(number), cost=1.0)
        rates.ended(float(number), 10.0)
    assert rates.least_s([1.0] * 40, 1, 1.0) == 0.1
    assert rates.least_s([10.0] * 40, 1, 10.0) > 10.0


def test_a_deadline_that_passes_ends_a_request() -> None:
    desk = Desk()
    request = desk.ask(max_new_tokens=100, deadline_s=desk.clock.now() + 0.1)
    desk.turns(20)
    assert isinstance(desk.clients[request].error, DeadlineExceeded)
    assert desk.runner.live == {}


def test_deadlines_are_told_in_time() -> None:
    desk = Desk()
    never, soon = desk.ask(), desk.ask(deadline_s=500.0)
    assert desk.scheduler.next_deadline() == 500.0
    assert desk.scheduler.expired(499.9) == []
    assert [sequence.id for sequence in desk.scheduler.expired(500.0)] == [soon]
    assert desk.scheduler.get(never) is not None
