from __future__ import annotations

import math

from adapters_store.tools.reproduction.plan import METHODS, RATE_LADDER, next_rate, order, swept

FIRST = (3e-3, 1e-2, 3e-2)


def rates_tried(loss: dict[float, float]) -> list[float]:
    """What a sweep tries when the validation loss at each rate is this."""
    tried: dict[float, float] = {}
    while (rate := next_rate(FIRST, tried)) is not None:
        tried[rate] = loss[rate]
    return list(tried)


def test_a_sweep_ends_when_the_best_rate_has_a_worse_one_on_either_side() -> None:
    def loss_with_best(best: float) -> dict[float, float]:
        return {rate: abs(math.log(rate / best)) for rate in RATE_LADDER}

    assert rates_tried(loss_with_best(1e-2)) == [*FIRST]
    assert rates_tried(loss_with_best(1e-1)) == [*FIRST, 1e-1, 3e-1]
    assert rates_tried(loss_with_best(1e-4)) == [*FIRST, 1e-3, 3e-4, 1e-4, 3e-5]


def test_a_sweep_ends_at_the_end_of_the_ladder_and_goes_round_what_diverged() -> None:
    assert rates_tried({rate: -rate for rate in RATE_LADDER})[-1] == RATE_LADDER[-1]
    diverged = {rate: math.inf if rate > 3e-3 else rate for rate in RATE_LADDER}
    assert rates_tried(diverged)[-1] == RATE_LADDER[0]


def test_the_main_methods_of_the_first_seed_come_first_and_every_pair_once() -> None:
    names = [method.name for method in METHODS]
    runs = [(method.name, seed) for method, seed in order(names, (0, 1), (0,))]
    assert runs[:4] == [("lora", 0), ("wm", 0), ("rand", 0), ("snip", 0)]
    assert runs[-1] == ("snip", 1)
    assert len(set(runs)) == len(runs) == 4 * 2 + 4


def test_a_method_without_a_sweep_brings_that_of_another() -> None:
    assert [method.name for method in swept(["grad", "wm-disjoint"])] == ["wm", "snip"]
