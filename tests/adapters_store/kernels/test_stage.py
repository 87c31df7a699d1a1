from __future__ import annotations

import pytest
import torch
from torch import Tensor

from adapters_store.kernels import Kernels
from tests.adapters_store.kernels.sets import (
    DTYPES,
    arbitrary_bits,
    bind_all,
    copy_of,
    differing,
    make_index_set,
    make_weights,
    same_words,
)

QUIET_NAN = {torch.float32: 0x7FC00000, torch.bfloat16: 0x7FC0, torch.float16: 0x7E00}


def stage_all(kernels: Kernels, weight: Tensor, delta: Tensor) -> tuple[Tensor, int]:
    """The staged words (numel,) of a weight whose every element is an entry, and how many left the range."""
    weights = {"w": weight}
    bound = bind_all(make_index_set(weights, 1.0, seed=0), weights)
    staging = kernels.stage(bound, delta)
    (part,) = bound.parts()
    return part.words_of(staging.words), staging.num_out_of_range


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_variant_rounds_arbitrary_bits_as_the_reference_does(
    kernels: Kernels, reference: Kernels, dtype: torch.dtype
) -> None:
    weights = make_weights((dtype,))
    base = copy_of(weights)
    for seed, density in enumerate((0.003, 0.1, 1.0)):
        bound = bind_all(make_index_set(weights, density, seed=seed), weights)
        delta = arbitrary_bits((bound.num_entries,), torch.float32, torch.Generator().manual_seed(seed))
        staging, expected = kernels.stage(bound, delta), reference.stage(bound, delta)
        assert same_words(bound, staging.words, expected.words)
        assert staging.num_out_of_range == expected.num_out_of_range
    assert differing(weights, base) == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_every_sixteen_bit_word_plus_zero_is_itself(kernels: Kernels, dtype: torch.dtype) -> None:
    """All 65,536 words: denormals, −0 (which +0 turns into +0) and infinities; NaNs become the quiet one."""
    weight = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    words, num_out_of_range = stage_all(kernels, weight, torch.full((2**16,), -0.0))
    expected = weight.view(torch.int16).clone()
    expected[torch.isnan(weight)] = QUIET_NAN[dtype]
    assert torch.equal(words, expected)
    assert num_out_of_range == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_ties_go_to_even_and_near_ties_do_not(kernels: Kernels, dtype: torch.dtype) -> None:
    """Halfway between each two neighbouring finite words, and one float32 step to either side of it."""
    top = {torch.bfloat16: 0x7F7F, torch.float16: 0x7BFF}[dtype]
    lower = torch.arange(0, top, dtype=torch.int32)  # its low bit says which neighbour is even
    low = lower.to(torch.int16).view(dtype).float()
    high = (lower + 1).to(torch.int16).view(dtype).float()
    middle = low + (high - low) / 2
    weight = torch.zeros(len(lower), dtype=dtype)
    for nudge, expected in ((0, lower + (lower & 1)), (-1, lower), (1, lower + 1)):
        delta = (middle.view(torch.int32) + nudge).view(torch.float32)
        words, _ = stage_all(kernels, weight, delta)
        assert torch.equal(words, expected.to(torch.int16))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_only_words_that_leave_the_range_count_as_out_of_range(kernels: Kernels, dtype: torch.dtype) -> None:
    top = torch.finfo(dtype).max
    weight = torch.tensor([1.0, top, -top, float("inf"), float("nan"), top], dtype=dtype)
    delta = torch.tensor([1.0, top, -top, 1.0, 1.0, 0.0])
    words, num_out_of_range = stage_all(kernels, weight, delta)
    assert num_out_of_range == 2
    assert words.view(dtype)[[1, 2, 3]].tolist() == [float("inf"), -float("inf"), float("inf")]


def test_a_wrong_delta_is_refused(kernels: Kernels) -> None:
    weights = make_weights(DTYPES)
    bound = bind_all(make_index_set(weights, 0.1, seed=1), weights)
    good = torch.zeros(bound.num_entries)
    for delta in (good[:-1], good.double(), good.repeat(2)[::2]):
        with pytest.raises(ValueError, match=r"delta: expected .* got"):
            kernels.stage(bound, delta)
