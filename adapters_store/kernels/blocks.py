"""The arithmetic of 65,536-element blocks that restart at each weight, and the checks of the offsets over them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from adapters_store.adapter import BLOCK_ELEMENTS, WeightTable


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexFault:
    """The first thing wrong with an index set. ``position`` counts entries, or offsets where ``check`` is
    ``offsets`` or ``count``."""

    check: str
    weight: str | None
    position: int
    expected: str
    got: str


def weight_of_blocks(table: WeightTable) -> Tensor:
    """int64 (num_blocks,): the table row that each block belongs to."""
    return torch.repeat_interleave(torch.tensor([entry.num_blocks for entry in table], dtype=torch.int64))


def block_limits(table: WeightTable) -> Tensor:
    """int32 (num_blocks,): elements in each block; 65,536 but for the last block of a weight."""
    owner = weight_of_blocks(table)
    rows = torch.tensor([(entry.numel, entry.first_block) for entry in table], dtype=torch.int64).reshape(-1, 2)
    numel, first_block = rows[owner].unbind(1)
    left = numel - (torch.arange(owner.numel()) - first_block) * BLOCK_ELEMENTS
    return left.clamp(max=BLOCK_ELEMENTS).to(torch.int32)


def offsets_fault(table: WeightTable, offsets: Tensor, num_entries: int) -> IndexFault | None:
    """First fault of the offsets: their form, their order, their ends, then the table's counts.

    The table's own form (first blocks that run on) is the caller's business."""
    num_blocks = sum(entry.num_blocks for entry in table)
    if offsets.dtype != torch.int64 or offsets.shape != (num_blocks + 1,) or not offsets.is_contiguous():
        got = f"{offsets.dtype} {tuple(offsets.shape)}"
        return _offsets(0, f"contiguous torch.int64 ({num_blocks + 1},)", got)
    host = offsets.cpu()
    if host[0] != 0:
        return _offsets(0, "0 at the start", str(int(host[0])))
    falls = torch.nonzero(host[1:] < host[:-1])
    if falls.numel():
        at = int(falls[0]) + 1
        return _offsets(at, f"at least {int(host[at - 1])}", str(int(host[at])))
    if host[-1] != num_entries:
        return _offsets(num_blocks, f"{num_entries} at the end", str(int(host[-1])))
    bounds = torch.tensor([(entry.first_block, entry.end_block, entry.count) for entry in table], dtype=torch.int64)
    first, end, count = bounds.reshape(-1, 3).unbind(1)
    got_count = host[end] - host[first]
    wrong = torch.nonzero(got_count != count)
    if not wrong.numel():
        return None
    entry = table[int(wrong[0])]
    return IndexFault(
        check="count",
        weight=entry.name,
        position=entry.first_block,
        expected=f"{entry.count} entries",
        got=str(int(got_count[wrong[0]])),
    )


def entry_fault(table: WeightTable, offsets: Tensor, indices: Tensor, position: int) -> IndexFault:
    """Describes the fault of one entry, given that there is one: range first, then order."""
    host = offsets.cpu()
    block = int(torch.searchsorted(host, position, right=True)) - 1
    entry = table[int(weight_of_blocks(table)[block])]
    limit = min(entry.numel - (block - entry.first_block) * BLOCK_ELEMENTS, BLOCK_ELEMENTS)
    got = _index_at(indices, position)
    previous = _index_at(indices, position - 1) if position > int(host[block]) else -1
    if got >= limit:
        check, expected = "range", f"below {limit} in block {block}"
    else:
        check, expected = "unique" if got == previous else "sorted", f"above {previous} in block {block}"
    return IndexFault(check=check, weight=entry.name, position=position, expected=expected, got=str(got))


def _offsets(position: int, expected: str, got: str) -> IndexFault:
    return IndexFault(check="offsets", weight=None, position=position, expected=expected, got=got)


def _index_at(indices: Tensor, position: int) -> int:
    return int(indices[position].view(torch.int16)) & 0xFFFF
