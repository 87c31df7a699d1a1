"""The C kernels for CPU tensors: checks in Python, then one call for the whole model without the GIL."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import torch
from torch import Tensor

from adapters_store.adapter import WeightTable
from adapters_store.kernels import _native
from adapters_store.kernels.blocks import IndexFault, block_limits, entry_fault, offsets_fault
from adapters_store.kernels.bound import (
    DTYPE_CODES,
    Bound,
    check_delta,
    check_exchange,
    check_switch,
    check_words,
    new_words,
)
from adapters_store.kernels.interface import Journal, Staging, UnionMember
from adapters_store.kernels.members import check_members
from adapters_store.kernels.reference import check_values

ISAS = {"c-avx512": 2, "c-avx2": 1, "c-scalar": 0}  # fastest first; numbers as in csrc/ops.h


def supported_isas() -> tuple[str, ...]:
    """Names of the variants that this machine can run, fastest first."""
    return tuple(name for name, isa in ISAS.items() if _native.supports(isa))


class NativeKernels:
    """Satisfies Kernels for CPU tensors. Uses as many threads as torch does at the time of the call."""

    def __init__(self, name: str) -> None:
        if name not in supported_isas():
            raise ValueError(f"kernels: expected one of {', '.join(supported_isas())}, got {name!r}")
        self._name = name
        self._isa = ISAS[name]

    @property
    def name(self) -> str:
        return self._name

    def stage(self, bound: Bound, delta: Tensor) -> Staging:
        check_cpu(bound)
        check_delta(bound, delta)
        words = new_words(bound)
        num_lost = _native.stage(*self._how(), *plan(bound), delta.data_ptr(), words.data_ptr())
        return Staging(words=words, num_out_of_range=num_lost)

    def exchange(self, bound: Bound, words: Tensor, displaced: Tensor, journal: Journal | None = None) -> None:
        check_cpu(bound)
        check_exchange(bound, words, displaced)
        journal_args = (journal.address if journal else 0, bound.num_weights)
        _native.exchange(*self._how(), *plan(bound), words.data_ptr(), displaced.data_ptr(), *journal_args)

    def overwrite(self, bound: Bound, words: Tensor) -> None:
        check_cpu(bound)
        check_words(bound, "words", words)
        _native.overwrite(*self._how(), *plan(bound), words.data_ptr())

    def switch(
        self,
        out: Bound,
        out_displaced: Tensor,
        into: Bound,
        into_words: Tensor,
        into_displaced: Tensor,
        *,
        journal: Journal | None = None,
    ) -> None:
        check_cpu(out)
        check_cpu(into)
        check_switch(out, out_displaced, into, into_words, into_displaced)
        _native.switch(
            *self._how(),
            *plan(out),
            out_displaced.data_ptr(),
            *plan(into),
            into_words.data_ptr(),
            into_displaced.data_ptr(),
            journal.address if journal else 0,
            into.num_weights,
        )

    def scan_indices(self, table: WeightTable, offsets: Tensor, indices: Tensor) -> IndexFault | None:
        fault = offsets_fault(table, offsets, indices.numel())
        if fault is not None:
            return fault
        if indices.dtype != torch.uint16 or not indices.is_contiguous():
            raise ValueError(f"indices: expected contiguous torch.uint16, got {indices.dtype}")
        limits = block_limits(table)
        addresses = (offsets.data_ptr(), limits.data_ptr(), indices.data_ptr())
        first = _native.scan_indices(*self._how(), *addresses, limits.numel())
        return None if first < 0 else entry_fault(table, offsets, indices, first)

    def scan_values(self, values: Tensor) -> int | None:
        check_values(values)
        code = DTYPE_CODES[values.dtype]
        first = _native.scan_values(*self._how(), values.data_ptr(), values.numel(), code)
        return None if first < 0 else first

    def union_sum(self, num_blocks: int, members: Sequence[UnionMember]) -> tuple[Tensor, Tensor, Tensor]:
        check_members(num_blocks, members)
        rows = torch.tensor([_member_row(member) for member in members], dtype=torch.int64)  # kept alive by its name
        where = (rows.data_ptr(), len(members), num_blocks)
        offsets = torch.zeros(num_blocks + 1, dtype=torch.int64)
        _native.union_count(*self._how(), *where, offsets[1:].data_ptr())
        offsets = offsets.cumsum(0)
        indices = torch.empty(int(offsets[-1]), dtype=torch.uint16)
        delta = torch.empty(indices.numel(), dtype=torch.float32)
        _native.union_fill(*self._how(), *where, offsets.data_ptr(), indices.data_ptr(), delta.data_ptr())
        return offsets, indices, delta

    def _how(self) -> tuple[int, int]:
        return self._isa, torch.get_num_threads()


def check_cpu(bound: Bound) -> None:
    if bound.device.type != "cpu":
        raise ValueError(f"bound: expected weights on the CPU, got {bound.device}")


def plan(bound: Bound) -> tuple[int, int, int]:
    """The address arguments that stand for a bound index set: visits, their number, indices."""
    return bound.visits.data_ptr(), bound.visits.shape[0], bound.index_set.indices.data_ptr()


def _member_row(member: UnionMember) -> tuple[int, ...]:
    """As struct Member in csrc/model.h."""
    scale = int.from_bytes(struct.pack("<f", member.scale), "little")
    tensors = (member.blocks, member.offsets, member.indices, member.values)
    return (*(tensor.data_ptr() for tensor in tensors), DTYPE_CODES[member.values.dtype], scale)
