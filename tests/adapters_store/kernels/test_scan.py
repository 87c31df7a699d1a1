from __future__ import annotations

import pytest
import torch
from torch import Tensor

from adapters_store.adapter import BLOCK_ELEMENTS
from adapters_store.kernels import Kernels
from tests.adapters_store.kernels.sets import DTYPES, make_index_set, make_weights

WEIGHTS = make_weights(DTYPES)
GOOD = make_index_set(WEIGHTS, 0.01, seed=1)


def changed(tensor: Tensor, position: int, value: int) -> Tensor:
    copy = tensor.view(torch.int16).clone() if tensor.dtype == torch.uint16 else tensor.clone()
    copy[position] = value - 2**16 if tensor.dtype == torch.uint16 and value >= 2**15 else value
    return copy.view(tensor.dtype)


@pytest.mark.parametrize("density", [0.0, 0.01, 1.0])
def test_a_valid_index_set_has_no_fault(kernels: Kernels, density: float) -> None:
    index_set = make_index_set(WEIGHTS, density, seed=1)
    assert kernels.scan_indices(index_set.table, index_set.offsets, index_set.indices) is None


@pytest.mark.parametrize("check", ["range", "sorted", "unique"])
def test_the_first_faulty_entry_is_named(kernels: Kernels, check: str) -> None:
    start, end = GOOD.entry_starts[0], GOOD.entry_starts[1]
    position = (start + end) // 2
    got = GOOD.indices.to(torch.int64).tolist()
    value = {"range": 65_535, "sorted": got[position - 1] - 1, "unique": got[position - 1]}[check]
    indices = changed(changed(GOOD.indices, GOOD.entry_starts[3] - 1, 0), position, value)

    fault = kernels.scan_indices(GOOD.table, GOOD.offsets, indices)

    assert fault is not None
    assert (fault.check, fault.weight, fault.position, fault.got) == (check, "w0", position, str(value))
    assert fault.expected == ("below 2000 in block 0" if check == "range" else f"above {got[position - 1]} in block 0")


def test_every_single_corruption_is_found_where_the_reference_finds_it(kernels: Kernels, reference: Kernels) -> None:
    generator = torch.Generator().manual_seed(3)
    for _ in range(60):
        position = int(torch.randint(GOOD.num_entries, (1,), generator=generator))
        value = int(torch.randint(BLOCK_ELEMENTS, (1,), generator=generator))
        indices = changed(GOOD.indices, position, value)
        expected = reference.scan_indices(GOOD.table, GOOD.offsets, indices)
        assert kernels.scan_indices(GOOD.table, GOOD.offsets, indices) == expected


def test_a_block_may_start_below_the_end_of_the_one_before(kernels: Kernels) -> None:
    assert kernels.scan_indices(GOOD.table, GOOD.offsets, GOOD.indices) is None
    assert bool((GOOD.indices.to(torch.int64).diff() < 0).any())


@pytest.mark.parametrize(
    ("offsets", "check"),
    [
        (changed(GOOD.offsets, 0, 1), "offsets"),
        (changed(GOOD.offsets, 3, -1), "offsets"),
        (changed(GOOD.offsets, 3, 2**62), "offsets"),
        (changed(GOOD.offsets, -1, GOOD.num_entries + 1), "offsets"),
        (GOOD.offsets[:-1], "offsets"),
        (GOOD.offsets.to(torch.int32), "offsets"),
        (changed(GOOD.offsets, 1, int(GOOD.offsets[1]) - 1), "count"),
    ],
)
def test_lying_offsets_are_found_before_any_index_is_read(kernels: Kernels, offsets: Tensor, check: str) -> None:
    fault = kernels.scan_indices(GOOD.table, offsets, GOOD.indices)
    assert fault is not None
    assert fault.check == check


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_first_value_that_is_not_finite_is_found(kernels: Kernels, dtype: torch.dtype) -> None:
    values = torch.full((200_003,), torch.finfo(dtype).max, dtype=dtype)
    assert kernels.scan_values(values) is None
    for position, bad in ((200_002, float("nan")), (131_072, -float("inf")), (300, float("inf")), (0, float("nan"))):
        values[position] = bad
        assert kernels.scan_values(values) == position


def test_no_values_are_all_finite(kernels: Kernels) -> None:
    assert kernels.scan_values(torch.zeros(0)) is None
