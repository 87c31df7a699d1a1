"""What a product is made of: the weights that share an input, and which rows of the input run with what."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from adapters_store.adapter import DTYPE_NAMES
from adapters_store.kernels.rows import RowTargets


class Linears:
    """Weights (out_features, in_features), with or without biases (out_features,), that take the same input.

    Made once for a model: reads the tensors' present memory at every call, never a copy. Raises ValueError for
    weights that are not contiguous, or not of one dtype, device and ``in_features``."""

    def __init__(self, pairs: Sequence[tuple[Tensor, Tensor | None]]) -> None:
        if not pairs:
            raise ValueError("pairs: expected at least one weight, got none")
        self.pairs = tuple((weight.detach(), bias if bias is None else bias.detach()) for weight, bias in pairs)
        first = self.pairs[0][0]
        for number, (weight, bias) in enumerate(self.pairs):
            _check_weight(f"pairs[{number}]", weight, bias, first)
        self.dtype, self.device, self.in_features = first.dtype, first.device, first.shape[1]
        self.out_features = tuple(weight.shape[0] for weight, _ in self.pairs)

    @cached_property
    def weights(self) -> tuple[Tensor, ...]:
        return tuple(weight for weight, _ in self.pairs)

    @cached_property
    def key(self) -> bytes:
        """Equal for equal forms at equal addresses."""
        return self.table + f"{self.in_features} {self.dtype}".encode()

    @cached_property
    def table(self) -> bytes:
        """As struct Weight in csrc/linear.h, one for each."""
        rows = ((w.data_ptr(), 0 if bias is None else bias.data_ptr(), w.shape[0]) for w, bias in self.pairs)
        return b"".join(struct.pack("3q", *row) for row in rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowGroup:
    """Rows ``start`` to ``stop`` of the input run with ``targets``; None: with what is in the weights.

    ``is_patched``: multiplied by a patched copy of the weights, block by block, instead of corrected: bit for bit what
    a switch would give, and cheaper from some 16 rows on."""

    start: int
    stop: int
    targets: RowTargets | None = None
    is_patched: bool = False


class RowPlan:
    """Who runs with what in one step: ``groups`` cover the rows from 0 on, in order and without a gap.

    Good for any number of products. Raises ValueError for groups that leave rows out or overlap."""

    def __init__(self, groups: Sequence[RowGroup]) -> None:
        self.groups = tuple(groups)
        end = 0
        for number, group in enumerate(self.groups):
            if group.start != end or group.stop <= group.start:
                expected = f"at least one row from {end} on"
                raise ValueError(f"groups[{number}]: expected {expected}, got {group.start} to {group.stop}")
            end = group.stop
        self.num_rows = end
        self.mixed = tuple((slice(g.start, g.stop), g.targets) for g in self.groups if g.targets is not None)

    @cached_property
    def table(self) -> bytes:
        """As struct Group in csrc/linear.h, one for each."""
        return b"".join(struct.pack("3q", group.start, group.stop, group.is_patched) for group in self.groups)

    @cached_property
    def table_unpatched(self) -> bytes:
        return b"".join(struct.pack("3q", group.start, group.stop, False) for group in self.groups)


def check_linear(x: Tensor, linears: Linears, plan: RowPlan, out_dtype: torch.dtype | None) -> torch.dtype:
    """The output's dtype. Raises ValueError for arguments that a product cannot be made of."""
    _check_matrix("x", x, (plan.num_rows, linears.in_features), linears.pairs[0][0])
    if out_dtype not in {None, linears.dtype, torch.float32}:
        raise ValueError(f"out_dtype: expected {linears.dtype} or torch.float32, got {out_dtype}")
    return out_dtype or linears.dtype


def check_correct(y: Tensor, x: Tensor, weight: Tensor, plan: RowPlan) -> None:
    """Raises ValueError for arguments that a correction cannot be made of."""
    _check_weight("weight", weight, None, weight)
    _check_matrix("x", x, (plan.num_rows, weight.shape[1]), weight)
    _check_matrix("y", y, (plan.num_rows, weight.shape[0]), weight, or_float32=True)


def _check_matrix(
    name: str, matrix: Tensor, shape: tuple[int, int], weight: Tensor, *, or_float32: bool = False
) -> None:
    """Contiguous, of this shape, on the weight's device and of its dtype."""
    has_dtype = matrix.dtype == weight.dtype or (or_float32 and matrix.dtype == torch.float32)
    if not has_dtype or matrix.shape != shape or matrix.device != weight.device or not matrix.is_contiguous():
        expected = f"contiguous {weight.dtype}{' or torch.float32' * or_float32} {shape} on {weight.device}"
        got = f"{matrix.dtype} {tuple(matrix.shape)} with stride {matrix.stride()} on {matrix.device}"
        raise ValueError(f"{name}: expected {expected}, got {got}")


def _check_weight(where: str, weight: Tensor, bias: Tensor | None, first: Tensor) -> None:
    if weight.dim() != 2 or not weight.is_contiguous() or weight.shape[1] == 0 or weight.dtype not in DTYPE_NAMES:
        got = f"{weight.dtype} {tuple(weight.shape)}"
        raise ValueError(f"{where}: expected a contiguous float weight (out_features, in_features), got {got}")
    if (weight.dtype, weight.device, weight.shape[1]) != (first.dtype, first.device, first.shape[1]):
        expected = f"{first.dtype} (…, {first.shape[1]}) on {first.device}"
        raise ValueError(f"{where}: expected {expected}, got {weight.dtype} {tuple(weight.shape)} on {weight.device}")
    if bias is None:
        return
    if (bias.dtype, bias.device, bias.shape) != (weight.dtype, weight.device, weight.shape[:1]):
        expected = f"{weight.dtype} ({weight.shape[0]},) on {weight.device}"
        raise ValueError(f"{where}: expected a bias {expected}, got {bias.dtype} {tuple(bias.shape)} on {bias.device}")
    if not bias.is_contiguous():
        raise ValueError(f"{where}: expected a contiguous bias, got stride {bias.stride()}")
