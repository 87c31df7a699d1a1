from __future__ import annotations

import random

import pytest

from adapters_store.adapter import Adapter
from adapters_store.blend import BASE, Blend, BlendMember
from adapters_store.errors import AdapterUnavailable, BlendRejected, BudgetExceeded
from server.core.errors import SwitchFailed
from tests.server.execution.world import (
    Injected,
    World,
    expected_words,
    make_adapter,
    make_index_set,
    same_bits,
)


def audit_is_ok(world: World) -> bool:
    *_, report = world.execution.verify()
    assert report is not None
    return report.ok


def test_the_weights_hold_the_rounded_sum_of_base_and_deltas() -> None:
    world = World()
    base = world.words()
    a, b = make_adapter(1), make_adapter(2)
    world.execution.activate(world.blend(a, b, scale=0.5))
    assert same_bits(world.words(), expected_words(base, [(a, 0.5), (b, 0.5)]))


def test_restoring_leaves_every_bit_as_it_was() -> None:
    world = World()
    base = world.words()
    world.execution.activate(world.blend(make_adapter(1)))
    assert not same_bits(world.words(), base)
    world.execution.restore()
    assert same_bits(world.words(), base)


def test_a_blend_does_not_depend_on_what_was_in_before() -> None:
    world = World()
    shared = make_index_set(9)
    blends = [
        world.blend(make_adapter(1)),
        world.blend(make_adapter(2)),
        world.blend(make_adapter(3, shared)),
        world.blend(make_adapter(4, shared)),
        world.blend(make_adapter(1), make_adapter(3, shared)),
        BASE,
    ]
    alone = {}
    for blend in blends:
        fresh = World(shelf=world.shelf)
        fresh.execution.activate(blend)
        alone[blend.key] = fresh.words()
    for before in blends:
        for after in blends:
            world.execution.activate(before)
            world.execution.activate(after)
            assert same_bits(world.words(), alone[after.key])


def test_the_report_says_what_kind_of_switch_it_was() -> None:
    world = World()
    shared = make_index_set(9)
    a, b, c = (world.blend(make_adapter(seed, shared)) for seed in (1, 2, 3))
    other = world.blend(make_adapter(4))

    def kind(blend: Blend) -> tuple[str, str]:
        report = world.execution.activate(blend)
        return report.kind, report.tier

    assert kind(a) == ("fuse", "host")
    assert kind(a) == ("none", "device")
    assert kind(b) == ("exchange", "host")  # staged for the first time, which takes the base
    assert kind(a) == ("overwrite", "device")
    assert kind(other) == ("exchange", "host")
    assert kind(a) == ("exchange", "device")
    assert kind(BASE) == ("restore", "device")
    assert kind(c) == ("fuse", "host")
    assert world.metrics.registry.get_sample_value("shira_switches_total", {"kind": "overwrite"}) == 1


def test_weights_never_move() -> None:
    world = World()
    addresses = [weight.tensor.data_ptr() for weight in world.weights.weights]
    for seed in range(5):
        world.execution.activate(world.blend(make_adapter(seed)))
    world.execution.restore()
    assert [weight.tensor.data_ptr() for weight in world.weights.weights] == addresses


def test_staging_lets_the_adapters_go_again() -> None:
    world = World()
    world.execution.activate(world.blend(make_adapter(1), make_adapter(2)))
    assert set(world.shelf.held.values()) == {0}


def test_a_staged_blend_needs_its_adapters_no_more() -> None:
    world = World()
    a, b = world.blend(make_adapter(1)), world.blend(make_adapter(2))
    world.execution.activate(a)
    world.execution.activate(b)
    world.shelf.adapters.clear()
    assert world.execution.activate(a).tier == "device"


def test_blends_leave_the_device_when_its_budget_is_full_and_come_back() -> None:
    adapters = [make_adapter(seed) for seed in range(6)]
    probe = World()
    probe.execution.activate(probe.blend(adapters[0]))
    one = probe.execution.describe()["num_bytes"]
    world = World(budget_bytes=3 * one)
    base = world.words()
    blends = [world.blend(adapter) for adapter in adapters]
    for blend, adapter in [*zip(blends, adapters, strict=True)] * 2:
        world.execution.activate(blend)
        assert same_bits(world.words(), expected_words(base, [(adapter, 1.0)]))
        assert world.execution.describe()["num_bytes"] <= 3 * one


def test_a_blend_larger_than_the_budget_is_refused_over_the_base() -> None:
    world = World(budget_bytes=1000)
    base = world.words()
    with pytest.raises(BudgetExceeded):
        world.execution.activate(world.blend(make_adapter(1)))
    assert same_bits(world.words(), base)
    assert world.execution.describe()["num_bytes"] == 0


def test_a_blend_that_leaves_the_range_of_a_dtype_is_refused() -> None:
    world = World()
    base = world.words()
    huge = make_adapter(1, make_index_set(1, ["c.weight"]), amplitude=1e5)
    with pytest.raises(BlendRejected, match="range"):
        world.execution.activate(world.blend(huge))
    assert same_bits(world.words(), base)
    assert world.execution.active.is_base


def test_an_adapter_whose_bytes_are_nowhere_leaves_the_base() -> None:
    world = World()
    world.execution.activate(world.blend(make_adapter(1)))
    with pytest.raises(AdapterUnavailable):
        world.execution.activate(Blend(members=(BlendMember(version=make_adapter(2).version, scale=1.0),)))
    assert world.execution.active.is_base
    assert audit_is_ok(world)


def test_forgetting_restores_the_base_and_frees_what_was_staged() -> None:
    world = World()
    base = world.words()
    a, b = make_adapter(1), make_adapter(2)
    for blend in (world.blend(b), world.blend(a, b), world.blend(a)):
        world.execution.activate(blend)
    world.execution.forget(a.version)
    assert same_bits(world.words(), base)
    assert world.execution.describe()["staged_blends"] == [world.blend(b).key]
    world.execution.forget(b.version)
    assert world.execution.describe()["num_bytes"] == 0


@pytest.mark.parametrize("num_done", [0, 1, 3, 4])
@pytest.mark.parametrize("call", [0, 1, 2, 3])
@pytest.mark.parametrize("case", ["fuse", "exchange", "overwrite", "restore", "first use"])
def test_a_failure_anywhere_leaves_the_base_and_the_next_switch_works(case: str, call: int, num_done: int) -> None:
    world = World()
    base = world.words()
    shared = make_index_set(9)
    a, b = make_adapter(1, shared), make_adapter(2, shared)
    c, d = make_adapter(3), make_adapter(4, make_index_set(4, ["a.weight", "d.bias"]))
    first, second, other = world.blend(a), world.blend(b), world.blend(c)
    for blend in (second, other, first):  # staged, the last one stays in
        world.execution.activate(blend)
    target = {
        "fuse": other,
        "exchange": other,
        "overwrite": second,
        "restore": BASE,
        "first use": world.blend(d, c),
    }[case]
    if case == "fuse":
        world.execution.restore()
    world.kernels.fail_at = (call, num_done)
    try:
        world.execution.activate(target)
    except SwitchFailed:
        assert world.kernels.num_failed == 1
        assert world.execution.active.is_base
        assert same_bits(world.words(), base)
    else:
        assert world.kernels.num_failed == 0
    assert world.execution.broken is None
    world.kernels.fail_at = None
    world.execution.activate(first)
    assert same_bits(world.words(), expected_words(base, [(a, 1.0)]))
    world.execution.restore()
    assert same_bits(world.words(), base)


def test_a_base_that_cannot_be_restored_is_never_served() -> None:
    world = World()
    world.execution.activate(world.blend(make_adapter(1)))
    world.kernels.overwrite = _always_fails  # type: ignore[method-assign, assignment]
    with pytest.raises(SwitchFailed, match="restart"):
        world.execution.restore()
    assert world.execution.broken is not None
    with pytest.raises(SwitchFailed, match="restart"):
        world.execution.activate(world.blend(make_adapter(2)))


def test_a_random_walk_with_failures_ends_where_it_began() -> None:
    world = World(budget_bytes=200_000)
    base = world.words()
    shared = make_index_set(50)
    adapters = [make_adapter(seed) for seed in range(4)] + [make_adapter(10 + seed, shared) for seed in range(3)]
    rng = random.Random(7)
    for _ in range(400):
        blend = BASE
        members: list[Adapter] = []
        if rng.random() < 0.9:
            members = rng.sample(adapters, rng.choice([1, 1, 1, 2, 3]))
            blend = world.blend(*members, scale=rng.choice([1.0, -0.5]))
        world.kernels.fail_at = (rng.randrange(3), rng.randrange(5)) if rng.random() < 0.2 else None
        try:
            world.execution.activate(blend)
        except SwitchFailed:
            assert world.execution.active.is_base
            assert same_bits(world.words(), base)
        world.kernels.fail_at = None
    assert world.kernels.num_failed > 20
    assert audit_is_ok(world)
    world.execution.restore()
    assert same_bits(world.words(), base)
    failures = world.metrics.registry.get_sample_value("shira_base_integrity_failures_total")
    assert failures == 0


def _always_fails(*_: object) -> None:
    raise Injected
