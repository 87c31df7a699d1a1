from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters_store.blend import BASE, Blend
from server.engine.fairness import NEW_TOKEN, PROMPT_TOKEN, Counters
from tests.server.engine.desk import Desk
from tests.server.engine.fakes import make_blend

A, B = make_blend("a"), make_blend("b")
PATIENT = 10**6


def test_who_comes_back_has_saved_up_nothing() -> None:
    counters: Counters[str] = Counters()
    counters.join("busy")
    counters.charge("busy", 100.0)
    counters.join("late")
    assert counters["late"] == 100.0
    counters.charge("late", 50.0)
    counters.leave("late")
    counters.charge("busy", 10.0)
    counters.join("late")
    assert counters["late"] == 150.0


def test_who_comes_first_after_a_pause_starts_where_the_last_one_left() -> None:
    counters: Counters[str] = Counters()
    counters.join("a")
    counters.charge("a", 30.0)
    counters.leave("a")
    counters.join("b")
    assert counters["b"] == 30.0


def test_service_is_counted_over_weight() -> None:
    desk = Desk(max_batch=4)
    desk.ask(client="light", weight=1.0, num_prompt_tokens=10, max_new_tokens=5)
    desk.ask(client="heavy", weight=4.0, num_prompt_tokens=10, max_new_tokens=5)
    desk.turns(3)
    ranks = {s.request.client: desk.scheduler.rank(s)[0] for s in desk.scheduler.sequences}
    assert ranks["light"] == 10 * PROMPT_TOKEN + 3 * NEW_TOKEN
    assert ranks["heavy"] == ranks["light"] / 4


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_turns_in_the_weights_are_shared_by_clients_not_by_blends(weight: float) -> None:
    """Who asks for eight adapters at once is given no more turns than who asks for one."""
    desk = Desk(schedule="fused", quantum_steps=1, patience_steps=PATIENT)
    wide = [
        desk.ask(make_blend(f"w{number}"), client="wide", max_new_tokens=5000, ignore_eos=True) for number in range(8)
    ]
    narrow = desk.ask(A, client="narrow", weight=weight, max_new_tokens=5000, ignore_eos=True)
    desk.turns(800)
    of_wide = [desk.num_tokens(request) for request in wide]
    assert desk.num_tokens(narrow) == pytest.approx(weight * sum(of_wide), rel=0.05)
    assert max(of_wide) - min(of_wide) <= 1


@settings(max_examples=25)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 30)), min_size=2, max_size=12),
    blends=st.lists(st.sampled_from([BASE, A, B]), min_size=1, max_size=4),
    max_batch=st.integers(1, 4),
)
def test_clients_with_endless_backlog_are_given_the_same(
    sizes: list[tuple[int, int]], blends: list[Blend], max_batch: int
) -> None:
    """Whatever the size of their requests: the difference stays within the bound of the paper at every moment. One of
    them asks for twice as much at a time, and for more blends."""
    desk = Desk(max_batch=max_batch, patience_steps=PATIENT)
    given_to = backlog(desk, {"greedy": 1.0, "modest": 1.0}, sizes, blends, num_turns=150)
    longest_prompt, longest_answer = (max(size[at] for size in sizes) for at in (0, 1))
    most_in_batch = (longest_prompt + longest_answer) * max_batch  # the paper's M: all tokens that have KV at once
    bound = 2 * max(PROMPT_TOKEN * longest_prompt, NEW_TOKEN * most_in_batch)
    assert max(abs(service["greedy"] - service["modest"]) for service in given_to) <= bound


def test_a_client_of_three_times_the_weight_is_given_three_times_as_much() -> None:
    desk = Desk(max_batch=4, patience_steps=PATIENT)
    last = backlog(desk, {"greedy": 1.0, "modest": 3.0}, [(8, 12), (3, 20)], [BASE, A], num_turns=800)[-1]
    assert last["modest"] / last["greedy"] == pytest.approx(3.0, rel=0.05)


def test_of_one_client_each_blend_is_given_the_same() -> None:
    desk = Desk(max_batch=2, patience_steps=PATIENT)
    for _ in range(60):
        desk.ask(A, max_new_tokens=10)
    rare = [desk.ask(B, max_new_tokens=10) for _ in range(3)]
    desk.turns(100)
    assert all(desk.num_tokens(request) == 10 for request in rare)


def test_a_light_client_is_not_held_up_by_a_heavy_one_that_came_first() -> None:
    desk = Desk(max_batch=2, patience_steps=PATIENT)
    for _ in range(100):
        desk.ask(client="heavy", max_new_tokens=20)
    desk.turns(50)
    light = desk.ask(client="light", max_new_tokens=20)
    desk.turns(41)
    assert desk.num_tokens(light) == 20


def backlog(
    desk: Desk, weights: dict[str, float], sizes: list[tuple[int, int]], blends: list[Blend], *, num_turns: int
) -> list[dict[str, float]]:
    """Service given so far, after each turn, to clients that always have requests waiting."""
    asked = dict.fromkeys(weights, 0)
    history = []
    for _ in range(num_turns):
        for client, weight in weights.items():
            waiting = [s for s in desk.scheduler.sequences if s.request.client == client and not s.is_running]
            for _ in range(desk.limits.max_batch * (2 if client == "greedy" else 1) - len(waiting)):
                prompt, new = sizes[asked[client] % len(sizes)]
                blend = blends[asked[client] % len(blends)] if client == "greedy" else blends[0]
                desk.ask(blend, client=client, weight=weight, num_prompt_tokens=prompt, max_new_tokens=new)
                asked[client] += 1
        desk.turn()
        history.append(served(desk))
    return history


def served(desk: Desk) -> dict[str, float]:
    """Counted from what the runner was told: prompts that were taken in, tokens that were sent."""
    service = {"greedy": 0.0, "modest": 0.0}
    for request, num_sampled in desk.runner.sampled.items():
        asked = desk.asked[request]
        service[asked.client] += PROMPT_TOKEN * len(asked.prompt_tokens) + NEW_TOKEN * num_sampled
    return service
