from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from adapters_store.tools import orthogonality as module
from adapters_store.tools.orthogonality import SparseMatrix, matrices, orthogonality
from tests.adapters_store.adapter_files import make_adapter


def sparse(dense: Tensor) -> SparseMatrix:
    rows, columns = dense.nonzero(as_tuple=True)
    return SparseMatrix(
        shape=(dense.shape[0], dense.shape[1]), rows=rows, columns=columns, values=dense[rows, columns].double()
    )


def test_three_by_two_matrices_by_hand() -> None:
    a = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    b = torch.tensor([[3.0, 0.0], [4.0, 0.0], [5.0, 6.0]])
    # AᵀB = [[3, 0], [8, 0]]: two of 2² cells, ‖·‖ = √(9 + 64)
    found = orthogonality(sparse(a), sparse(b))
    assert found.awom == pytest.approx(73**0.5)
    assert found.awor == 0.5


def test_matrices_that_touch_no_row_in_common_are_orthogonal() -> None:
    a = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    b = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    assert (orthogonality(sparse(a), sparse(b)).awom, orthogonality(sparse(a), sparse(b)).awor) == (0.0, 1.0)


@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.sampled_from([0.0, 0.01, 0.1, 0.9]),
    st.booleans(),
    st.integers(0, 1000),
    st.sampled_from([(1 << 24, 1 << 22), (64, 1 << 22), (1 << 24, 7), (1, 1)]),
)
@settings(max_examples=150, deadline=None)
def test_any_sparse_pair_equals_the_dense_product(
    shape: tuple[int, int], share: float, has_full_rows: bool, seed: int, blocks: tuple[int, int]
) -> None:
    draw = torch.Generator().manual_seed(seed)
    both = torch.randint(-3, 4, (2, *shape), generator=draw).double()
    both *= torch.rand(2, *shape, generator=draw) < share
    if has_full_rows:
        both[:, :: max(2, shape[0] // 3)] = 2
    a, b = both
    product = a.T @ b  # of whole numbers: exact, and so is which of them cancel
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_CELLS", blocks[0])
        patch.setattr(module, "BLOCK_PAIRS", blocks[1])
        found = orthogonality(sparse(a), sparse(b))
    assert found.awom == pytest.approx(float(product.norm()))
    assert found.awor == pytest.approx(1 - int(product.count_nonzero()) / shape[1] ** 2)


def test_an_adapters_matrices_have_the_rows_and_columns_of_its_weights_and_no_zeros() -> None:
    adapter = make_adapter({"a.weight": [1, 400, 65_540], "b.weight": [69]}, [1.0, 0.0, 3.0, 4.0])
    found = matrices(adapter)
    assert found["a.weight"].shape == (300, 400)
    assert (found["a.weight"].rows.tolist(), found["a.weight"].columns.tolist()) == ([0, 163], [1, 340])
    assert found["a.weight"].values.tolist() == [1.0, 3.0]
    assert found["b.weight"].shape == (70, 1)
