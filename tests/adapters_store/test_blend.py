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


def test_the_keys_of_blends_that_make_one_delta_never_change() -> None:
    """Receipts, caches and other replicas know them: these are of the first release that had blends."""
    two = (member(2, 0.5), member(1))
    keys = {
        Fusion(): "859f56800072943bd3d465d354c22b3802ffc7c944eb296183a3f788e32f1fbd",
        Fusion(method="mean"): "ff10b1c5af1a4675b526ee10899d39ebdb0f3a08165edae74a49de4095941459",
        Fusion(method="ram"): "e3903238062d7f3ad00301f7f414f7b5499939e7a05ea02c72eb2ebc3331be82",
        Fusion(method="ties", density=0.5): "4b3875703fd3699bf99e4c00ff18457581895b5c984f17de8375e65b9cbcf6d3",
    }
    keys_of_one = {
        Fusion(): "17800608e1cdb7f03ca93a5ee977916aab38c7dfd924f5edaaa3cdb9a2ffbef3",
        Fusion(method="mean"): "1b277a9dedfe92544fe1796102cc29acc2d0f2d3c072857f2a45adc27f1add46",
    }
    assert BASE.key == "sha256:7ef94830a4535e029052fc1c73751094748d957418e0464dc1acea5d9be5f1aa"
    assert {fusion: Blend(members=two, fusion=fusion).key for fusion in keys} == prefixed(keys)
    assert {fusion: Blend(members=(member(1),), fusion=fusion).key for fusion in keys_of_one} == prefixed(keys_of_one)


def prefixed(keys: dict[Fusion, str]) -> dict[Fusion, str]:
    return {fusion: f"sha256:{digest}" for fusion, digest in keys.items()}
