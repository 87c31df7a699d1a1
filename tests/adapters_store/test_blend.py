from __future__ import annotations

import math

import pytest

from adapters_store.adapter import Version
from adapters_store.blend import BASE, MAX_ADAPTERS_PER_BLEND, Blend, BlendMember, Fusion
from adapters_store.errors import BlendRejected


def member(number: int, scale: float = 1.0) -> BlendMember:
    return BlendMember(version=Version(f"sha256:{number:064x}"), scale=scale)


def test_the_order_of_members_does_not_matter() -> None:
    forward, backward = Blend(members=(member(1), member(2, 0.5))), Blend(members=(member(2, 0.5), member(1)))
    assert forward == backward
    assert forward.key == backward.key
    assert forward.versions == tuple(sorted(forward.versions))


def test_key_tells_versions_scales_and_fusion_apart() -> None:
    blends = [
        BASE,
        Blend(members=(member(1),)),
        Blend(members=(member(2),)),
        Blend(members=(member(1, 0.5),)),
        Blend(members=(member(1), member(2))),
        Blend(members=(member(1), member(2)), fusion=Fusion(method="mean")),
        Blend(members=(member(1), member(2)), fusion=Fusion(method="ties")),
        Blend(members=(member(1), member(2)), fusion=Fusion(method="ties", density=0.5)),
    ]
    assert len({blend.key for blend in blends}) == len(blends)


def test_the_empty_blend_is_the_base_whatever_the_fusion() -> None:
    assert BASE.is_base
    assert Blend(fusion=Fusion(method="ram")).key == BASE.key


@pytest.mark.parametrize("scale", [math.nan, math.inf, -math.inf, 1e30, -100.5])
def test_a_scale_past_its_limit_is_refused_by_name(scale: float) -> None:
    with pytest.raises(BlendRejected, match=r"within ±100"):
        Blend(members=(member(1, scale),))


def test_one_adapter_too_many_is_refused_and_the_limit_named() -> None:
    Blend(members=tuple(member(number) for number in range(MAX_ADAPTERS_PER_BLEND)))
    with pytest.raises(BlendRejected, match="at most 32 adapters, got 33"):
        Blend(members=tuple(member(number) for number in range(MAX_ADAPTERS_PER_BLEND + 1)))


def test_one_version_twice_is_refused_by_name() -> None:
    with pytest.raises(BlendRejected, match=f"{member(1).version} appears twice"):
        Blend(members=(member(1, 0.5), member(1, 0.7)))
