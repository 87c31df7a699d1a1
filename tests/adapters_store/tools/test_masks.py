from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from adapters_store.adapter import BLOCK_ELEMENTS, IndexSet
from adapters_store.format import unpack_positions
from adapters_store.tools.masks import Axis, MaskName, build_mask, num_kept, top_k

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


def test_wm_tasks_take_the_ranks_one_after_the_other_and_never_meet() -> None:
    weight = torch.tensor([[0.5, -3.0, 0.25, 1.0], [2.0, -0.75, -2.5, 0.125]])

    def task(number: int) -> list[int]:
        return positions(build_mask([("w", weight)], "wm", sparsity=2 / 8, task=number))["w"]

    assert [task(number) for number in range(4)] == [[1, 6], [3, 4], [0, 5], [2, 7]]
    with pytest.raises(ValueError, match="w: entries: expected at least 10 to choose 2 from, got 8"):
        task(4)


def test_wm_tasks_share_a_tie_between_them_without_sharing_a_position() -> None:
    weight = torch.tensor([[1.0, 1.0, 2.0, 1.0]])
    taken = [positions(build_mask([("w", weight)], "wm", sparsity=1 / 4, task=number))["w"] for number in range(4)]
    assert taken == [[2], [0], [1], [3]]


def struct(shape: tuple[int, int], sparsity: float, *, axis: Axis = "rows", offset: int = 0) -> list[list[int]]:
    weight = torch.zeros(shape)
    (flat,) = positions(build_mask([("w", weight)], "struct", sparsity=sparsity, axis=axis, offset=offset)).values()
    return weight.view(-1).index_fill(0, torch.tensor(flat), 1).view(shape).int().tolist()


def test_struct_is_every_so_many_rows_and_the_diagonal() -> None:
    # 13 of 24 entries may be taken; every third row and the diagonal are 2 · 4 + 2, every second one 3 · 4 + 2
    assert struct((6, 4), 13 / 24) == [
        [1, 1, 1, 1],
        [0, 1, 0, 0],
        [0, 0, 1, 0],
        [1, 1, 1, 1],
        [0, 0, 0, 0],
        [0, 0, 0, 0],
    ]


def test_struct_starts_at_its_offset() -> None:
    assert struct((6, 4), 13 / 24, offset=1) == [
        [1, 0, 0, 0],
        [1, 1, 1, 1],
        [0, 0, 1, 0],
        [0, 0, 0, 1],
        [1, 1, 1, 1],
        [0, 0, 0, 0],
    ]
    assert struct((6, 4), 13 / 24, offset=4) == struct((6, 4), 13 / 24, offset=1)


@pytest.mark.parametrize("axis", ["rows", "columns"])
@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (13, 5), (9, 9)])
def test_struct_keeps_its_share_whatever_the_offset(shape: tuple[int, int], axis: Axis) -> None:
    numel = shape[0] * shape[1]
    least = max(shape) + min(shape)  # a line and the diagonal
    for budget in range(least, numel + 1):
        for offset in range(max(shape)):
            taken = torch.tensor(struct(shape, budget / numel, axis=axis, offset=offset)).sum()
            assert taken <= budget


def test_struct_takes_columns_as_well() -> None:
    transposed = torch.tensor(struct((6, 4), 13 / 24, offset=1)).t().tolist()
    assert struct((4, 6), 13 / 24, axis="columns", offset=1) == transposed


def test_struct_takes_one_line_and_the_diagonal_at_least_and_everything_at_most() -> None:
    assert struct((3, 3), 0.01) == [[1, 1, 1], [0, 1, 0], [0, 0, 1]]
    assert struct((2, 3), 1.0) == [[1, 1, 1], [1, 1, 1]]


def test_grad_and_snip_rank_by_what_they_are_named_after() -> None:
    weight = torch.tensor([[0.5, -3.0, 0.0], [2.0, -0.25, 10.0]])
    gradient = torch.tensor([[-8.0, 1.0, 9.0], [1.0, -20.0, 0.125]])

    def chosen(mask: MaskName) -> list[int]:
        return positions(build_mask([("w", weight)], mask, sparsity=3 / 6, gradients={"w": gradient}))["w"]

    assert chosen("grad") == [0, 2, 4]  # 8, 9, 20
    assert chosen("snip") == [0, 1, 4]  # 4, 3, 5 of 4, 3, 0, 2, 5, 1.25


def test_snip_gives_ties_to_the_lower_flat_index() -> None:
    weight = torch.tensor([[2.0, 1.0, -1.0]])
    gradient = torch.tensor([[1.0, -2.0, 2.0]])
    index_set = build_mask([("w", weight)], "snip", sparsity=2 / 3, gradients={"w": gradient})
    assert positions(index_set)["w"] == [0, 1]


@pytest.mark.parametrize("mask", ["grad", "snip"])
@pytest.mark.parametrize(
    ("gradients", "message"),
    [
        (None, r"w: gradient: expected one of shape \(2, 2\), got none"),
        ({"w": torch.ones(4)}, r"w: gradient: expected one of shape \(2, 2\), got \(4,\)"),
        ({"w": torch.full((2, 2), torch.inf)}, "w: gradient: expected every element finite"),
    ],
)
def test_a_gradient_that_ranks_nothing_is_refused(
    mask: MaskName, gradients: dict[str, Tensor] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build_mask([("w", torch.ones(2, 2))], mask, gradients=gradients)


@pytest.mark.parametrize("mask", ["rand", "wm"])
def test_a_rank_gives_every_matrix_the_count_that_peft_demands(mask: MaskName) -> None:
    index_set = build_mask([("a", torch.randn(6, 10)), ("b", torch.randn(7, 7))], mask, rank=2)
    assert [entry.count for entry in index_set.table] == [2 * 16, 2 * 14]
    with pytest.raises(ValueError, match="b: entries: expected at least 56 to choose 56 from, got 49"):
        build_mask([("b", torch.randn(7, 7))], mask, rank=4)


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


@pytest.mark.parametrize(
    "recipe", [{"mask": "struct"}, {"mask": "struct", "axis": "columns"}, {"mask": "wm", "rank": 2}]
)
def test_a_convolution_counts_as_the_matrix_of_output_channels_by_taps(recipe: dict[str, Any]) -> None:
    weight = torch.randn(6, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    convolution = positions(build_mask([("w", weight)], sparsity=0.5, **recipe))
    assert convolution == positions(build_mask([("w", weight.view(6, 18))], sparsity=0.5, **recipe))
    assert "rank" not in recipe or len(convolution["w"]) == 2 * (6 + 18)


def test_struct_and_ranks_are_for_matrices() -> None:
    with pytest.raises(ValueError, match="w: shape: expected a matrix"):
        build_mask([("w", torch.ones(4))], "struct", sparsity=0.5)
    with pytest.raises(ValueError, match="w: shape: expected a matrix"):
        build_mask([("w", torch.ones(4))], "wm", rank=1)
