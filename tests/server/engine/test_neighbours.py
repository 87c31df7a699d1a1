from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from adapters_store.blend import BlendKey
from server.engine.cost import CostModel
from server.engine.neighbours import NOBODYS_TURN, STAY_STEPS, Bounds, Turn, choose_beside
from server.engine.rows import Rows

KEYS = [BlendKey(f"b{number}") for number in range(6)]
BASE = BlendKey("base")
CHEAP = CostModel(correction_s=0.0, patch_s=0.0, relate_entry_s=0.0)


def run(num_steps: int, room: int | None, *, first: BlendKey | None = None) -> list[tuple[BlendKey, ...]]:
    """Who ran beside the base in each step while all of them always have something to run."""
    last_ran, turn, seen = dict.fromkeys(KEYS, 0), NOBODYS_TURN, []
    for step in range(1, num_steps + 1):
        rows = [Rows(key=key, num_entries=100, last_ran=at, num_decode=1) for key, at in last_ran.items()]
        bounds = Bounds(max_slowdown=2.0, room=room)
        beside, turn = choose_beside(rows, BASE, 0, first, turn, costs=CHEAP, bounds=bounds)
        tried = beside if room is None else beside[:room]  # more than that the device does not hold
        last_ran |= dict.fromkeys(tried, step)
        turn = replace(turn, keys=frozenset(tried))
        seen.append(tried)
    return seen


def test_all_run_where_there_is_room() -> None:
    assert all(set(beside) == set(KEYS) for beside in run(10, None))


def test_where_room_is_short_blends_stay_for_a_turn_and_then_the_others_have_theirs() -> None:
    seen = [frozenset(beside) for beside in run(4 * STAY_STEPS, 2)]
    changes = sum(before != after for before, after in pairwise(seen))
    assert changes <= 4
    assert all(len(beside) == 2 for beside in seen)
    assert frozenset().union(*seen) == set(KEYS)


def test_one_more_is_tried_at_the_end_of_a_turn() -> None:
    rows = [Rows(key=key, num_entries=100, last_ran=0, num_decode=1) for key in KEYS]
    bounds = Bounds(max_slowdown=2.0, room=2)
    in_turn = Turn(keys=frozenset(KEYS[:2]), num_steps=3)
    at_end = replace(in_turn, num_steps=STAY_STEPS)
    assert len(choose_beside(rows, BASE, 0, None, in_turn, costs=CHEAP, bounds=bounds)[0]) == 2
    assert len(choose_beside(rows, BASE, 0, None, at_end, costs=CHEAP, bounds=bounds)[0]) == 3


def test_one_that_has_waited_too_long_runs_in_every_step_whosever_turn_it_is() -> None:
    assert all(beside[0] == KEYS[5] for beside in run(2 * STAY_STEPS, 2, first=KEYS[5]))


def test_a_place_that_becomes_free_is_taken_within_the_turn() -> None:
    rows = [Rows(key=key, num_entries=100, last_ran=number, num_decode=1) for number, key in enumerate(KEYS[1:])]
    turn = Turn(keys=frozenset(KEYS[:2]), num_steps=3)
    beside, after = choose_beside(rows, BASE, 0, None, turn, costs=CHEAP, bounds=Bounds(max_slowdown=2.0, room=2))
    assert beside[0] == KEYS[1], "it keeps its turn"
    assert len(beside) == 2
    assert after.num_steps == 4
