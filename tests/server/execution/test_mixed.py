from __future__ import annotations

import pytest
import torch
from torch import Tensor

from adapters_store.adapter import Adapter, IndexSet, Version
from adapters_store.blend import BASE, Blend, BlendMember
from adapters_store.errors import AdapterUnavailable, BlendRejected, BudgetExceeded
from adapters_store.kernels import RowTargets
from server.core.errors import OutOfMemory, SwitchFailed
from server.execution.mixed import MixedExecution
from tests.server.execution.world import World, make_adapter, make_index_set, same_bits

LINEAR = ("a.weight", "b.weight")


def linear_set(seed: int) -> IndexSet:
    return make_index_set(seed, LINEAR)


def linear_adapter(seed: int, index_set: IndexSet | None = None) -> Adapter:
    return make_adapter(seed, index_set or linear_set(seed))


def words_of_a_row(world: World, targets: RowTargets | None) -> dict[str, Tensor]:
    """The linear weights as a row with ``targets`` sees them."""
    seen = {}
    for weight in world.weights.weights:
        if weight.name in LINEAR:
            seen[weight.name] = own = weight.tensor.clone()
            part = targets.layout.part_of(weight.tensor) if targets else None
            if targets and part:
                starts = targets.layout.starts[part.starts]
                rows = torch.repeat_interleave(torch.arange(len(starts) - 1), starts.diff())
                columns = targets.layout.columns[part.entries].to(torch.int64)
                own.view(part.word_dtype)[rows, columns] = part.words_of(targets.words)
    return seen


def fused_words(world: World, blend: Blend) -> dict[str, Tensor]:
    other = World(shelf=world.shelf)
    other.execution.activate(blend)
    return words_of_a_row(other, None)


def test_a_row_beside_any_blend_runs_with_the_words_of_its_own_fused() -> None:
    world = World()
    shared = linear_set(9)
    blends = [
        BASE,
        world.blend(linear_adapter(1)),
        world.blend(linear_adapter(2), scale=-0.5),
        world.blend(linear_adapter(3, shared)),
        world.blend(linear_adapter(4, shared)),
        world.blend(linear_adapter(1), linear_adapter(3, shared)),
    ]
    base = world.words()
    mixed = MixedExecution(world.execution)
    for active in blends:
        report = mixed.activate(active, blends)
        assert not report.failed
        assert mixed.active.key == active.key
        for blend in blends:
            assert (mixed.targets(blend.key) is None) == (blend.key == active.key)
            assert same_bits(words_of_a_row(world, mixed.targets(blend.key)), fused_words(world, blend))
    mixed.restore()
    assert same_bits(world.words(), base)


def test_a_blend_that_is_neither_in_nor_beside_has_no_targets() -> None:
    world = World()
    mixed = MixedExecution(world.execution)
    a, b = world.blend(linear_adapter(1)), world.blend(linear_adapter(2))
    mixed.activate(BASE, [a])
    with pytest.raises(KeyError):
        mixed.targets(b.key)
    mixed.activate(BASE, [b])
    with pytest.raises(KeyError):
        mixed.targets(a.key)
    mixed.restore()
    with pytest.raises(KeyError):
        mixed.targets(b.key)


def test_the_same_again_does_nothing() -> None:
    world = World()
    mixed = MixedExecution(world.execution)
    a, b = world.blend(linear_adapter(1)), world.blend(linear_adapter(2))
    assert mixed.activate(a, [b]).kind == "fuse"
    targets = mixed.targets(b.key)
    assert mixed.activate(a, [b, a]).kind == "none"
    assert mixed.targets(b.key) is targets


def test_blends_on_one_index_set_run_beside_each_other_with_their_own_words() -> None:
    world = World()
    shared = linear_set(9)
    a, b = world.blend(linear_adapter(1, shared)), world.blend(linear_adapter(2, shared))
    mixed = MixedExecution(world.execution)
    mixed.activate(BASE, [a, b])
    one, other = mixed.targets(a.key), mixed.targets(b.key)
    assert one is not None
    assert other is not None
    assert one.layout is other.layout


def test_what_cannot_run_beside_is_told_and_the_rest_runs() -> None:
    world = World()
    good, everything = world.blend(linear_adapter(1)), world.blend(make_adapter(2))
    missing = Blend(members=(BlendMember(version=Version("sha256:" + "0" * 64), scale=1.0),))
    mixed = MixedExecution(world.execution)
    report = mixed.activate(BASE, [good, everything, missing])
    assert {key: type(error) for key, error in report.failed.items()} == {
        everything.key: BlendRejected,
        missing.key: AdapterUnavailable,
    }
    assert mixed.targets(good.key) is not None
    report = mixed.activate(everything, [good, BASE])
    assert set(report.failed) == {good.key, BASE.key}, "beside a blend on a bias nothing else is right"
    assert mixed.active.key == everything.key


def test_a_survey_counts_entries_and_says_what_can_run_beside() -> None:
    world = World()
    a, b = linear_adapter(1), make_adapter(2)
    mixed = MixedExecution(world.execution)
    assert mixed.survey(BASE).is_mixable
    survey = mixed.survey(world.blend(a))
    assert survey.is_mixable
    assert survey.num_entries == a.index_set.num_entries
    both = mixed.survey(world.blend(a, b))
    assert not both.is_mixable
    assert both.num_entries == a.index_set.num_entries + b.index_set.num_entries
    assert not any(world.shelf.held.values())


def test_nothing_stays_held_when_all_have_left() -> None:
    world = World()
    mixed = MixedExecution(world.execution)
    a, b, c = (world.blend(linear_adapter(seed)) for seed in (1, 2, 3))
    assert mixed.describe()["mode"] == "fused"
    mixed.activate(a, [b, c, BASE])
    assert mixed.describe()["mode"] == "mixed"
    mixed.activate(BASE, [b, c])
    mixed.restore()
    for blend in (a, b, c):
        mixed.forget(blend.versions[0])
    assert mixed.describe()["num_bytes"] == 0
    assert mixed.describe()["staged_blends"] == []


def test_forgetting_a_version_takes_it_from_beside_at_once() -> None:
    world = World()
    mixed = MixedExecution(world.execution)
    a, b = world.blend(linear_adapter(1)), world.blend(linear_adapter(2))
    mixed.activate(a, [b])
    mixed.forget(b.versions[0])
    assert mixed.active.key == a.key
    assert b.key not in mixed.describe()["staged_blends"]
    with pytest.raises(KeyError):
        mixed.targets(b.key)


def test_a_switch_that_fails_leaves_the_base_and_nothing_beside() -> None:
    world = World()
    base = world.words()
    mixed = MixedExecution(world.execution)
    a, b, c = (world.blend(linear_adapter(seed)) for seed in (1, 2, 3))
    mixed.activate(a, [b])
    world.kernels.fail_at = (0, 1)
    with pytest.raises(SwitchFailed):
        mixed.activate(c, [b])
    assert mixed.active.is_base
    assert same_bits(world.words(), base)
    with pytest.raises(KeyError):
        mixed.targets(b.key)
    assert not mixed.activate(c, [b]).failed
    mixed.restore()
    for blend in (a, b, c):
        mixed.forget(blend.versions[0])
    assert mixed.describe()["num_bytes"] == 0


def test_where_the_device_has_no_room_for_all_the_last_ones_give_way() -> None:
    world = World(budget_bytes=500_000)
    mixed = MixedExecution(world.execution)
    blends = [world.blend(linear_adapter(seed)) for seed in range(6)]
    failed = mixed.activate(BASE, blends).failed
    num_kept = len(blends) - len(failed)
    assert 0 < num_kept < len(blends)
    assert set(failed) == {blend.key for blend in blends[num_kept:]}
    assert all(isinstance(error, BudgetExceeded) for error in failed.values())
    for blend in blends[:num_kept]:
        assert mixed.targets(blend.key) is not None
    failed = mixed.activate(BASE, [*blends[num_kept:], *blends[:num_kept]]).failed
    assert blends[num_kept].key not in failed


def test_a_blend_that_has_no_room_even_alone_is_told_so() -> None:
    world = World(budget_bytes=100_000)
    blend = world.blend(linear_adapter(1))
    report = MixedExecution(world.execution).activate(BASE, [blend])
    assert isinstance(report.failed[blend.key], BudgetExceeded)


def test_differences_kept_for_one_blend_in_the_weights_are_not_used_over_another() -> None:
    world = World()
    a, b, c = (world.blend(linear_adapter(seed)) for seed in (1, 2, 3))
    mixed = MixedExecution(world.execution)
    over: dict[str, RowTargets | None] = {}
    for active in (BASE, b, c, BASE, b):
        mixed.activate(active, [a])
        targets = mixed.targets(a.key)
        assert over.setdefault(active.key, targets) is targets
    assert len({id(targets) for targets in over.values()}) == 3


def test_a_blend_that_cannot_be_staged_fails_alone() -> None:
    """It failed everybody in the step."""
    world = World()
    mixed = MixedExecution(world.execution)
    good, bad = world.blend(linear_adapter(1)), world.blend(linear_adapter(2))
    mixed.activate(good)
    world.kernels.fail_at = (1, 0)  # the second call: staging the second blend
    mixed.restore()
    report = mixed.activate(good, [bad, BASE])
    assert isinstance(report.failed[bad.key], SwitchFailed)
    assert mixed.active.key == good.key
    assert mixed.targets(BASE.key) is not None


def test_a_lack_of_memory_for_a_blend_beside_another_is_told_as_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    mixed = MixedExecution(world.execution)
    good, other = world.blend(linear_adapter(1)), world.blend(linear_adapter(2))

    def refuse(*_: object) -> object:
        raise MemoryError

    monkeypatch.setattr(world.execution.blends, "hold_targets", refuse)
    report = mixed.activate(good, [other])
    assert isinstance(report.failed[other.key], OutOfMemory)
    assert mixed.active.key == good.key


def test_weights_that_cannot_be_vouched_for_are_never_active_as_they_were() -> None:
    """The same blend again was answered without a look at them."""
    world = World()
    mixed = MixedExecution(world.execution)
    blend = world.blend(linear_adapter(1))
    mixed.activate(blend)
    world.execution._broken = "a restore failed half way"
    with pytest.raises(SwitchFailed):
        mixed.activate(blend)
