"""Rows with blends of their own in C, for CPU tensors: checks in Python, then one call without the GIL."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from itertools import accumulate

import torch
from torch import Tensor

from adapters_store.kernels import _native
from adapters_store.kernels.bound import DTYPE_CODES, Bound
from adapters_store.kernels.linears import Linears, RowPlan, check_correct, check_linear
from adapters_store.kernels.native import ISAS, check_cpu, supported_isas
from adapters_store.kernels.row_steps import targets_table
from adapters_store.kernels.rows import RowLayout, RowTargets, row_weights, union_weights
from adapters_store.kernels.rows_reference import ReferenceRowKernels


class NativeRowKernels(ReferenceRowKernels):
    """Satisfies RowKernels for CPU tensors. Uses as many threads as torch does at the time of the call.

    float16 runs on the reference; so does the plain product of a dtype that this machine has no fast one for."""

    def __init__(self, name: str) -> None:
        if name not in supported_isas():
            raise ValueError(f"row kernels: expected one of {', '.join(supported_isas())}, got {name!r}")
        self.name = name
        self._isa = ISAS[name]

    def has_native_linear(self, dtype: torch.dtype) -> bool:
        return _native.has_linear(self._isa, DTYPE_CODES[dtype])

    def layout(self, bound: Bound) -> RowLayout:
        check_cpu(bound)
        weights = row_weights(bound)
        table, offsets = bound.index_set.table, bound.index_set.offsets
        starts = torch.empty(sum(len(weight) + 1 for weight in weights), dtype=torch.int32)
        columns = torch.empty(bound.num_entries, dtype=torch.uint16)
        first_starts = accumulate((len(weight) + 1 for weight in weights), initial=0)
        jobs = _jobs(
            (
                offsets.data_ptr() + entry.first_block * 8,
                entry.num_blocks,
                *entry.shape,
                starts.data_ptr() + first_start * 4,
                columns.data_ptr() + first_entry * 2,
            )
            for entry, first_start, first_entry in zip(table, first_starts, bound.index_set.entry_starts, strict=False)
        )
        _native.rows(*self._how(), jobs.data_ptr(), len(jobs), bound.index_set.indices.data_ptr())
        counts = tuple(entry.count for entry in table)
        return RowLayout(weights=weights, counts=counts, starts=starts, columns=columns)

    def relative(self, blend: RowTargets | None, dominant: RowTargets) -> RowTargets:
        if blend is None or blend.layout is dominant.layout:
            same = blend or dominant
            return RowTargets(layout=same.layout, words=same.words)
        weights = union_weights(blend.layout, dominant.layout)
        starts = torch.empty(sum(len(weight) + 1 for weight in weights), dtype=torch.int32)
        ends = list(accumulate(len(weight) + 1 for weight in weights))
        sources = [(*blend.addresses_of(weight), *dominant.addresses_of(weight)) for weight in weights]
        sizes = [(len(weight), weight.dtype == torch.float32) for weight in weights]
        firsts = [starts.data_ptr() + (end - len(weight) - 1) * 4 for end, weight in zip(ends, weights, strict=True)]
        jobs = _jobs((*source, *size, first, 0, 0) for source, size, first in zip(sources, sizes, firsts, strict=True))
        _native.merge_count(*self._how(), jobs.data_ptr(), len(jobs))
        counts = tuple(starts[torch.tensor(ends) - 1].tolist())
        columns = torch.empty(sum(counts), dtype=torch.uint16)
        layout = RowLayout(weights=tuple(weights), counts=counts, starts=starts, columns=columns)
        words = torch.zeros(layout.words_bytes, dtype=torch.uint8)
        jobs[:, 9] = columns.data_ptr() + 2 * torch.tensor([0, *accumulate(counts)][:-1])
        jobs[:, 10] = words.data_ptr() + torch.tensor(layout.words_starts[:-1])
        _native.merge_fill(*self._how(), jobs.data_ptr(), len(jobs))
        return RowTargets(layout=layout, words=words)

    def linear(
        self, x: Tensor, linears: Linears, plan: RowPlan, *, out_dtype: torch.dtype | None = None
    ) -> list[Tensor]:
        if not self.has_native_linear(linears.dtype):
            return super().linear(x, linears, plan, out_dtype=out_dtype)
        out_dtype = check_linear(x, linears, plan, out_dtype)
        products = [x.new_empty(plan.num_rows, size, dtype=out_dtype) for size in linears.out_features]
        self._run(x, linears, plan, products, is_correction=False)
        return products

    def correct_(self, y: Tensor, x: Tensor, weight: Tensor, plan: RowPlan) -> None:
        if x.dtype not in {torch.float32, torch.bfloat16}:
            super().correct_(y, x, weight, plan)
            return
        check_correct(y, x, weight, plan)
        if plan.mixed:
            self._run(x, Linears([(weight, None)]), plan, [y], is_correction=True)

    def _run(self, x: Tensor, linears: Linears, plan: RowPlan, products: list[Tensor], *, is_correction: bool) -> None:
        how = self._how()
        codes = (DTYPE_CODES[linears.dtype], DTYPE_CODES[products[0].dtype])
        groups = plan.table_unpatched if is_correction else plan.table
        targets = b"".join(
            targets_table(how, group, linears, is_patched=group.is_patched and not is_correction)
            for group in plan.groups
        )
        addresses = struct.pack(f"{len(products)}q", *(y.data_ptr() for y in products))
        shape = (x.data_ptr(), linears.in_features, *codes, is_correction)
        _native.linear(*how, *shape, linears.table, groups, targets, addresses)

    def _how(self) -> tuple[int, int]:
        return self._isa, torch.get_num_threads()


def _jobs(rows: Iterable[tuple[int, ...]]) -> Tensor:
    """int64 (jobs, columns): as struct RowsJob or MergeJob in csrc/rows.h."""
    return torch.tensor(list(rows), dtype=torch.int64)
