"""Small real adapters for tests of the tiers and the store."""

from __future__ import annotations

import torch

from adapters_store.adapter import Adapter, Fingerprint, build_adapter, build_index_set, build_table
from adapters_store.format import ParsedUpload

BASE = Fingerprint("sha256:" + "ab" * 32)


def small_adapter(*, mask: int = 0, values: int = 0, count: int = 64, base: Fingerprint = BASE) -> Adapter:
    """``mask`` picks the index set, ``values`` the values; equal arguments give equal adapters."""
    shape = (64, 2048)  # two blocks
    table = build_table([("layers.0.weight", shape, "float32", 2 * count)])
    draw = torch.Generator().manual_seed(mask)
    indices = [torch.randperm(65_536, generator=draw)[:count].sort().values for _ in range(2)]
    index_set = build_index_set(table, torch.tensor([0, count, 2 * count]), torch.cat(indices).to(torch.uint16))
    deltas = torch.randn(2 * count, generator=torch.Generator().manual_seed(values))
    return build_adapter(base=base, index_set=index_set, values=deltas)


def upload(adapter: Adapter) -> ParsedUpload:
    return ParsedUpload(adapter=adapter, card=None, base_verified=True)


def same_adapter(left: Adapter, right: Adapter) -> bool:
    """Bit for bit."""
    return (
        left.version == right.version
        and left.index_set.table == right.index_set.table
        and torch.equal(left.index_set.offsets, right.index_set.offsets)
        and torch.equal(left.index_set.indices.to(torch.int32), right.index_set.indices.to(torch.int32))
        and torch.equal(left.values.view(torch.int32), right.values.view(torch.int32))
    )
