"""The union of index sets whose tables may differ: its table, its name, and where each set's blocks fall in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from adapters_store.adapter import BLOCK_ELEMENTS, Digest, DTypeName, IndexSet, WeightTable, build_table, sha256_digest
from adapters_store.errors import BlendRejected


def union_table(index_sets: Sequence[IndexSet]) -> WeightTable:
    """All weights that any set touches, in ascending order of name; the counts are still to be filled in."""
    rows: dict[str, tuple[str, tuple[int, ...], DTypeName, int]] = {}
    for entry in (entry for index_set in index_sets for entry in index_set.table):
        row = (entry.name, entry.shape, entry.dtype, 0)
        if rows.setdefault(entry.name, row) != row:
            raise BlendRejected(f"{entry.name}: the adapters disagree on its shape or dtype")
    return build_table(rows[name] for name in sorted(rows))


def counted(table: WeightTable, offsets: Tensor) -> WeightTable:
    edges = offsets[[0, *(entry.end_block for entry in table)]].tolist()
    counts = (end - start for start, end in pairwise(edges))
    return tuple(replace(entry, count=count) for entry, count in zip(table, counts, strict=True))


def union_digest(index_sets: Sequence[IndexSet]) -> Digest:
    digests = sorted({index_set.digest for index_set in index_sets})
    return sha256_digest(b"shira.union.v1\n", "\n".join(digests).encode())


def union_blocks(index_set: IndexSet, table: WeightTable) -> Tensor:
    """int64 (index_set.num_blocks,): the block of ``table`` that each block of the set is."""
    first_blocks = {entry.name: entry.first_block for entry in table}
    runs = [torch.arange(entry.num_blocks) + first_blocks[entry.name] for entry in index_set.table]
    return torch.cat(runs).to(index_set.offsets.device)


def blocks_in(index_set: IndexSet, table: WeightTable) -> Tensor:
    """int64 (table's blocks,): the block of the set that each block of ``table`` is, or −1."""
    device = index_set.offsets.device
    blocks = torch.full((table[-1].end_block,), -1, dtype=torch.int64, device=device)
    blocks[union_blocks(index_set, table)] = torch.arange(index_set.num_blocks, device=device)
    return blocks


def keys(index_set: IndexSet, table: WeightTable) -> Tensor:
    """int64 (num_entries,): one number per position, the same for every set over ``table``; ascending."""
    blocks = union_blocks(index_set, table).repeat_interleave(
        index_set.offsets.diff(), output_size=index_set.num_entries
    )
    return blocks * BLOCK_ELEMENTS + index_set.indices.to(torch.int64)
