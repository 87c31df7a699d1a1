"""Row layouts, and the targets of a blend relative to what is in the weights."""

from __future__ import annotations

import pytest
import torch

from adapters_store.kernels import RowKernels, RowLayout, RowTargets, get_row_kernels, new_words
from tests.adapters_store.kernels.blends import EXCHANGE, make_blend, make_weight_set, switch_to, with_blend
from tests.adapters_store.kernels.sets import DTYPES, Weights, bind_all, make_index_set, random_words, same_bytes

# Rows that straddle blocks, one column only, as many columns as a block has elements, one row.
SHAPES = ((40, 50), (300, 401), (70, 1), (3, 65_536), (1, 7))


def make_weights(dtype: torch.dtype = torch.float32) -> Weights:
    return {f"w{i}": torch.zeros(shape, dtype=dtype) for i, shape in enumerate(SHAPES)}


def dense(targets: RowTargets, weights: Weights) -> Weights:
    """Copies of the weights with the words written row by row, as the layout says."""
    layout, copies = targets.layout, {}
    for name, weight in weights.items():
        copy = weight.clone()
        part = layout.part_of(weight)
        if part is not None:
            starts = layout.starts[part.starts].tolist()
            columns = layout.columns[part.entries].to(torch.int64)
            words = part.words_of(targets.words).view(weight.dtype)
            for row in range(len(weight)):
                own = slice(starts[row], starts[row + 1])
                copy[row, columns[own]] = words[own]
        copies[name] = copy
    return copies


def same(one: Weights, other: Weights) -> bool:
    return all(same_bytes(one[name], other[name]) for name in one)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("density", [0.0, 0.01, 1.0])
def test_rows_hold_each_word_where_the_exchange_would_write_it(
    row_kernels: RowKernels, dtype: torch.dtype, density: float
) -> None:
    weights = make_weights(dtype)
    bound = bind_all(make_index_set(weights, density, seed=1), weights)
    targets = RowTargets(layout=row_kernels.layout(bound), words=random_words(bound, seed=2))
    expected = {name: weight.clone() for name, weight in weights.items()}
    EXCHANGE.overwrite(bind_all(bound.index_set, expected), targets.words)
    assert same(dense(targets, weights), expected)


@pytest.mark.parametrize("density", [0.0, 0.01, 1.0])
def test_every_variant_makes_the_layout_of_the_reference(row_kernels: RowKernels, density: float) -> None:
    weights = make_weights()
    bound = bind_all(make_index_set(weights, density, seed=1), weights)
    assert_same_layout(row_kernels.layout(bound), get_row_kernels(prefer="reference").layout(bound))


def test_a_weight_that_is_not_a_matrix_is_named(row_kernels: RowKernels) -> None:
    weights = {"fine": torch.zeros(2, 3), "conv": torch.zeros(2, 3, 1, 1)}
    with pytest.raises(ValueError, match=r"conv: expected .*in_features"):
        row_kernels.layout(bind_all(make_index_set(weights, 0.5, seed=1), weights))
    wide = {"wide": torch.zeros(1, 65_537)}
    with pytest.raises(ValueError, match=r"wide: expected .*65536"):
        row_kernels.layout(bind_all(make_index_set(wide, 0.01, seed=1), wide))


def test_words_of_the_wrong_size_are_refused(row_kernels: RowKernels) -> None:
    weights = make_weights()
    bound = bind_all(make_index_set(weights, 0.1, seed=1), weights)
    with pytest.raises(ValueError, match="words: expected"):
        RowTargets(layout=row_kernels.layout(bound), words=new_words(bound)[4:])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("densities", [(0.1, 0.1), (0.01, 0.9), (0.0, 0.3), (0.3, 0.0)], ids=str)
def test_targets_relative_to_a_dominant_blend_lead_from_it_to_the_blend(
    row_kernels: RowKernels, dtype: torch.dtype, densities: tuple[float, float]
) -> None:
    """Also where each blend has a weight that the other one does not touch."""
    weights = make_weight_set(dtype, 45, 30, 20, 7, 1)
    blend = make_blend(row_kernels, {n: weights[n] for n in ("w0", "w1", "w3")}, densities[0], seed=1)
    dominant = make_blend(row_kernels, {n: weights[n] for n in ("w2", "w1", "w0")}, densities[1], seed=2)
    base, expected = with_blend(weights, None), with_blend(weights, blend)
    displaced = RowTargets(layout=dominant.targets.layout, words=switch_to(dominant))

    relative = row_kernels.relative(blend.targets, displaced)
    assert same(dense(relative, weights), expected)
    assert same(dense(row_kernels.relative(None, displaced), weights), base)
    reference = get_row_kernels(prefer="reference").relative(blend.targets, displaced)
    assert_same_layout(relative.layout, reference.layout)


def assert_same_layout(one: RowLayout, other: RowLayout) -> None:
    assert [w.data_ptr() for w in one.weights] == [w.data_ptr() for w in other.weights]
    assert one.counts == other.counts
    assert one.words_starts == other.words_starts
    assert same_bytes(one.starts, other.starts)
    assert same_bytes(one.columns, other.columns)
