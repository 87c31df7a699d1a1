"""The validation scan over an adapter's entries, with its faults as refusals."""

from __future__ import annotations

import torch
from torch import Tensor

from adapters_store.adapter import BLOCK_ELEMENTS, WeightTable
from adapters_store.errors import AdapterRejected


def check_indices(table: WeightTable, offsets: Tensor, indices: Tensor) -> None:
    """Offsets run from 0 to the number of entries, agree with the counts, and the indices of each block are
    strictly ascending and inside the weight. Raises AdapterRejected."""
    num_entries = indices.numel()
    if int(offsets[0]) != 0 or int(offsets[-1]) != num_entries or bool((offsets.diff() < 0).any()):
        raise AdapterRejected("offsets", tensor="offsets", expected=f"0 ascending to {num_entries}", got="other")
    for entry in table:
        count = int(offsets[entry.end_block]) - int(offsets[entry.first_block])
        if count != entry.count:
            raise AdapterRejected("count", tensor=entry.name, expected=str(entry.count), got=str(count))
        blocks = offsets[entry.first_block : entry.end_block + 1]
        flat = indices[int(blocks[0]) : int(blocks[-1])].to(torch.int64)
        starts = torch.arange(entry.num_blocks) * BLOCK_ELEMENTS
        flat += starts.repeat_interleave(blocks.diff())
        if bool((flat.diff() <= 0).any()):
            raise AdapterRejected("sorted", tensor=entry.name, expected="strictly ascending", got="other")
        if int(flat[-1]) >= entry.numel:
            raise AdapterRejected("range", tensor=entry.name, expected=f"< {entry.numel}", got=str(int(flat[-1])))


def check_values(values: Tensor) -> None:
    """Raises AdapterRejected naming the first value that is not finite."""
    finite = values.isfinite()
    if not bool(finite.all()):
        position = int(finite.logical_not().nonzero()[0])
        raise AdapterRejected(
            "finite", tensor="values", expected="finite values", got=f"{float(values[position])} at entry {position}"
        )
