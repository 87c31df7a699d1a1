"""From a file in the page cache to an adapter bound to its weights: the first time, and once it was verified."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import torch

from adapters_store.adapter import Adapter, Fingerprint, build_adapter
from adapters_store.kernels import bind
from adapters_store.tiers.data_dir import DataDir
from adapters_store.tiers.disk import DiskTier
from adapters_store.tools.bench_stack import Case
from adapters_store.tools.bench_timing import Timing

FIRST_LOAD = "load, first promotion (digest and validation)"
NEXT_LOAD = "load, verified before in this process"


def time_loads(case: Case, num_repeats: int) -> list[Timing]:
    """Adapter A of ``case`` with bfloat16 values; the file was just written, so no disk is waited for."""
    values = torch.full((case.bound_a.num_entries,), 0.01, dtype=torch.bfloat16)
    adapter = build_adapter(base=Fingerprint("sha256:" + "0" * 64), index_set=case.bound_a.index_set, values=values)
    with tempfile.TemporaryDirectory() as folder:
        data_dir = DataDir(Path(folder))
        try:
            DiskTier(data_dir).write(adapter)
            first: list[float] = []
            later: list[float] = []
            for _ in range(num_repeats):
                disk = DiskTier(data_dir)  # a new one has verified nothing
                first.append(_load(disk, adapter, case))
                later.append(_load(disk, adapter, case))
        finally:
            data_dir.close()
    return [_timing(FIRST_LOAD, first), _timing(NEXT_LOAD, later)]


def _load(disk: DiskTier, adapter: Adapter, case: Case) -> float:
    start = time.perf_counter()
    index_set = disk.load_index_set(adapter.index_set.digest)
    values = disk.load_values(adapter.values_digest)
    assert index_set is not None
    assert values is not None
    bound = bind(index_set, list(case.weights.values()))
    assert bound.visits.numel()
    return time.perf_counter() - start


def _timing(label: str, seconds: list[float]) -> Timing:
    return Timing(label=label, median_s=statistics.median(seconds), min_s=min(seconds), num_repeats=len(seconds))
