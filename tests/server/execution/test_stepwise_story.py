"""Any story of activating, turning, restoring, forgetting and failing keeps the laws of the weights."""

from __future__ import annotations

from functools import cache

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from torch import Tensor

from adapters_store.adapter import Adapter, Version
from adapters_store.blend import Blend, BlendMember, Fusion
from adapters_store.errors import BudgetExceeded
from server.core.errors import SwitchFailed
from server.execution.stepwise import StepwiseExecution
from tests.server.execution.world import World, expected_words, make_adapter, make_index_set, make_weights, same_bits

ADAPTERS = [make_adapter(1), make_adapter(2), make_adapter(3)]
ADAPTERS += [make_adapter(seed, make_index_set(9)) for seed in (4, 5)]
ADAPTERS += [make_adapter(6, make_index_set(6, ["e.weight", "d.bias"])), make_adapter(7, make_index_set(7, share=0.3))]
BY_VERSION: dict[Version, Adapter] = {adapter.version: adapter for adapter in ADAPTERS}
BASE_WORDS = {weight.name: weight.tensor for weight in make_weights().weights}
BUDGETS = [1 << 24, 170_000, 120_000]  # room for everything; for three, or the largest alone; for two, not the largest


def _some(min_size: int, max_size: int) -> st.SearchStrategy[tuple[BlendMember, ...]]:
    member = st.builds(BlendMember, version=st.sampled_from(list(BY_VERSION)), scale=st.sampled_from([1.0, -0.5]))
    members = st.lists(member, min_size=min_size, max_size=max_size, unique_by=lambda member: member.version)
    return members.map(tuple)


_stepwise = st.builds(
    Blend, members=_some(2, 4), fusion=st.sampled_from([Fusion(method="switch"), Fusion(method="composite")])
)
_ordinary = st.builds(Blend, members=_some(0, 2)) | st.builds(
    Blend, members=_some(0, 1), fusion=st.just(Fusion(method="switch"))
)
_blends = _stepwise | _stepwise | _ordinary
_failures = st.none() | st.none() | st.tuples(st.integers(0, 3), st.integers(0, 5))
_turns = st.lists(st.integers(0, 3), min_size=4, max_size=12)


class Turns(RuleBasedStateMachine):
    @initialize(budget_bytes=st.sampled_from(BUDGETS))
    def start(self, budget_bytes: int) -> None:
        self.world = World(budget_bytes=budget_bytes)
        self.world.shelf.adapters.update(BY_VERSION)
        self.stepwise = StepwiseExecution(self.world.execution)

    @rule(blend=_blends, fail_at=_failures, turns=_turns)
    def activate_and_take_turns(self, blend: Blend, fail_at: tuple[int, int] | None, turns: list[int]) -> None:
        self.activate(blend, fail_at)
        self.enter(turns, None)

    @rule(blend=_blends, fail_at=_failures)
    def activate(self, blend: Blend, fail_at: tuple[int, int] | None) -> None:
        self.world.kernels.fail_at = fail_at
        try:
            self.stepwise.activate(blend)
        except (SwitchFailed, BudgetExceeded):
            assert self.stepwise.active.is_base
        else:
            assert self.stepwise.active.key == blend.key
        self.world.kernels.fail_at = None

    @precondition(lambda self: self.stepwise.active.is_stepwise)
    @rule(turns=_turns, fail_at=_failures)
    def enter(self, turns: list[int], fail_at: tuple[int, int] | None) -> None:
        self.world.kernels.fail_at = fail_at
        parts = self.stepwise.active.parts
        for turn in turns:
            try:
                self.stepwise.enter(parts[turn % len(parts)])
            except SwitchFailed:
                assert self.stepwise.active.is_base
                break
            assert self.world.execution.active == parts[turn % len(parts)]
            self.the_weights_hold_what_is_said_to_be_in()
        self.world.kernels.fail_at = None

    @rule()
    def restore(self) -> None:
        self.stepwise.restore()
        assert self.stepwise.active.is_base

    @rule(version=st.sampled_from(list(BY_VERSION)))
    def forget(self, version: Version) -> None:
        was_active = version in self.stepwise.active.versions
        self.stepwise.forget(version)
        assert self.stepwise.active.is_base or not was_active

    @rule()
    def verify(self) -> None:
        *_, report = self.stepwise.verify()
        assert report is not None
        assert report.ok

    @invariant()
    def the_weights_hold_what_is_said_to_be_in(self) -> None:
        part = self.world.execution.active
        assert part.key in {own.key for own in self.stepwise.active.parts}
        assert same_bits(self.world.words(), reference(part))

    @invariant()
    def the_budget_is_kept_and_only_parts_of_the_active_blend_are_held(self) -> None:
        cache = self.world.execution.blends._cache
        held = {key for key in self.stepwise.describe()["staged_blends"] if cache.num_references(key)}
        assert held <= {part.key for part in self.stepwise.active.parts}
        assert cache.counts().num_bytes <= self.world.budget_bytes
        assert not any(self.world.shelf.held.values())

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.stepwise.restore()
            assert same_bits(self.world.words(), BASE_WORDS)


@cache
def reference(part: Blend) -> dict[str, Tensor]:
    return expected_words(BASE_WORDS, [(BY_VERSION[member.version], member.scale) for member in part.members])


TestTurns = Turns.TestCase
TestTurns.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
