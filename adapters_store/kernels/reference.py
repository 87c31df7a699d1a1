"""The kernels in plain torch, on integer views: the executable specification, and what runs without a compiler."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from adapters_store.adapter import BLOCK_ELEMENTS, DTYPE_NAMES, WeightTable
from adapters_store.kernels.blocks import IndexFault, block_limits, entry_fault, offsets_fault
from adapters_store.kernels.bound import Bound, Part, check_delta, check_exchange, check_switch, check_words, new_words
from adapters_store.kernels.interface import Journal, Staging, UnionMember
from adapters_store.kernels.members import check_members
from adapters_store.kernels.pairs import pair_visits

QUIET_NAN = {torch.float32: 0x7FC00000, torch.bfloat16: 0x7FC0, torch.float16: 0x7E00}


class ReferenceKernels:
    """Satisfies Kernels on every device that torch has."""

    name = "reference"

    def stage(self, bound: Bound, delta: Tensor) -> Staging:
        check_delta(bound, delta)
        words = new_words(bound)
        num_out_of_range = torch.zeros((), dtype=torch.int64, device=bound.device)
        for part in bound.parts():
            current = part.flat_words[entry_positions(bound, part)].view(part.weight.dtype).float()  # (count,)
            total = current + delta[part.entries]
            rounded = total.to(part.weight.dtype)
            num_out_of_range += (torch.isfinite(current) & ~torch.isfinite(rounded)).sum()
            out = part.words_of(words)
            out.copy_(rounded.view(part.word_dtype))
            out.masked_fill_(torch.isnan(total), QUIET_NAN[part.weight.dtype])
        return Staging(words=words, num_out_of_range=int(num_out_of_range))

    def exchange(self, bound: Bound, words: Tensor, displaced: Tensor, journal: Journal | None = None) -> None:
        check_exchange(bound, words, displaced)
        for num_before, part in enumerate(bound.parts()):
            positions = entry_positions(bound, part)
            part.words_of(displaced).copy_(part.flat_words[positions])
            if journal is not None:
                journal.num_weights_displaced = num_before + 1
            part.flat_words.scatter_(0, positions, part.words_of(words))

    def overwrite(self, bound: Bound, words: Tensor) -> None:
        check_words(bound, "words", words)
        for part in bound.parts():
            part.flat_words.scatter_(0, entry_positions(bound, part), part.words_of(words))

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
        check_switch(out, out_displaced, into, into_words, into_displaced)
        pair_visits(out.visits, into.visits)  # refuses weights that overlap
        self.overwrite(out, out_displaced)
        self.exchange(into, into_words, into_displaced, journal)

    def scan_indices(self, table: WeightTable, offsets: Tensor, indices: Tensor) -> IndexFault | None:
        fault = offsets_fault(table, offsets, indices.numel())
        if fault is not None or not indices.numel():
            return fault
        counts = offsets.diff()
        block = torch.repeat_interleave(torch.arange(counts.numel(), device=counts.device), counts)  # (num_entries,)
        local = _unsigned(indices)
        bad = local >= block_limits(table).to(local.device)[block]
        bad[1:] |= (local[1:] <= local[:-1]) & (block[1:] == block[:-1])
        first = int(bad.to(torch.uint8).argmax())
        return entry_fault(table, offsets, indices, first) if bad[first] else None

    def scan_values(self, values: Tensor) -> int | None:
        check_values(values)
        bad = ~torch.isfinite(values)
        return int(bad.to(torch.uint8).argmax()) if bool(bad.any()) else None

    def union_sum(self, num_blocks: int, members: Sequence[UnionMember]) -> tuple[Tensor, Tensor, Tensor]:
        check_members(num_blocks, members)
        device = members[0].indices.device
        placed = [_placed(num_blocks, member) for member in members]  # [(positions, products)], both (entries,)
        union = torch.unique(torch.cat([positions for positions, _ in placed]))  # sorted
        delta = torch.zeros(union.numel(), dtype=torch.float32, device=device)
        is_set = torch.zeros(union.numel(), dtype=torch.bool, device=device)
        for positions, products in placed:
            at = torch.searchsorted(union, positions)
            delta[at] = torch.where(is_set[at], delta[at] + products, products)
            is_set[at] = True
        edges = torch.arange(num_blocks + 1, device=device) * BLOCK_ELEMENTS
        return torch.searchsorted(union, edges), (union % BLOCK_ELEMENTS).to(torch.uint16), delta


def check_values(values: Tensor) -> None:
    """Raises ValueError unless ``values`` is contiguous (n,) float32, bfloat16 or float16."""
    if values.dtype not in DTYPE_NAMES or values.dim() != 1 or not values.is_contiguous():
        raise ValueError(
            f"values: expected a contiguous (n,) tensor of {', '.join(DTYPE_NAMES.values())}, "
            f"got {values.dtype} {tuple(values.shape)}"
        )


def _unsigned(indices: Tensor) -> Tensor:
    """int64 of uint16, by way of the signed view that torch can compute with."""
    return indices.view(torch.int16).to(torch.int64) & 0xFFFF


def entry_positions(bound: Bound, part: Part) -> Tensor:
    """int64 (count,): flat positions of a part's entries in its weight."""
    entry = part.entry
    counts = bound.index_set.offsets[entry.first_block : entry.end_block + 1].diff()
    starts = torch.arange(counts.numel(), device=counts.device) * BLOCK_ELEMENTS
    local = _unsigned(bound.index_set.indices[part.entries])
    return local + torch.repeat_interleave(starts, counts).to(local.device)


def _placed(num_blocks: int, member: UnionMember) -> tuple[Tensor, Tensor]:
    """Positions of a member's entries over the union's blocks end to end, ascending, and their scaled values."""
    device = member.indices.device
    blocks = member.blocks.to(device)
    present = torch.nonzero(blocks >= 0).flatten()  # union blocks
    own = blocks[present]
    offsets = member.offsets.to(device)
    counts = offsets[own + 1] - offsets[own]
    first = torch.repeat_interleave(offsets[own] - (counts.cumsum(0) - counts), counts)
    entries = first + torch.arange(first.numel(), device=device)
    positions = torch.repeat_interleave(present * BLOCK_ELEMENTS, counts) + _unsigned(member.indices)[entries]
    scale = torch.tensor(member.scale, dtype=torch.float32, device=device)
    return positions, member.values[entries].float() * scale
