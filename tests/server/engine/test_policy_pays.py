"""What the choice of blends is for: time. Told by the cost model, as if it were the truth."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import accumulate

import pytest

from adapters_store.blend import BASE, Blend, BlendKey
from server.engine.cost import CostModel
from server.engine.policy import Schedule
from tests.server.engine.desk import Desk
from tests.server.engine.fakes import make_blend

NUM_ROWS, NUM_REQUESTS = 16, 80
BLENDS = [make_blend(f"b{number}") for number in range(16)]
MEASURED = CostModel()
COSTS = {
    "usual": MEASURED,
    "mixing dear": CostModel(correction_s=200e-9),
    "switching dear": CostModel(switch_s=0.05),
}

Popularity = Callable[[list[Blend], int, random.Random], Blend]


def zipf(blends: list[Blend], number: int, rng: random.Random) -> Blend:
    return rng.choices(blends, cum_weights=list(accumulate(1 / rank for rank in range(1, len(blends) + 1))))[0]


def round_robin(blends: list[Blend], number: int, rng: random.Random) -> Blend:
    return blends[number % len(blends)]


def bursts(blends: list[Blend], number: int, rng: random.Random) -> Blend:
    return blends[number // 20 % len(blends)]


@pytest.mark.parametrize("costs", COSTS)
@pytest.mark.parametrize("popularity", [zipf, round_robin, bursts])
@pytest.mark.parametrize("num_blends", [2, 16])
def test_auto_is_as_fast_as_the_better_of_never_and_always_mixing(
    costs: str, popularity: Popularity, num_blends: int
) -> None:
    """Within five hundredths. Sixteen rows at all times, the base among the blends."""
    blends = [BASE, *BLENDS][: num_blends + 1]
    rng = random.Random(f"{costs} {num_blends}")
    requests = [(popularity(blends, number, rng), rng.randint(5, 60)) for number in range(NUM_REQUESTS)]
    seconds = {schedule: time_of(requests, COSTS[costs], schedule) for schedule in ("auto", "fused", "mixed")}
    assert seconds["auto"] <= 1.05 * min(seconds["fused"], seconds["mixed"]), seconds


def time_of(requests: list[tuple[Blend, int]], costs: CostModel, schedule: Schedule) -> float:
    desk = Desk(costs=costs, schedule=schedule, max_batch=NUM_ROWS, patience_steps=10_000)
    left = list(requests)
    seconds, active = 0.0, BASE.key
    while left or desk.scheduler.sequences:
        while left and len(desk.scheduler.sequences) < NUM_ROWS:
            blend, num_new = left.pop(0)
            desk.ask(blend, num_prompt_tokens=16, max_new_tokens=num_new)
        if desk.turn():
            seconds += step_s(desk, costs, active)
            active = desk.last_step()[0]
    return seconds


def step_s(desk: Desk, costs: CostModel, before: BlendKey) -> float:
    active, work = desk.last_step()
    entries = desk.execution.num_entries
    seconds = costs.step(sum(work.values()))
    if active != before:
        seconds += costs.switch(entries * ((active != BASE.key) + (before != BASE.key)))
    rows: dict[BlendKey, list[int]] = {}
    for request, num_tokens in work.items():
        rows.setdefault(desk.asked[request].blend.key, []).append(num_tokens)
    for key, counts in rows.items():
        if key != active:
            num_entries = entries * ((key != BASE.key) + (active != BASE.key))
            seconds += costs.correct(num_entries, counts.count(1)) + costs.patch_s * (max(counts) > 1)
    return seconds
