"""Rows with blends of their own in plain torch: the executable specification, and what runs without a compiler."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from adapters_store.kernels.bound import Bound
from adapters_store.kernels.linears import Linears, RowPlan, check_correct, check_linear
from adapters_store.kernels.reference import entry_positions
from adapters_store.kernels.rows import RowLayout, RowPart, RowTargets, row_weights, union_weights


class ReferenceRowKernels:
    """Satisfies RowKernels on every device that torch has."""

    name = "reference"

    def has_native_linear(self, dtype: torch.dtype) -> bool:
        return False

    def layout(self, bound: Bound) -> RowLayout:
        weights = row_weights(bound)
        positions = [entry_positions(bound, part) for part in bound.parts()]
        return _layout_at(weights, positions, bound.device)

    def relative(self, blend: RowTargets | None, dominant: RowTargets) -> RowTargets:
        if blend is None:
            return dominant
        weights = union_weights(blend.layout, dominant.layout)
        positions, words = [], []
        for weight in weights:
            own_at, own_words = _entries_of(blend, weight)
            other_at, other_words = _entries_of(dominant, weight)
            union = torch.unique(torch.cat([own_at, other_at]))  # sorted
            merged = torch.empty(union.numel(), dtype=own_words.dtype, device=union.device)
            merged[torch.searchsorted(union, other_at)] = other_words
            merged[torch.searchsorted(union, own_at)] = own_words
            positions.append(union)
            words.append(merged)
        layout = _layout_at(tuple(weights), positions, dominant.words.device)
        buffer = torch.zeros(layout.words_bytes, dtype=torch.uint8, device=dominant.words.device)
        for (start, _), part in zip(pairwise(layout.words_starts), words, strict=True):
            buffer[start : start + part.nbytes] = part.view(torch.uint8)
        return RowTargets(layout=layout, words=buffer)

    def linear(
        self, x: Tensor, linears: Linears, plan: RowPlan, *, out_dtype: torch.dtype | None = None
    ) -> list[Tensor]:
        """Rounds to x's dtype after the product and again after the correction."""
        out_dtype = check_linear(x, linears, plan, out_dtype)
        products = []
        for weight, bias in linears.pairs:
            y = F.linear(x, weight, bias).to(out_dtype)
            self.correct_(y, x, weight, plan)
            products.append(y)
        return products

    def correct_(self, y: Tensor, x: Tensor, weight: Tensor, plan: RowPlan) -> None:
        check_correct(y, x, weight, plan)
        flat = weight.detach().view(-1)
        for group, targets in plan.mixed:
            positions, words = _entries_of(targets, weight)
            delta = words.view(weight.dtype).float() - flat[positions].float()  # (entries,)
            rows, columns = positions // weight.shape[1], positions % weight.shape[1]
            inputs = x[group].float()  # (group rows, in_features)
            sums = torch.zeros(weight.shape[0], len(inputs), device=x.device)
            sums.index_add_(0, rows, inputs.T[columns] * delta[:, None])
            own = y[group]
            own.copy_(own.float() + sums.T)


def _layout_at(weights: tuple[Tensor, ...], positions: list[Tensor], device: torch.device) -> RowLayout:
    """The layout of these flat positions (ascending) in each weight."""
    starts, columns = [], []
    for weight, at in zip(weights, positions, strict=True):
        out_features, in_features = weight.shape
        edges = torch.arange(out_features + 1, device=device) * in_features
        starts.append(torch.searchsorted(at, edges).to(torch.int32))
        columns.append((at % in_features).to(torch.uint16))
    empty = torch.empty(0, dtype=torch.uint16, device=device)
    return RowLayout(
        weights=weights,
        counts=tuple(at.numel() for at in positions),
        starts=torch.cat([*starts, torch.empty(0, dtype=torch.int32, device=device)]),
        columns=torch.cat([*columns, empty]),
    )


def _entries_of(targets: RowTargets, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Flat positions int64 (count,), ascending, and words (count,) of the entries in one weight."""
    layout = targets.layout
    part = layout.part_of(weight)
    if part is None:
        part = RowPart(weight=weight, starts=slice(0, 0), entries=slice(0, 0), words_bytes=slice(0, 0))
    starts = layout.starts[part.starts].to(torch.int64)
    rows = torch.repeat_interleave(starts.diff()) if starts.numel() else starts[:0]
    columns = layout.columns[part.entries].view(torch.int16).to(torch.int64) & 0xFFFF
    return rows * weight.shape[1] + columns, part.words_of(targets.words)
