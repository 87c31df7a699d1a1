"""The blocks of a switch: those of two bound index sets, matched by address."""

from __future__ import annotations

import torch
from torch import Tensor

from adapters_store.kernels.bound import VISIT_COLUMNS

NUM_BYTES, DTYPE = 1, 5  # columns of a visit
BLOCK_ALONE = torch.tensor([1, 1, 0, 0, 0, 1])  # address, bytes and dtype: what a visit says without its entries


def pair_visits(out: Tensor, into: Tensor) -> Tensor:
    """Rows of two tables of visits side by side by block address; count 0 where only the other one touches a block.

    Raises ValueError where blocks overlap without being the same block."""
    addresses = torch.unique(torch.cat([out[:, 0], into[:, 0]]))  # ascending
    pairs = torch.zeros(len(addresses), 2 * VISIT_COLUMNS, dtype=torch.int64)
    out_at, into_at = (torch.searchsorted(addresses, rows[:, 0].contiguous()) for rows in (out, into))
    pairs[into_at, VISIT_COLUMNS:] = into
    pairs[into_at, :VISIT_COLUMNS] = into * BLOCK_ALONE
    both = torch.isin(out[:, 0], into[:, 0])
    same_form = [NUM_BYTES, DTYPE]
    unlike = (out[both][:, same_form] != pairs[out_at[both]][:, same_form]).any()
    pairs[out_at, :VISIT_COLUMNS] = out
    ends = pairs[:, 0] + pairs[:, 1]
    if unlike or bool((ends[:-1] > pairs[1:, 0]).any()):
        raise ValueError("weights of the two bound index sets overlap without being the same weights")
    return pairs
