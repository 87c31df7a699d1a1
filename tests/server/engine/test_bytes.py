"""Whose bytes are on the host: what loads, what waits for room, what gives way."""

from __future__ import annotations

from adapters_store.errors import BudgetExceeded
from server.core.steps import LoadReport
from server.engine.cost import CostModel
from tests.server.engine.desk import Desk
from tests.server.engine.fakes import make_blend

A, B = make_blend("a"), make_blend("b")
FREE_TO_MIX = CostModel(correction_s=0.0, patch_s=0.0)


# Bytes.


def test_a_blend_that_is_still_loading_stops_nobody() -> None:
    desk = Desk(is_instant=False)
    slow, quick = desk.ask(A), desk.ask()
    desk.turns(3)
    assert desk.num_tokens(quick) == 3
    desk.residency.waiting.pop(A.key)(LoadReport())
    desk.run_out()
    assert desk.num_tokens(slow) == 8


def test_no_more_is_loaded_at_a_time_than_the_loader_has_threads_and_the_least_served_first() -> None:
    desk = Desk(is_instant=False)
    blends = [make_blend(name) for name in "abcdef"]
    for blend in blends:
        desk.ask(blend, client="greedy")
    modest = make_blend("modest")
    desk.ask(modest, client="modest")
    desk.ask(client="greedy")
    desk.turn()
    assert len(desk.residency.waiting) == 4
    desk.residency.waiting.pop(next(iter(desk.residency.waiting)))(LoadReport())
    desk.turns(2)
    assert modest.key in desk.residency.waiting


def test_a_host_with_room_for_few_adapters_answers_requests_for_many() -> None:
    desk = Desk(costs=FREE_TO_MIX, max_queue=500)
    desk.residency.room = 3
    requests = [desk.ask(make_blend(f"v{number}"), max_new_tokens=3) for number in range(200)]
    desk.run_out()
    assert all(desk.num_tokens(request) == 3 for request in requests)
    assert desk.residency.held == []


def test_an_adapter_that_does_not_fit_even_alone_is_refused() -> None:
    desk = Desk()
    desk.residency.room = 0
    request = desk.ask(A)
    desk.turns(3)
    assert isinstance(desk.clients[request].error, BudgetExceeded)
    assert desk.residency.held == []


def test_popular_adapters_give_way_to_one_that_has_waited_for_room_too_long() -> None:
    desk = Desk(costs=FREE_TO_MIX, patience_steps=10, turn_steps=5, max_batch=4)
    desk.residency.room = 2
    for _ in range(40):
        desk.ask(A, max_new_tokens=30)
        desk.ask(B, max_new_tokens=30)
    desk.turns(3)
    rare = desk.ask(make_blend("rare"), max_new_tokens=30)
    desk.turns(100)
    assert desk.num_tokens(rare) == 30
    desk.run_out()
    assert desk.residency.held == []


def test_popular_adapters_give_way_even_while_their_requests_wait_too_long_themselves() -> None:
    desk = Desk(costs=FREE_TO_MIX, patience_steps=3, turn_steps=5, max_batch=2, max_queue=1000)
    desk.residency.room = 1
    popular = [desk.ask(A, max_new_tokens=30, client=f"client {number}") for number in range(100)]
    desk.turns(20)
    rare = desk.ask(B, max_new_tokens=30)
    desk.turns(400)  # a turn of each that is owed already
    assert desk.num_tokens(rare) > 0
    assert sum(desk.num_tokens(request) < 30 for request in popular) > 50


def test_a_load_that_was_asked_for_by_an_earlier_group_is_not_taken_for_this_one() -> None:
    desk = Desk(is_instant=False)
    gone = desk.ask(A)
    desk.turn()
    old = desk.residency.waiting[A.key]
    desk.abort(gone)
    desk.ask(A)
    desk.turn()
    old(LoadReport())
    assert not desk.turn()
    desk.residency.waiting[A.key](LoadReport())
    assert not desk.turn() or desk.runner.steps


def test_the_last_request_of_a_blend_lets_its_bytes_go() -> None:
    desk = Desk()
    first, second = desk.ask(A), desk.ask(A)
    desk.turns(2)
    desk.abort(first)
    assert desk.residency.held == [A.key]
    assert desk.scheduler.uses(A.versions[0])
    desk.abort(second)
    assert desk.residency.held == []
    assert not desk.scheduler.uses(A.versions[0])
