"""Blends whose members take turns over the steps of a denoising loop."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters_store.blend import (
    BASE,
    DELTA_METHODS,
    MAX_EVERY,
    STEPWISE_METHODS,
    Blend,
    BlendMember,
    DeltaMethod,
    Fusion,
    StepwiseMethod,
)
from adapters_store.errors import BlendRejected
from tests.adapters_store.test_blend import member

SWITCH, COMPOSITE = Fusion(method="switch"), Fusion(method="composite")
_members = st.lists(
    st.builds(member, st.integers(0, 40), st.sampled_from([1.0, -0.5, 2.0])),
    min_size=2,
    max_size=6,
    unique_by=lambda each: each.version,
).map(tuple)


@given(_members, st.integers(1, 5))
def test_switch_gives_each_member_its_steps_in_the_order_asked_for_again_and_again(
    members: tuple[BlendMember, ...], every: int
) -> None:
    blend = Blend(members=members, fusion=Fusion(method="switch", every=every))
    turns = [one for one in members for _ in range(every)]
    num_steps = 2 * len(turns) + 1
    assert [blend.part_at(step).members for step in range(num_steps)] == [(one,) for one in [*turns, *turns, turns[0]]]


@given(_members)
def test_the_order_of_turns_is_part_of_the_key_of_switch_alone(members: tuple[BlendMember, ...]) -> None:
    backward = members[::-1]
    assert Blend(members=members, fusion=SWITCH).key != Blend(members=backward, fusion=SWITCH).key
    assert Blend(members=members, fusion=COMPOSITE).key == Blend(members=backward, fusion=COMPOSITE).key
    assert Blend(members=members, fusion=COMPOSITE) == Blend(members=backward, fusion=COMPOSITE)


@given(_members)
def test_key_tells_how_members_take_turns(members: tuple[BlendMember, ...]) -> None:
    fusions = [Fusion(method=method) for method in DELTA_METHODS + STEPWISE_METHODS] + [
        Fusion(method="switch", every=2),
        Fusion(method="switch", every=MAX_EVERY),
    ]
    assert len({Blend(members=members, fusion=fusion).key for fusion in fusions}) == len(fusions)


def test_every_is_one_step_unless_told() -> None:
    assert Fusion(method="switch", every=1) == SWITCH
    assert COMPOSITE.every is None
    assert Fusion().every is None


@pytest.mark.parametrize("method", STEPWISE_METHODS)
def test_parts_are_the_members_alone_each_with_its_scale(method: StepwiseMethod) -> None:
    one, other = member(1, 0.5), member(2, -2.0)
    blend = Blend(members=(one, other), fusion=Fusion(method=method))
    assert blend.is_stepwise
    assert blend.parts == (Blend(members=(one,)), Blend(members=(other,)))


@pytest.mark.parametrize("method", DELTA_METHODS)
def test_a_blend_that_is_one_delta_is_its_own_only_part(method: DeltaMethod) -> None:
    blend = Blend(members=(member(1), member(2)), fusion=Fusion(method=method))
    assert not blend.is_stepwise
    assert blend.parts == (blend,)
    assert blend.part_at(7) == blend


@pytest.mark.parametrize("method", STEPWISE_METHODS)
def test_one_member_that_takes_turns_with_nobody_is_that_member(method: StepwiseMethod) -> None:
    alone = Blend(members=(member(1, 0.5),))
    blend = Blend(members=alone.members, fusion=Fusion(method=method))
    assert not blend.is_stepwise
    assert blend.key == alone.key
    assert blend.parts == (alone,)
    assert blend.part_at(7) == alone
    assert blend.fusion.method == method  # what was asked for stays to be told


@pytest.mark.parametrize("method", STEPWISE_METHODS)
def test_no_members_are_the_base_whatever_their_turns(method: StepwiseMethod) -> None:
    blend = Blend(fusion=Fusion(method=method))
    assert not blend.is_stepwise
    assert blend.key == BASE.key
    assert blend.part_at(3).is_base


def test_composite_has_no_part_of_a_step() -> None:
    with pytest.raises(AssertionError, match="all parts"):
        Blend(members=(member(1), member(2)), fusion=COMPOSITE).part_at(0)


@pytest.mark.parametrize("every", [-1, 0, MAX_EVERY + 1])
def test_turns_outside_their_limits_are_refused_by_name(every: int) -> None:
    with pytest.raises(BlendRejected, match=rf"every is for switch and within 1..1000, got {every} for switch"):
        Blend(members=(member(1),), fusion=Fusion(method="switch", every=every))


@pytest.mark.parametrize("fusion", [Fusion(every=1), Fusion(method="composite", every=2)])
def test_turns_of_a_method_without_them_are_refused(fusion: Fusion) -> None:
    with pytest.raises(BlendRejected, match="every is for switch"):
        Blend(members=(member(1),), fusion=fusion)


@pytest.mark.parametrize("method", STEPWISE_METHODS)
def test_density_is_refused_where_nothing_is_trimmed(method: StepwiseMethod) -> None:
    with pytest.raises(BlendRejected, match="density is for ties"):
        Blend(members=(member(1), member(2)), fusion=Fusion(method=method, density=0.5))
