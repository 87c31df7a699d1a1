from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from adapters_store.adapter import IndexSet
from adapters_store.kernels import Kernels, UnionMember
from tests.adapters_store.kernels.sets import DTYPES, make_index_set, make_weights

WEIGHTS = make_weights(DTYPES)


def member_of(index_set: IndexSet, scale: float, seed: int, dtype: torch.dtype = torch.float32) -> UnionMember:
    values = torch.randn(index_set.num_entries, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return UnionMember(
        blocks=torch.arange(index_set.num_blocks),
        offsets=index_set.offsets,
        indices=index_set.indices,
        values=values,
        scale=scale,
    )


@pytest.mark.parametrize("densities", [(0.01,), (0.01, 0.02), (0.0, 0.1, 0.0), (0.3, 0.3, 0.3, 1.0)], ids=str)
def test_every_variant_sums_as_the_reference_does(
    kernels: Kernels, reference: Kernels, densities: tuple[float, ...]
) -> None:
    sets = [make_index_set(WEIGHTS, density, seed=i) for i, density in enumerate(densities)]
    members = [member_of(s, 0.3 * i - 0.5, i, DTYPES[i % 3]) for i, s in enumerate(sets)]
    offsets, indices, delta = kernels.union_sum(sets[0].num_blocks, members)
    expected_offsets, expected_indices, expected_delta = reference.union_sum(sets[0].num_blocks, members)
    assert torch.equal(offsets, expected_offsets)
    assert torch.equal(indices.view(torch.int16), expected_indices.view(torch.int16))
    assert torch.equal(delta.view(torch.int32), expected_delta.view(torch.int32))


def test_a_union_is_a_valid_index_set_that_holds_every_member(kernels: Kernels) -> None:
    sets = [make_index_set(WEIGHTS, 0.02, seed=i) for i in range(3)]
    offsets, indices, delta = kernels.union_sum(sets[0].num_blocks, [member_of(s, 1.0, i) for i, s in enumerate(sets)])
    assert int(offsets[-1]) == indices.numel() == delta.numel()
    for block in range(sets[0].num_blocks):
        got = indices[offsets[block] : offsets[block + 1]].to(torch.int64).tolist()
        held = [s.indices[s.offsets[block] : s.offsets[block + 1]].to(torch.int64).tolist() for s in sets]
        assert got == sorted(set().union(*held))


def test_products_are_summed_in_the_members_order_and_rounded_each_time(kernels: Kernels) -> None:
    index_set = make_index_set(WEIGHTS, 0.05, seed=1)
    members = [member_of(index_set, scale, seed) for seed, scale in enumerate((1e-3, 3.0, -7.7))]
    _, _, delta = kernels.union_sum(index_set.num_blocks, members)
    products = [torch.tensor(member.scale, dtype=torch.float32) * member.values for member in members]
    assert torch.equal(delta, (products[0] + products[1]) + products[2])


def test_the_first_product_starts_the_sum_so_minus_zero_survives(kernels: Kernels) -> None:
    index_set = make_index_set(WEIGHTS, 0.01, seed=1)
    member = replace(member_of(index_set, 1.0, 1), values=torch.full((index_set.num_entries,), -0.0))
    _, _, delta = kernels.union_sum(index_set.num_blocks, [member])
    assert bool(torch.signbit(delta).all())


def test_members_may_lack_blocks_and_order_their_own_otherwise(kernels: Kernels, reference: Kernels) -> None:
    index_set = make_index_set(WEIGHTS, 0.05, seed=1)
    whole = member_of(index_set, 1.0, 1)
    blocks = whole.blocks.flip(0).clone()
    blocks[::2] = -1
    members = [whole, replace(whole, blocks=blocks, scale=2.0)]
    for got, expected in zip(
        kernels.union_sum(index_set.num_blocks, members),
        reference.union_sum(index_set.num_blocks, members),
        strict=True,
    ):
        assert torch.equal(got.to(torch.float64), expected.to(torch.float64))


def test_wrong_members_are_refused(kernels: Kernels) -> None:
    index_set = make_index_set(WEIGHTS, 0.05, seed=1)
    good = member_of(index_set, 1.0, 1)
    wrong = {
        "blocks": replace(good, blocks=good.blocks + 1),
        "offsets": replace(good, offsets=good.offsets + 1),
        "indices": replace(good, indices=good.indices.to(torch.int32)),
        "values": replace(good, values=good.values[:-1]),
        "scale": replace(good, scale=float("nan")),
    }
    for field, member in wrong.items():
        with pytest.raises(ValueError, match=rf"members\[1\]\.{field}: expected"):
            kernels.union_sum(index_set.num_blocks, [good, member])
    with pytest.raises(ValueError, match="at least one"):
        kernels.union_sum(index_set.num_blocks, [])
