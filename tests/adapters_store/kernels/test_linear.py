"""Products whose rows run with different blends."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from adapters_store.kernels import Linears, RowGroup, RowKernels, RowPlan, RowTargets, available_kernels
from adapters_store.kernels import get_row_kernels as get
from tests.adapters_store.kernels.blends import (
    TestBlend,
    exact_products,
    linears_of,
    make_blend,
    make_weight_set,
    plan_of,
    switch_to,
    with_blend,
)
from tests.adapters_store.kernels.sets import DTYPES, Weights, copy_of, differing, same_bytes

# Half a last place of the dtype, for one rounding of sums near 1; and as many again for the order of float32 sums.
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 8e-3, torch.float16: 1e-3}
NATIVE = [
    (name, dtype) for name in available_kernels() for dtype in DTYPES if get(prefer=name).has_native_linear(dtype)
]
native = pytest.mark.parametrize(("name", "dtype"), NATIVE, ids=str)
SIZES = (7, 24, 25, 12)  # fewer than a block of rows, whole blocks, one more
COLUMNS = (1, 2, 15, 33, 64)


def rows_of_x(dtype: torch.dtype, num_rows: int, in_features: int, seed: int = 9) -> Tensor:
    return torch.randn(num_rows, in_features, generator=torch.Generator().manual_seed(seed)).to(dtype)


def expected_rows(x: Tensor, weights: Weights, blends: list[tuple[int, TestBlend | None]], bias: bool) -> list[Tensor]:
    """float64, each group by weights that really hold its blend."""
    parts, start = [], 0
    for size, blend in blends:
        linears = linears_of(with_blend(weights, blend), has_bias=bias)
        parts.append(exact_products(x[start : start + size], linears))
        start += size
    return [torch.cat(products) for products in zip(*parts, strict=True)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("in_features", COLUMNS)
@pytest.mark.parametrize("sizes", [(1, 0, 0), (2, 5, 9), (16, 16, 1), (3, 30, 37), (17, 0, 3)], ids=str)
def test_every_row_gets_the_product_of_its_own_blend(
    row_kernels: RowKernels, dtype: torch.dtype, in_features: int, sizes: tuple[int, ...]
) -> None:
    weights = make_weight_set(dtype, in_features, *SIZES)
    before = copy_of(weights)
    sparse = make_blend(row_kernels, weights, 0.1, seed=1)
    dense = make_blend(row_kernels, {name: weights[name] for name in ("w2", "w0")}, 0.9, seed=2)
    empty = make_blend(row_kernels, weights, 0.0, seed=3)
    blends = [(n, b) for n, b in zip((*sizes, 2), (sparse, None, dense, empty), strict=True) if n]
    x = rows_of_x(dtype, sum(n for n, _ in blends), in_features)
    for patched in ((), (0,), (1, 2), (0, 1, 2, 3)):
        for bias, out_dtype in ((False, None), (True, torch.float32)):
            products = row_kernels.linear(
                x, linears_of(weights, has_bias=bias), plan_of(*blends, patched=patched), out_dtype=out_dtype
            )
            assert [y.dtype for y in products] == [out_dtype or dtype] * len(SIZES)
            for y, expected in zip(products, expected_rows(x, weights, blends, bias), strict=True):
                assert_close(y, expected, dtype)
    assert differing(weights, before) == []


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("in_features", COLUMNS)
def test_a_product_made_elsewhere_is_corrected_in_place(
    row_kernels: RowKernels, dtype: torch.dtype, in_features: int
) -> None:
    weights = make_weight_set(dtype, in_features, 25)
    blends = [
        (5, make_blend(row_kernels, weights, 0.1, seed=1)),
        (3, None),
        (30, make_blend(row_kernels, weights, 1, 2)),
    ]
    x = rows_of_x(dtype, 38, in_features)
    (expected,) = expected_rows(x, weights, blends, False)
    for out_dtype in {dtype, torch.float32}:
        for patched in ((), (0, 2)):
            y = torch.nn.functional.linear(x.float(), weights["w0"].float()).to(out_dtype)
            untouched = y[5:8].clone()
            row_kernels.correct_(y, x, weights["w0"], plan_of(*blends, patched=patched))
            assert_close(y, expected, dtype)
            assert same_bytes(y[5:8], untouched)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_beside_a_fused_dominant_blend_get_their_own_product(row_kernels: RowKernels, dtype: torch.dtype) -> None:
    weights = make_weight_set(dtype, 33, *SIZES)
    blend, dominant = (make_blend(row_kernels, weights, 0.2, seed) for seed in (1, 2))
    x = rows_of_x(dtype, 12, 33)
    expected = expected_rows(x, weights, [(4, dominant), (5, blend), (3, None)], False)
    displaced = RowTargets(layout=dominant.targets.layout, words=switch_to(dominant))
    targets = (None, row_kernels.relative(blend.targets, displaced), row_kernels.relative(None, displaced))
    bounds = ((0, 4), (4, 9), (9, 12))
    groups = [RowGroup(start=a, stop=b, targets=t) for (a, b), t in zip(bounds, targets, strict=True)]
    for y, exact in zip(row_kernels.linear(x, linears_of(weights), RowPlan(groups)), expected, strict=True):
        assert_close(y, exact, dtype)


@native
@pytest.mark.parametrize("in_features", COLUMNS)
def test_a_row_has_the_same_bits_alone_and_in_any_batch(name: str, dtype: torch.dtype, in_features: int) -> None:
    kernels = get(prefer=name)
    weights = make_weight_set(dtype, in_features, *SIZES)
    linears = linears_of(weights, has_bias=True)
    a, b = (make_blend(kernels, weights, density, seed=1) for density in (0.1, 0.4))
    x = rows_of_x(dtype, 70, in_features)
    for blend, is_patched in ((None, False), (a, False), (a, True)):
        patched = (1,) if is_patched else ()
        whole = kernels.linear(x, linears, plan_of((3, b), (67, blend), patched=patched))
        for first, size in ((3, 1), (3, 67), (20, 16), (41, 17), (69, 1)):
            for before, after in ((0, 0), (2, 0), (1, 20)):
                others = rows_of_x(dtype, before + after, in_features, seed=10)
                batch = torch.cat([others[:before], x[first : first + size], others[before:]])
                groups = [(before, b), (size, blend), (after, None)]
                which = (int(before > 0),) if is_patched else ()
                plan = plan_of(*(group for group in groups if group[0]), patched=which)
                for y, expected in zip(kernels.linear(batch, linears, plan), whole, strict=True):
                    assert same_bytes(y[before : before + size], expected[first : first + size])


@native
@pytest.mark.parametrize("in_features", COLUMNS)
def test_a_patched_group_has_the_bits_of_a_switch(name: str, dtype: torch.dtype, in_features: int) -> None:
    kernels = get(prefer=name)
    weights = make_weight_set(dtype, in_features, *SIZES)
    blend, other = (make_blend(kernels, weights, 0.2, seed) for seed in (1, 2))
    x = rows_of_x(dtype, 50, in_features)
    mixed = kernels.linear(x, linears_of(weights), plan_of((3, other), (40, blend), (7, None), patched=(1,)))
    switched = kernels.linear(x, linears_of(with_blend(weights, blend)), plan_of((50, None)))
    for y, expected in zip(mixed, switched, strict=True):
        assert same_bytes(y[3:43], expected[3:43])


@native
def test_the_number_of_threads_changes_no_bit(name: str, dtype: torch.dtype) -> None:
    kernels = get(prefer=name)
    weights = make_weight_set(dtype, 64, 300, 25)
    blend = make_blend(kernels, weights, 0.1, seed=1)
    x, plan = rows_of_x(dtype, 40, 64), plan_of((20, blend), (20, blend), patched=(1,))
    results = []
    num_threads = torch.get_num_threads()
    for count in (1, 3):
        torch.set_num_threads(count)
        results.append(kernels.linear(x, linears_of(weights), plan))
    torch.set_num_threads(num_threads)
    assert all(same_bytes(one, other) for one, other in zip(*results, strict=True))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_is_not_finite_stays_in_its_row(row_kernels: RowKernels, dtype: torch.dtype, bad: float) -> None:
    weights = make_weight_set(dtype, 33, 25)
    blends = [(4, make_blend(row_kernels, weights, 0.3, seed)) for seed in range(3)]
    x = rows_of_x(dtype, 12, 33)
    (clean,) = row_kernels.linear(x, linears_of(weights), plan_of(*blends, patched=(2,)))
    for row in (0, 5, 9, 11):
        poisoned = x.clone()
        poisoned[row] = bad
        (y,) = row_kernels.linear(poisoned, linears_of(weights), plan_of(*blends, patched=(2,)))
        others = [i for i in range(12) if i != row]
        assert same_bytes(y[others], clean[others])
        assert not y[row].isfinite().any()


def test_a_group_of_a_weight_that_is_not_finite_is_not_felt_by_others(row_kernels: RowKernels) -> None:
    """Words that are NaN belong to one blend; W keeps none of them."""
    weights = make_weight_set(torch.float32, 33, 25)
    blend = make_blend(row_kernels, weights, 0.3, seed=1)
    blend.targets.words.fill_(255)
    x = rows_of_x(torch.float32, 40, 33)
    for patched in ((), (0,)):
        (y,) = row_kernels.linear(x, linears_of(weights), plan_of((20, blend), (20, None), patched=patched))
        (clean,) = row_kernels.linear(x, linears_of(weights), plan_of((40, None)))
        assert same_bytes(y[20:], clean[20:])
        assert y[:20].isnan().any()


def test_arguments_are_checked_by_name(row_kernels: RowKernels) -> None:
    weights = make_weight_set(torch.float32, 8, 5)
    weight, linears, plan = weights["w0"], linears_of(weights), plan_of((3, None))
    x, y = torch.zeros(3, 8), torch.zeros(3, 5)
    for wrong in (
        torch.zeros(3, 9),
        torch.zeros(2, 8),
        torch.zeros(3, 8).double(),
        torch.zeros(8, 3).T,
        torch.zeros(3),
    ):
        with pytest.raises(ValueError, match="x: expected"):
            row_kernels.linear(wrong, linears, plan)
        with pytest.raises(ValueError, match="x: expected"):
            row_kernels.correct_(y, wrong, weight, plan)
    for wrong in (torch.zeros(3, 4), torch.zeros(3, 5).half(), torch.zeros(5, 3).T):
        with pytest.raises(ValueError, match="y: expected"):
            row_kernels.correct_(wrong, x, weight, plan)
    with pytest.raises(ValueError, match="out_dtype: expected"):
        row_kernels.linear(x, linears, plan, out_dtype=torch.float16)
    with pytest.raises(ValueError, match="weight: expected"):
        row_kernels.correct_(y, x, torch.zeros(8, 5).T, plan)


def test_targets_of_a_weight_in_another_form_are_refused(row_kernels: RowKernels) -> None:
    weights = make_weight_set(torch.float32, 8, 6)
    plan = plan_of((3, make_blend(row_kernels, weights, 0.5, seed=1)))
    reshaped = weights["w0"].view(8, 6)
    with pytest.raises(ValueError, match=r"weight: expected .* as in the layout"):
        row_kernels.linear(torch.zeros(3, 6), Linears([(reshaped, None)]), plan)


@pytest.mark.parametrize("bounds", [((1, 3),), ((0, 2), (3, 4)), ((0, 2), (1, 4)), ((0, 0),)], ids=str)
def test_groups_must_cover_the_rows_in_order(bounds: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(ValueError, match=r"groups\[\d\]: expected at least one row from"):
        RowPlan([RowGroup(start=start, stop=stop) for start, stop in bounds])


def test_weights_that_do_not_go_together_are_refused() -> None:
    one = torch.zeros(3, 4)
    with pytest.raises(ValueError, match="pairs: expected at least one"):
        Linears([])
    for other in (torch.zeros(3, 5), torch.zeros(3, 4).half(), torch.zeros(4, 3).T, torch.zeros(3)):
        with pytest.raises(ValueError, match=r"pairs\[1\]: expected"):
            Linears([(one, None), (other, None)])
    for bias in (torch.zeros(4), torch.zeros(3).half(), torch.zeros(6)[::2]):
        with pytest.raises(ValueError, match=r"pairs\[0\]: expected a .*bias"):
            Linears([(one, bias)])


def test_no_rows_make_no_product(row_kernels: RowKernels) -> None:
    (y,) = row_kernels.linear(torch.zeros(0, 4), Linears([(torch.zeros(3, 4), None)]), RowPlan([]))
    assert y.shape == (0, 3)


def assert_close(y: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    """Within a rounding to the dtype of the expected value; torch may round twice, and again after a correction."""
    error = (y.double() - expected).abs()
    assert bool((error <= 2 * TOLERANCE[dtype] * (1 + expected.abs())).all()), float(error.max())
