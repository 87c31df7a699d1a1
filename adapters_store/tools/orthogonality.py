"""How orthogonal two sparse deltas are: AWOM and AWOR of the SHiRA paper (arXiv 2406.13175, section 4.2).

For one weight, with A₁ and A₂ the two deltas as matrices of m columns (a weight of more than two dimensions is taken as
its first dimension by all others, a vector as one column):

- AWOM  ‖A₁ᵀA₂‖, the Frobenius norm
- AWOR  1 − nnz(A₁ᵀA₂) / m²

The product is never held whole: at most BLOCK_CELLS of it at a time. Of it, rows of A₁ and A₂ that are full enough are
multiplied as dense matrices, the others entry by entry, so that the time follows the number of products that are not 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from adapters_store.adapter import Adapter
from adapters_store.format import unpack_positions

BLOCK_CELLS = 1 << 24  # of the product, in float64: 128 MiB
BLOCK_PAIRS = 1 << 22  # products expanded at a time
DENSE_SHARE = 1 / 200  # a row with this share of all pairs of columns is cheaper multiplied as dense (measured)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SparseMatrix:
    """The entries that are not 0, ascending by row, then column. ``rows``, ``columns`` int64 (nnz,); ``values``
    float64 (nnz,)."""

    shape: tuple[int, int]
    rows: Tensor
    columns: Tensor
    values: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Orthogonality:
    awom: float
    awor: float


def matrices(adapter: Adapter) -> dict[str, SparseMatrix]:
    """Each weight's delta by name. On the CPU."""
    found = {}
    starts = adapter.index_set.entry_starts
    for (entry, flat), start in zip(unpack_positions(adapter.index_set), starts, strict=False):
        num_columns = entry.numel // entry.shape[0] if len(entry.shape) > 1 else 1
        values = adapter.values[start : start + entry.count].double()
        touched = flat[values != 0]
        found[entry.name] = SparseMatrix(
            shape=(entry.numel // num_columns, num_columns),
            rows=touched // num_columns,
            columns=touched % num_columns,
            values=values[values != 0],
        )
    return found


def orthogonality(a: SparseMatrix, b: SparseMatrix) -> Orthogonality:
    """Of two matrices of one shape."""
    num_columns = a.shape[1]
    squares, num_nonzero = 0.0, 0
    for block in _product_blocks(a, b):
        squares += float(block.square().sum())
        num_nonzero += int(block.count_nonzero())
    return Orthogonality(awom=squares**0.5, awor=1 - num_nonzero / num_columns**2)


def _product_blocks(a: SparseMatrix, b: SparseMatrix) -> Iterator[Tensor]:
    """AᵀB by consecutive blocks of its rows, float64 (block, num_columns); blocks of nothing but 0 are left out."""
    num_rows, num_columns = a.shape
    num_in_row_b = torch.bincount(b.rows, minlength=num_rows)
    num_pairs = torch.bincount(a.rows, minlength=num_rows) * num_in_row_b  # (num_rows,)
    is_full = num_pairs > DENSE_SHARE * num_columns**2
    full_rows = is_full.nonzero().flatten()
    full_b = _dense_rows(b, full_rows)  # (full rows, num_columns)
    starts_b = num_in_row_b.cumsum(0) - num_in_row_b
    block_size = max(1, BLOCK_CELLS // num_columns)
    for first in range(0, num_columns, block_size):
        end = min(first + block_size, num_columns)
        here = _column_range(a, first, end)
        if not here.values.numel():
            continue
        block = _dense_rows(here, full_rows).T @ full_b
        _add_pairs_(block, _without_rows(here, is_full), b, starts_b, num_in_row_b)
        yield block


def _add_pairs_(block: Tensor, a: SparseMatrix, b: SparseMatrix, starts_b: Tensor, num_in_row_b: Tensor) -> None:
    """Adds to ``block`` every product of an entry of A and an entry of B in one row."""
    num_partners = num_in_row_b[a.rows]  # (nnz of a,)
    ends = num_partners.cumsum(0)
    start = 0
    while start < a.rows.numel():
        before = int(ends[start - 1]) if start else 0
        end = max(start + 1, int(torch.searchsorted(ends, before + BLOCK_PAIRS, right=True)))
        partners = num_partners[start:end]
        entry_a = torch.arange(start, end).repeat_interleave(partners)
        rank = torch.arange(entry_a.numel()) - (ends[start:end] - partners - before).repeat_interleave(partners)
        entry_b = starts_b[a.rows[entry_a]] + rank
        cells = a.columns[entry_a] * block.shape[1] + b.columns[entry_b]
        block.view(-1).index_add_(0, cells, a.values[entry_a] * b.values[entry_b])
        start = end


def _column_range(matrix: SparseMatrix, first: int, end: int) -> SparseMatrix:
    """Columns ``first`` to ``end`` as a matrix of their own."""
    is_here = (matrix.columns >= first) & (matrix.columns < end)
    return SparseMatrix(
        shape=(matrix.shape[0], end - first),
        rows=matrix.rows[is_here],
        columns=matrix.columns[is_here] - first,
        values=matrix.values[is_here],
    )


def _without_rows(matrix: SparseMatrix, is_left_out: Tensor) -> SparseMatrix:
    """``is_left_out`` bool (num_rows,); the other rows keep their numbers."""
    is_kept = ~is_left_out[matrix.rows]
    return SparseMatrix(
        shape=matrix.shape,
        rows=matrix.rows[is_kept],
        columns=matrix.columns[is_kept],
        values=matrix.values[is_kept],
    )


def _dense_rows(matrix: SparseMatrix, rows: Tensor) -> Tensor:
    """These rows, int64 ascending, as float64 (len(rows), num_columns)."""
    dense = torch.zeros(rows.numel(), matrix.shape[1], dtype=torch.float64)
    if rows.numel():
        place = torch.searchsorted(rows, matrix.rows).clamp(max=rows.numel() - 1)
        is_here = rows[place] == matrix.rows
        dense[place[is_here], matrix.columns[is_here]] = matrix.values[is_here]
    return dense
