"""Rows with blends of their own on CUDA: torch's product, and its correction in one launch for each group."""

# mypy: disable-error-code="untyped-decorator, no-untyped-def"
# ruff: noqa: PLR0917

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from adapters_store.kernels.linears import RowPlan, check_correct
from adapters_store.kernels.rows_reference import ReferenceRowKernels

TILE_ROWS = 16  # rows of x that a program corrects


class TritonRowKernels(ReferenceRowKernels):
    """Satisfies RowKernels for CUDA tensors. The difference is taken from what is in the weights at the time."""

    name = "triton"

    def correct_(self, y: Tensor, x: Tensor, weight: Tensor, plan: RowPlan) -> None:
        check_correct(y, x, weight, plan)
        out_features, in_features = weight.shape
        for group, targets in plan.mixed:
            part = targets.layout.part_of(weight)
            if part is None:
                continue
            columns = targets.layout.columns[part.entries].view(torch.int16)
            words = part.words_of(targets.words).view(weight.dtype)
            own_x, own_y = x[group], y[group]
            grid = (out_features, triton.cdiv(len(own_x), TILE_ROWS))
            starts = targets.layout.starts[part.starts]
            correct_pass[grid](
                own_y, own_x, weight, starts, columns, words, len(own_x), out_features, in_features, tile=TILE_ROWS
            )


@triton.jit
def correct_pass(y, x, weight, starts, columns, words, num_rows, out_features, in_features, tile: tl.constexpr):
    """One row of W for ``tile`` rows of x; entries in their order, sums in float32."""
    row = tl.program_id(0).to(tl.int64)
    x_rows = (tl.program_id(1) * tile + tl.arange(0, tile)).to(tl.int64)
    mask = x_rows < num_rows
    total = tl.full((tile,), 0.0, tl.float32)
    for entry in range(tl.load(starts + row), tl.load(starts + row + 1)):
        column = tl.load(columns + entry).to(tl.int32) & 0xFFFF
        delta = tl.load(words + entry).to(tl.float32) - tl.load(weight + row * in_features + column).to(tl.float32)
        total += tl.load(x + x_rows * in_features + column, mask=mask, other=0.0).to(tl.float32) * delta
    at = y + x_rows * out_features + row
    tl.store(at, (tl.load(at, mask=mask).to(tl.float32) + total).to(y.dtype.element_ty), mask=mask)
