"""Positions in a weight to block-local indices and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adapters_store.adapter import (
    BLOCK_ELEMENTS,
    DTypeName,
    IndexSet,
    WeightEntry,
    build_index_set,
    build_table,
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Positions:
    """The touched positions of one weight: int64 (count,), strictly ascending, C order of the logical shape."""

    name: str
    shape: tuple[int, ...]
    dtype: DTypeName
    flat: Tensor


def pack_positions(weights: Sequence[Positions]) -> IndexSet:
    """The index set of these positions, on the CPU. The caller gives weights in ascending order of name and vouches
    for the positions (``format`` checks files, ``peft_format`` checks uploads)."""
    table = build_table((weight.name, weight.shape, weight.dtype, weight.flat.numel()) for weight in weights)
    num_blocks = table[-1].end_block if table else 0
    num_entries = sum(entry.count for entry in table)
    offsets = torch.zeros(num_blocks + 1, dtype=torch.int64)
    indices = torch.empty(num_entries, dtype=torch.uint16)
    start = 0
    for entry, weight in zip(table, weights, strict=True):
        flat = weight.flat.cpu()
        block_ends = torch.arange(1, entry.num_blocks + 1) * BLOCK_ELEMENTS  # (num_blocks,)
        offsets[entry.first_block + 1 : entry.end_block + 1] = start + torch.searchsorted(flat, block_ends)
        indices[start : start + entry.count] = flat.bitwise_and(BLOCK_ELEMENTS - 1).to(torch.uint16)
        start += entry.count
    return build_index_set(table, offsets, indices)


def unpack_positions(index_set: IndexSet) -> Iterator[tuple[WeightEntry, Tensor]]:
    """Each weight with its positions: int64 (count,), ascending, on the set's device."""
    for entry, start in zip(index_set.table, index_set.entry_starts, strict=False):
        block_counts = index_set.offsets[entry.first_block : entry.end_block + 1].diff()  # (num_blocks,)
        block_starts = torch.arange(entry.num_blocks, device=block_counts.device) * BLOCK_ELEMENTS
        local = index_set.indices[start : start + entry.count].to(torch.int64)
        yield entry, local + block_starts.repeat_interleave(block_counts, output_size=entry.count)
