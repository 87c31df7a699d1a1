from __future__ import annotations

import random

import pytest

from adapters_store.blend import BASE, STEPWISE_METHODS, Blend, BlendMember, Fusion, StepwiseMethod
from adapters_store.errors import AdapterUnavailable, BlendRejected, BudgetExceeded
from server.core.errors import SwitchFailed
from server.execution.stepwise import StepwiseExecution
from tests.server.execution.world import World, expected_words, make_adapter, make_index_set, same_bits

SWITCH = Fusion(method="switch")


def in_turn(*blends: Blend, method: StepwiseMethod = "switch") -> Blend:
    """The members of these, one after the other."""
    return Blend(members=tuple(member for blend in blends for member in blend.members), fusion=Fusion(method=method))


def bytes_of_one_part() -> int:
    world = World()
    world.execution.activate(world.blend(make_adapter(1)))
    num_bytes = world.execution.describe()["num_bytes"]
    assert isinstance(num_bytes, int)
    return num_bytes


@pytest.mark.parametrize("method", STEPWISE_METHODS)
def test_the_weights_hold_the_part_whose_turn_it_is_and_the_base_afterwards(method: StepwiseMethod) -> None:
    world = World()
    base = world.words()
    adapters = {adapter.version: adapter for adapter in map(make_adapter, range(3))}
    stepwise = StepwiseExecution(world.execution)
    blend = in_turn(*(world.blend(adapter, scale=-0.5) for adapter in adapters.values()), method=method)
    stepwise.activate(blend)
    for part in blend.parts * 2:
        stepwise.enter(part)
        assert stepwise.active == blend
        assert same_bits(world.words(), expected_words(base, [(adapters[part.versions[0]], -0.5)]))
    stepwise.restore()
    assert stepwise.active.is_base
    assert same_bits(world.words(), base)


def test_a_turn_is_one_exchange_of_what_was_staged_before() -> None:
    world = World()
    stepwise = StepwiseExecution(world.execution)
    blend = in_turn(*(world.blend(make_adapter(seed)) for seed in range(3)))
    assert stepwise.activate(blend).tier == "host"
    world.shelf.adapters.clear()
    reports = [stepwise.enter(blend.part_at(step)) for step in range(1, 7)]
    assert [(report.kind, report.tier) for report in reports] == [("exchange", "device")] * 6


def test_adapters_of_one_index_set_take_turns_by_overwriting() -> None:
    world = World()
    shared = make_index_set(9)
    stepwise = StepwiseExecution(world.execution)
    blend = in_turn(*(world.blend(make_adapter(seed, shared)) for seed in range(3)))
    stepwise.activate(blend)
    assert [stepwise.enter(blend.part_at(step)).kind for step in range(4)] == ["none"] + ["overwrite"] * 3


def test_a_part_that_is_in_the_weights_already_stays() -> None:
    world = World()
    stepwise = StepwiseExecution(world.execution)
    a, b = world.blend(make_adapter(1)), world.blend(make_adapter(2))
    stepwise.activate(a)
    stepwise.activate(b)
    assert stepwise.activate(in_turn(a, b)).kind == "none"
    assert world.execution.active.key == b.key
    assert stepwise.activate(b).kind == "none"
    assert stepwise.active.key == b.key


def test_the_same_again_leaves_the_turn_where_it_is() -> None:
    world = World()
    stepwise = StepwiseExecution(world.execution)
    blend = in_turn(world.blend(make_adapter(1)), world.blend(make_adapter(2)))
    stepwise.activate(blend)
    stepwise.enter(blend.parts[1])
    assert stepwise.activate(blend).kind == "none"
    assert world.execution.active == blend.parts[1]


def test_one_adapter_that_takes_turns_with_nobody_is_that_adapter() -> None:
    world = World()
    stepwise = StepwiseExecution(world.execution)
    a = world.blend(make_adapter(1))
    alone = in_turn(a)
    stepwise.activate(alone)
    assert stepwise.active.key == alone.key
    assert stepwise.enter(alone.part_at(5)).kind == "none"
    assert stepwise.activate(a).kind == "none"


def test_only_parts_of_the_active_blend_can_be_entered() -> None:
    world = World()
    stepwise = StepwiseExecution(world.execution)
    a, b, c = (world.blend(make_adapter(seed)) for seed in range(3))
    for active, strangers in ((in_turn(a, b), (BASE, c, in_turn(a, b))), (a, (BASE, b)), (BASE, (a,))):
        stepwise.activate(active)
        before = world.words()
        for stranger in strangers:
            with pytest.raises(AssertionError, match="no part of the active blend"):
                stepwise.enter(stranger)
        assert stepwise.active == active
        assert same_bits(world.words(), before)
        assert stepwise.enter(active.parts[0]).kind == "none"


def test_nothing_is_asked_to_run_beside() -> None:
    world = World()
    stepwise = StepwiseExecution(world.execution)
    blend = in_turn(world.blend(make_adapter(1)), world.blend(make_adapter(2)))
    assert not any(stepwise.survey(asked).is_mixable for asked in (BASE, blend, *blend.parts))
    with pytest.raises(AssertionError, match="beside"):
        stepwise.activate(blend, [BASE])
    assert stepwise.active.is_base


def test_a_survey_counts_the_entries_of_the_largest_part() -> None:
    world = World()
    stepwise = StepwiseExecution(world.execution)
    small, large = make_adapter(1), make_adapter(2, make_index_set(2, share=0.2))
    parts = [world.blend(adapter) for adapter in (small, large)]
    assert stepwise.survey(in_turn(*parts)).num_entries == large.index_set.num_entries
    together = Blend(members=in_turn(*parts).members)
    assert stepwise.survey(together).num_entries == small.index_set.num_entries + large.index_set.num_entries
    assert stepwise.survey(BASE).num_entries == 0
    assert not any(world.shelf.held.values())


@pytest.mark.parametrize("method", STEPWISE_METHODS)
def test_turns_of_an_adapter_that_does_more_than_run_in_every_step_are_refused(method: StepwiseMethod) -> None:
    world = World()
    stepwise = StepwiseExecution(world.execution, prefix="a.")
    stepped = world.blend(make_adapter(1, make_index_set(1, ["a.weight"])))
    other = world.blend(make_adapter(2, make_index_set(2, ["a.weight", "d.bias"])))
    with pytest.raises(BlendRejected, match=r"d\.bias"):
        stepwise.survey(in_turn(stepped, other, method=method))
    stepwise.survey(other)
    assert not any(world.shelf.held.values())


def test_held_parts_stay_until_the_blend_leaves_and_not_longer() -> None:
    world = World(budget_bytes=3 * bytes_of_one_part())
    stepwise = StepwiseExecution(world.execution)
    blend = in_turn(world.blend(make_adapter(1)), world.blend(make_adapter(2)))
    stepwise.activate(blend)
    assert stepwise.describe()["in_turn"] == {
        "blend_key": blend.key,
        "fusion": "switch",
        "every": 1,
        "parts": [part.key for part in blend.parts],
        "held": [part.key for part in blend.parts],
    }
    for seed in range(10, 14):
        stepwise.activate(world.blend(make_adapter(seed)))
    assert stepwise.describe()["in_turn"] is None
    assert not {part.key for part in blend.parts} & set(stepwise.describe()["staged_blends"])


def test_where_there_is_no_room_for_all_the_last_parts_share_what_is_left() -> None:
    """Least recently used first would stage every part of every turn of a cycle anew."""
    world = World(budget_bytes=3 * bytes_of_one_part())
    base = world.words()
    adapters = [make_adapter(seed) for seed in range(4)]
    stepwise = StepwiseExecution(world.execution)
    blend = in_turn(*(world.blend(adapter) for adapter in adapters))
    stepwise.activate(blend)
    tiers = []
    for step in range(12):
        tiers.append(stepwise.enter(blend.part_at(step)).tier)
        assert same_bits(world.words(), expected_words(base, [(adapters[step % 4], 1.0)]))
        assert stepwise.describe()["num_bytes"] <= world.budget_bytes
    assert tiers[4:] == ["device", "device", "host", "host"] * 2
    stepwise.restore()
    assert same_bits(world.words(), base)


def test_a_part_that_can_never_fit_is_told_before_the_first_step() -> None:
    world = World(budget_bytes=3 * bytes_of_one_part())
    base = world.words()
    stepwise = StepwiseExecution(world.execution)
    fits, large = world.blend(make_adapter(1)), world.blend(make_adapter(2, make_index_set(2, share=0.8)))
    stepwise.activate(fits)
    with pytest.raises(BudgetExceeded):
        stepwise.activate(in_turn(fits, large))
    assert stepwise.active.is_base
    assert same_bits(world.words(), base)
    stepwise.activate(fits)


@pytest.mark.parametrize("place", [0, 1])
def test_a_part_that_cannot_be_made_is_told_before_the_first_step(place: int) -> None:
    world = World()
    base = world.words()
    stepwise = StepwiseExecution(world.execution)
    good, other = world.blend(make_adapter(1)), world.blend(make_adapter(2))
    huge = world.blend(make_adapter(3, make_index_set(3, ["c.weight"]), amplitude=1e5))
    missing = Blend(members=(BlendMember(version=make_adapter(4).version, scale=1.0),))
    for bad, error in ((huge, BlendRejected), (missing, AdapterUnavailable)):
        stepwise.activate(in_turn(good, other))
        with pytest.raises(error):
            stepwise.activate(in_turn(*((good, bad) if place else (bad, good))))
        assert stepwise.active.is_base
        assert same_bits(world.words(), base)
    world.execution.forget(good.versions[0])
    world.execution.forget(other.versions[0])
    assert world.execution.describe()["num_bytes"] == 0, "a blend that failed holds nothing"


@pytest.mark.parametrize("place", [0, 1])
def test_forgetting_a_member_brings_the_base_in_whoevers_turn_it_is(place: int) -> None:
    world = World()
    base = world.words()
    stepwise = StepwiseExecution(world.execution)
    blend = in_turn(world.blend(make_adapter(1)), world.blend(make_adapter(2)))
    stepwise.activate(blend)
    stepwise.forget(make_adapter(3).version)
    assert stepwise.active == blend
    stepwise.forget(blend.versions[place])
    assert stepwise.active.is_base
    assert same_bits(world.words(), base)
    assert stepwise.describe()["staged_blends"] == [blend.parts[1 - place].key]


@pytest.mark.parametrize("num_done", range(6))
def test_a_turn_that_fails_leaves_the_base_and_the_next_blend_works(num_done: int) -> None:
    world = World()
    base = world.words()
    adapters = [make_adapter(1), make_adapter(2)]
    stepwise = StepwiseExecution(world.execution)
    blend = in_turn(*map(world.blend, adapters))
    stepwise.activate(blend)
    world.kernels.fail_at = (0, num_done)
    with pytest.raises(SwitchFailed):
        stepwise.enter(blend.parts[1])
    assert stepwise.active.is_base
    assert same_bits(world.words(), base)
    stepwise.activate(blend)
    stepwise.enter(blend.parts[1])
    assert same_bits(world.words(), expected_words(base, [(adapters[1], 1.0)]))


def test_weights_that_cannot_be_vouched_for_are_never_active_as_they_were() -> None:
    world = World()
    stepwise = StepwiseExecution(world.execution)
    blend = in_turn(world.blend(make_adapter(1)), world.blend(make_adapter(2)))
    stepwise.activate(blend)
    world.execution._broken = "a restore failed half way"
    with pytest.raises(SwitchFailed, match="half way"):
        stepwise.enter(blend.parts[0])
    for same in (blend, blend.parts[0]):
        with pytest.raises(SwitchFailed, match="half way"):
            stepwise.activate(same)


def test_a_thousand_random_turns_leave_every_digest_as_it_was() -> None:
    world = World()
    base = world.words()
    shared = make_index_set(50)
    adapters = [make_adapter(1), make_adapter(2), make_adapter(3, shared), make_adapter(4, shared)]
    expected = {adapter.version: expected_words(base, [(adapter, 1.0)]) for adapter in adapters}
    stepwise = StepwiseExecution(world.execution)
    blend = in_turn(*map(world.blend, adapters))
    stepwise.activate(blend)
    dice = random.Random(0)
    for _ in range(1000):
        part = dice.choice(blend.parts)
        stepwise.enter(part)
        assert same_bits(world.words(), expected[part.versions[0]])
    for _ in range(2):
        *_, report = stepwise.verify()
        assert report is not None
        assert report.ok
        stepwise.restore()
    assert same_bits(world.words(), base)
