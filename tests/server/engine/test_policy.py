from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters_store.blend import BlendKey
from server.engine.cost import CostModel
from server.engine.policy import Choice, Rules, Schedule, Stay, choose
from server.engine.rows import Rows

BASE, A, B, C = (BlendKey(name) for name in ("base", "a", "b", "c"))
ENTRIES = 1_000_000
COSTS = CostModel(
    step_points=((1, 0.010), (32, 0.040), (256, 0.320)),
    correction_s=1e-9,
    patch_s=0.005,
    switch_s=0.0,
    switch_entry_s=5e-9,
    relate_entry_s=0.0,
)
DEAR = replace(COSTS, correction_s=100e-9)  # mixing never pays


def rows(
    key: BlendKey, num_decode: int = 1, *, last_ran: int = 0, is_exclusive: bool = False, prefill: int = 0
) -> Rows:
    return Rows(
        key=key,
        num_entries=0 if key == BASE else ENTRIES,
        last_ran=last_ran,
        num_decode=num_decode,
        num_prefill=prefill,
        is_exclusive=is_exclusive,
    )


def pick(
    *parts: Rows,
    stay: Stay | None = None,
    first: BlendKey | None = None,
    costs: CostModel = COSTS,
    schedule: Schedule = "auto",
    quantum_steps: int = 4,
    max_slowdown: float = 2.0,
) -> Choice:
    rules = Rules(schedule=schedule, quantum_steps=quantum_steps, max_slowdown=max_slowdown)
    return choose(parts, stay or Stay(key=BASE), base=BASE, first=first, costs=costs, rules=rules)


@pytest.mark.parametrize("schedule", ["auto", "fused"])
@pytest.mark.parametrize("key", [BASE, A])
def test_a_single_blend_runs_in_the_weights_at_once(schedule: Schedule, key: BlendKey) -> None:
    choice = pick(rows(key), stay=Stay(key=B, num_entries=ENTRIES, num_steps=1), schedule=schedule)
    assert (choice.key, choice.beside) == (key, ())


def test_two_blends_run_in_one_step() -> None:
    choice = pick(rows(A), rows(B))
    assert {choice.key, *choice.beside} >= {A, B}


def test_a_blend_stays_out_where_relating_the_others_to_it_costs_more_than_correcting_its_rows() -> None:
    dear = replace(COSTS, relate_entry_s=1e-6)
    parts = [rows(A, 32), rows(B, 1)]
    for costs, expected in ((COSTS, A), (dear, BASE)):
        stay = Stay(key=BASE)
        for _ in range(200):
            stay = pick(*parts, stay=stay, costs=costs).stay
        assert stay.key == expected


def test_a_blend_of_which_little_runs_does_not_drive_out_what_is_in() -> None:
    stay = Stay(key=A, num_entries=ENTRIES, num_steps=9)
    for _ in range(200):
        choice = pick(rows(A, 32), rows(B, 1), rows(BASE, 1), stay=stay)
        assert choice.key == A
        stay = choice.stay


def test_a_blend_that_most_rows_want_goes_in_once_that_has_paid() -> None:
    """By correcting 32 rows of A where B could be corrected: 2 ms a step. The switch costs 10 ms."""
    stay, num_steps = Stay(key=B, num_entries=ENTRIES, num_steps=9), 0
    while stay.key == B:
        stay = pick(rows(A, 32), rows(B, 1), stay=stay).stay
        num_steps += 1
    assert stay.key == A
    assert 5 <= num_steps <= 12


@given(arrivals=st.lists(st.tuples(*[st.integers(0, 40)] * 3), min_size=1, max_size=300))
def test_no_more_time_goes_into_switches_than_was_lost_without_them(arrivals: list[tuple[int, int, int]]) -> None:
    """However blends come and go. (One that runs alone goes in at once: that is no choice.)"""
    stay, switches_s, lost_s = Stay(key=BASE), 0.0, 0.0
    entries = {BASE: 0, A: ENTRIES, B: ENTRIES}
    for numbers in arrivals:
        parts = [rows(key, number) for key, number in zip(entries, numbers, strict=True) if number]
        if len(parts) < 2:
            continue
        extra_s = {
            key: sum(COSTS.correct(p.num_entries + entries[key], p.num_decode) for p in parts if p.key != key)
            for key in {BASE, stay.key, *(part.key for part in parts)}
        }
        lost_s += extra_s[stay.key] - min(extra_s.values())
        before, stay = stay.key, pick(*parts, stay=stay).stay
        if stay.key != before:
            switches_s += COSTS.switch(entries[before] + entries[stay.key])
        assert switches_s <= lost_s + 1e-12


def test_blends_that_alternate_do_not_make_the_weights_alternate() -> None:
    stay, num_switches = Stay(key=A, num_entries=ENTRIES), 0
    for step in range(400):
        before = stay.key
        many, few = (A, B) if step % 2 else (B, A)
        stay = pick(rows(many, 4), rows(few, 3), rows(BASE), stay=stay).stay
        num_switches += stay.key != before
    assert num_switches <= 1


def test_exclusive_rows_take_turns_of_a_quantum_and_others_run_beside_them() -> None:
    stay, last_ran, seen = Stay(key=BASE), dict.fromkeys((A, B, C), 0), []
    for step in range(1, 13):
        exclusive = [rows(key, last_ran=last_ran[key], is_exclusive=True) for key in (A, B)]
        choice = pick(*exclusive, rows(C, last_ran=last_ran[C]), stay=stay)
        stay = choice.stay
        assert C in choice.beside
        last_ran[choice.key] = last_ran[C] = step
        seen.append(choice.key)
    assert seen == [A] * 4 + [B] * 4 + [A] * 4


def test_who_must_be_in_the_weights_and_has_waited_too_long_is_next_when_the_quantum_ends() -> None:
    parts = [rows(key, last_ran=at, is_exclusive=True) for at, key in enumerate((A, B, C))]
    assert pick(*parts, stay=Stay(key=A, num_steps=3), first=C).key == A
    choice = pick(*parts, stay=Stay(key=A, num_steps=4), first=C)
    assert choice.key == C
    for _ in range(10):
        choice = pick(*parts, stay=choice.stay, first=C)
        assert choice.key == C


def test_rows_of_one_blend_that_may_be_mixed_and_rows_that_may_not_are_told_apart() -> None:
    choice = pick(rows(A, is_exclusive=True), rows(B, is_exclusive=True), rows(B))
    assert choice.key == A
    assert choice.runs(B, False)
    assert not choice.runs(B, True)


def test_nothing_runs_beside_a_blend_that_cannot_be_mixed_and_the_others_share_a_turn() -> None:
    stay, last_ran, seen = Stay(key=BASE), dict.fromkeys((A, B, C), 0), []
    for step in range(1, 13):
        alone = replace(rows(A, last_ran=last_ran[A], is_exclusive=True), is_mixable=False)
        choice = pick(alone, rows(B, last_ran=last_ran[B]), rows(C, last_ran=last_ran[C]), stay=stay)
        stay = choice.stay
        for key in (choice.key, *choice.beside):
            last_ran[key] = step
        seen.append({choice.key, *choice.beside})
    assert seen == [{A}] * 4 + [{B, C}] * 4 + [{A}] * 4
    choice = pick(alone, rows(B), rows(C), stay=stay, first=C)
    assert C in {choice.key, *choice.beside}
    gone = Stay(key=A, num_entries=ENTRIES, is_mixable=False, num_steps=2)
    assert pick(rows(B), rows(C), stay=gone).key != A


def test_nothing_is_mixed_where_that_takes_longer_than_taking_turns() -> None:
    stay, seen = Stay(key=BASE), []
    last_ran = {A: 0, B: 0}
    for step in range(1, 13):
        choice = pick(*(rows(key, 8, last_ran=last_ran[key]) for key in (A, B)), stay=stay, costs=DEAR)
        assert choice.beside == ()
        stay = choice.stay
        last_ran[choice.key] = step
        seen.append(choice.key)
    assert seen in ([A] * 4 + [B] * 4 + [A] * 4, [B] * 4 + [A] * 4 + [B] * 4)


def test_never_mixing_and_always_mixing_can_be_asked_for() -> None:
    assert pick(rows(A), rows(B), schedule="fused").beside == ()
    alone = pick(rows(A), schedule="mixed", costs=DEAR, stay=Stay(key=B))
    assert (alone.key, alone.beside) == (BASE, (A,))
    assert pick(rows(A, is_exclusive=True), rows(B), schedule="mixed").key == A


@given(
    numbers=st.lists(st.tuples(st.integers(0, 32), st.integers(0, 200), st.integers(0, 50)), min_size=2, max_size=20),
    max_slowdown=st.floats(1.0, 3.0),
    correction_s=st.floats(1e-10, 2e-8),
)
def test_a_mixed_step_is_slowed_no_more_than_allowed(
    numbers: list[tuple[int, int, int]], max_slowdown: float, correction_s: float
) -> None:
    """But for one group, where nothing else runs."""
    costs = replace(COSTS, correction_s=correction_s)
    parts = [
        rows(BlendKey(str(at)), decode, prefill=prefill, last_ran=ran)
        for at, (decode, prefill, ran) in enumerate(numbers)
        if decode + prefill
    ]
    if not parts:
        return
    choice = pick(*parts, costs=costs, max_slowdown=max_slowdown)
    running = [part for part in parts if choice.runs(part.key, part.is_exclusive)]
    assert running
    active = ENTRIES if choice.key != BASE else 0
    mixed = [part for part in running if part.key != choice.key]
    plain_s = costs.step(sum(part.num_tokens for part in running))
    extra_s = sum(
        costs.correct(part.num_entries + active, part.num_decode) + (costs.patch_s if part.num_prefill else 0)
        for part in mixed
    )
    assert plain_s + extra_s <= max_slowdown * plain_s * (1 + 1e-9) or len(running) == 1


def test_what_found_no_place_in_a_step_is_in_the_next() -> None:
    last_ran = dict.fromkeys(map(BlendKey, "abcdefgh"), 0)
    stay = Stay(key=BASE)
    costs = replace(COSTS, correction_s=6e-9)  # two blends beside the base in 15 ms
    for step in range(1, 40):
        choice = pick(*(rows(key, last_ran=ran) for key, ran in last_ran.items()), stay=stay, costs=costs)
        stay = choice.stay
        assert choice.beside
        for key in {choice.key, *choice.beside} & set(last_ran):
            last_ran[key] = step
        assert step - min(last_ran.values()) <= 8


def test_who_has_waited_too_long_runs_beside_whatever_that_costs() -> None:
    parts = [rows(key, 16, last_ran=9) for key in (A, B)]
    choice = pick(rows(BASE, 1), *parts, first=B, costs=DEAR, schedule="mixed")
    assert B in choice.beside


def test_what_is_in_the_weights_slows_the_others_even_while_none_of_its_own_rows_runs() -> None:
    stay = Stay(key=C, num_entries=20 * ENTRIES, num_steps=1)
    few = [rows(key, last_ran=9) for key in (A, B)]
    assert len(pick(*few, stay=stay, max_slowdown=2.0).beside) == 1


def test_a_plain_step_is_a_line_through_the_measured_points() -> None:
    assert COSTS.step(1) == pytest.approx(0.010)
    assert COSTS.step(32) == pytest.approx(0.040)
    assert COSTS.step(144) == pytest.approx(0.180)
    assert COSTS.step(512) == pytest.approx(0.640)
    assert replace(COSTS, step_points=((8, 0.5),)).step(100) == 0.5
