from __future__ import annotations

import pytest
import torch
from torch import Tensor

from adapters_store.adapter import BLOCK_ELEMENTS, IndexSet
from adapters_store.format import unpack_positions
from adapters_store.tools.masks import MaskName, build_mask, num_kept, top_k

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def positions(index_set: IndexSet) -> dict[str, list[int]]:
    return {entry.name: flat.tolist() for entry, flat in unpack_positions(index_set)}


def wm(weight: Tensor, sparsity: float) -> list[int]:
    return positions(build_mask([("w", weight)], "wm", sparsity=sparsity))["w"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_wm_takes_the_largest_magnitudes_of_a_matrix_written_by_hand(dtype: torch.dtype) -> None:
    weight = torch.tensor([[0.5, -3.0, 0.0, 1.0], [2.0, -0.25, -2.5, 0.125]], dtype=dtype)
    assert wm(weight, 3 / 8) == [1, 4, 6]


@pytest.mark.parametrize("dtype", DTYPES)
def test_wm_gives_ties_to_the_lower_flat_index_whatever_their_sign(dtype: torch.dtype) -> None:
    weight = torch.tensor([[1.0, -1.0, 1.0], [-1.0, 2.0, 1.0]], dtype=dtype)
    assert wm(weight, 3 / 6) == [0, 1, 4]


def test_wm_takes_minus_zero_for_zero() -> None:
    assert wm(torch.tensor([[-0.0, 0.0, -0.0, 0.0]]), 2 / 4) == [0, 1]


def test_wm_ranks_the_stored_dtype_so_values_that_round_alike_tie() -> None:
    fine = torch.tensor([[1.0, 1.001, 0.5]])
    assert wm(fine, 1 / 3) == [1]
    assert wm(fine.bfloat16(), 1 / 3) == [0]


def test_wm_reads_positions_in_the_order_of_the_logical_shape() -> None:
    weight = torch.tensor([[1.0, 9.0], [2.0, 3.0], [8.0, 4.0]])
    assert wm(weight.t(), 2 / 6) == [2, 3]  # 8 and 9 of the transposed matrix
    assert wm(weight.t(), 2 / 6) == wm(weight.t().contiguous(), 2 / 6)


@pytest.mark.parametrize(("numel", "sparsity", "kept"), [(50, 0.01, 1), (199, 0.01, 1), (200, 0.01, 2), (7, 1.0, 7)])
def test_a_weight_keeps_the_floor_of_its_share_and_at_least_one(numel: int, sparsity: float, kept: int) -> None:
    assert num_kept(numel, sparsity) == kept


def test_top_k_equals_a_stable_sort() -> None:
    scores = torch.randint(0, 20, (500,), generator=torch.Generator().manual_seed(1))
    for k in (1, 7, 250, 500):
        expected = scores.sort(descending=True, stable=True).indices[:k].sort().values
        assert torch.equal(top_k(scores, k), expected)


def test_a_rand_mask_is_known_by_its_seed_and_the_name_of_the_weight() -> None:
    def rand(seed: int, *names: str) -> dict[str, list[int]]:
        weights = [(name, torch.zeros(30, 40)) for name in names]
        return positions(build_mask(weights, "rand", sparsity=0.05, seed=seed))

    assert rand(7, "a") == rand(7, "a")
    assert rand(7, "a")["a"] != rand(8, "a")["a"]
    assert rand(7, "a", "b")["a"] != rand(7, "a", "b")["b"]
    assert rand(7, "a", "b")["a"] == rand(7, "a")["a"]


def test_a_rand_mask_is_the_same_on_every_machine() -> None:
    index_set = build_mask([("w", torch.zeros(10, 10))], "rand", sparsity=0.05, seed=0)
    assert positions(index_set) == {"w": [19, 82, 86, 94, 96]}


def test_a_rand_mask_draws_without_replacement_and_evenly() -> None:
    (flat,) = positions(build_mask([("w", torch.zeros(1000, 1000))], "rand", sparsity=0.1, seed=3)).values()
    assert len(set(flat)) == 100_000
    tenths = torch.tensor(flat).div(100_000, rounding_mode="floor").bincount()
    assert (tenths - 10_000).abs().max() < 500  # five standard deviations


@pytest.mark.parametrize("mask", ["rand", "wm"])
def test_weights_stand_in_order_of_name_and_blocks_start_anew_with_each(mask: MaskName) -> None:
    large = torch.randn(3, BLOCK_ELEMENTS // 2 + 5, generator=torch.Generator().manual_seed(0)).bfloat16()
    index_set = build_mask([("b", torch.ones(4, 4)), ("a", large)], mask, sparsity=0.25)
    assert [(entry.name, entry.first_block, entry.num_blocks) for entry in index_set.table] == [
        ("a", 0, 2),
        ("b", 2, 1),
    ]
    assert index_set.offsets.tolist()[-1] == index_set.num_entries == num_kept(large.numel(), 0.25) + 4
    assert [entry.dtype for entry in index_set.table] == ["bfloat16", "float32"]


@pytest.mark.parametrize(
    ("weight", "sparsity", "message"),
    [
        (torch.ones(2, 2), 0.0, "sparsity"),
        (torch.ones(2, 2), 1.5, "sparsity"),
        (torch.ones(2, 2), float("nan"), "sparsity"),
        (torch.tensor([1.0, float("nan")]), 0.5, "w: finite"),
        (torch.ones(2, dtype=torch.int8), 0.5, "w: dtype"),
        (torch.ones(0, 3), 0.5, "w: shape"),
    ],
)
def test_what_cannot_be_ranked_is_refused_by_name(weight: Tensor, sparsity: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_mask([("w", weight)], "wm", sparsity=sparsity)
