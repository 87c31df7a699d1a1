"""Small bases of random words, adapters for them, and kernels that fail where told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from adapters_store.adapter import (
    BLOCK_ELEMENTS,
    DTYPE_NAMES,
    Adapter,
    Fingerprint,
    IndexSet,
    Version,
    WeightTable,
    build_adapter,
    build_index_set,
    build_table,
    num_blocks,
)
from adapters_store.base import BaseDescription, BaseWeight
from adapters_store.blend import Blend, BlendMember
from adapters_store.errors import AdapterUnavailable
from adapters_store.kernels import (
    Bound,
    IndexFault,
    Journal,
    Kernels,
    Staging,
    UnionMember,
    get_kernels,
    get_row_kernels,
)
from server.core.metrics import Metrics
from server.execution.fused import FusedExecution
from server.execution.weights import BaseWeights

BASE_PRINT = Fingerprint("sha256:" + "b" * 64)
SHAPES: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
    "a.weight": ((300, 300), torch.bfloat16),  # two blocks, the second one short
    "b.weight": ((17, 3), torch.float32),
    "c.weight": ((5, 7, 3), torch.float16),
    "d.bias": ((11,), torch.bfloat16),
    "e.weight": ((6, 4, 3, 3), torch.float16),
}


def make_weights(seed: int = 0) -> BaseWeights:
    generator = torch.Generator().manual_seed(seed)
    parameters = {
        name: (torch.randn(shape, generator=generator) * 0.1).to(dtype) for name, (shape, dtype) in SHAPES.items()
    }
    return BaseWeights(parameters, describe(parameters))


def describe(parameters: Mapping[str, Tensor]) -> BaseDescription:
    weights = {
        name: BaseWeight(name=name, shape=tuple(tensor.shape), dtype=DTYPE_NAMES[tensor.dtype])
        for name, tensor in parameters.items()
    }
    return BaseDescription(fingerprint=BASE_PRINT, weights=weights)


def make_index_set(seed: int, names: Sequence[str] = tuple(SHAPES), share: float = 0.1) -> IndexSet:
    """A random set: ``share`` of each named weight's elements, at least one."""
    generator = torch.Generator().manual_seed(seed)
    rows, indices, per_block = [], [], []
    for name in sorted(names):
        shape, dtype = SHAPES[name]
        numel = torch.Size(shape).numel()
        count = max(1, int(numel * share))
        flat = torch.randperm(numel, generator=generator)[:count].sort().values
        rows.append((name, shape, DTYPE_NAMES[dtype], count))
        indices.append((flat % BLOCK_ELEMENTS).to(torch.uint16))
        per_block.append(torch.bincount(flat // BLOCK_ELEMENTS, minlength=num_blocks(numel)))
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), torch.cat(per_block).cumsum(0)])
    return build_index_set(build_table(rows), offsets, torch.cat(indices))


def make_adapter(seed: int, index_set: IndexSet | None = None, *, amplitude: float = 0.1) -> Adapter:
    index_set = index_set or make_index_set(seed)
    generator = torch.Generator().manual_seed(1000 + seed)
    values = torch.randn(index_set.num_entries, generator=generator) * amplitude
    return build_adapter(base=BASE_PRINT, index_set=index_set, values=values)


@dataclass
class Shelf:
    """Adapters on the host, and who holds them."""

    adapters: dict[Version, Adapter] = field(default_factory=dict)
    held: Counter[Version] = field(default_factory=Counter)

    def add(self, adapter: Adapter) -> Adapter:
        self.adapters[adapter.version] = adapter
        return adapter

    def acquire(self, version: Version) -> Adapter:
        if version not in self.adapters:
            raise AdapterUnavailable(version, reason="not on the shelf")
        self.held[version] += 1
        return self.adapters[version]

    def check_fits(self, versions: Sequence[Version]) -> None:
        pass

    def release(self, adapter: Adapter) -> None:
        self.held[adapter.version] -= 1
        assert self.held[adapter.version] >= 0


class Injected(Exception):
    pass


@dataclass
class FailingKernels:
    """Real kernels that stop in the middle: ``fail_at`` names the calls still to come, as (how many calls from now,
    how many weights are done before the failure)."""

    inner: Kernels
    fail_at: tuple[int, int] | None = None
    num_failed: int = 0
    name: str = "failing"

    def stage(self, bound: Bound, delta: Tensor) -> Staging:
        self._maybe_fail()
        return self.inner.stage(bound, delta)

    def exchange(self, bound: Bound, words: Tensor, displaced: Tensor, journal: Journal | None = None) -> None:
        done = self._is_due()
        if done is None:
            return self.inner.exchange(bound, words, displaced, journal)
        head = bound.head(min(done, bound.num_weights))
        if head.num_weights:
            self.inner.exchange(head, words[: head.words_bytes], displaced[: head.words_bytes], journal)
        raise Injected

    def overwrite(self, bound: Bound, words: Tensor) -> None:
        done = self._is_due()
        if done is None:
            return self.inner.overwrite(bound, words)
        head = bound.head(min(done, bound.num_weights))
        if head.num_weights:
            self.inner.overwrite(head, words[: head.words_bytes])
        raise Injected

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
        done = self._is_due()
        if done is None:
            return self.inner.switch(out, out_displaced, into, into_words, into_displaced, journal=journal)
        head = into.head(min(done, into.num_weights))
        if head.num_weights:
            self.inner.overwrite(out, out_displaced)
            self.inner.exchange(head, into_words[: head.words_bytes], into_displaced[: head.words_bytes], journal)
        raise Injected

    def scan_indices(self, table: WeightTable, offsets: Tensor, indices: Tensor) -> IndexFault | None:
        return self.inner.scan_indices(table, offsets, indices)

    def scan_values(self, values: Tensor) -> int | None:
        return self.inner.scan_values(values)

    def union_sum(self, num_blocks: int, members: Sequence[UnionMember]) -> tuple[Tensor, Tensor, Tensor]:
        self._maybe_fail()
        return self.inner.union_sum(num_blocks, members)

    def _maybe_fail(self) -> None:
        if self._is_due() is not None:
            raise Injected

    def _is_due(self) -> int | None:
        """Weights to do before failing, None to work."""
        if self.fail_at is None:
            return None
        calls, done = self.fail_at
        self.fail_at = (calls - 1, done) if calls else None
        if calls:
            return None
        self.num_failed += 1
        return done


@dataclass
class World:
    weights: BaseWeights = field(default_factory=make_weights)
    shelf: Shelf = field(default_factory=Shelf)
    kernels: FailingKernels = field(default_factory=lambda: FailingKernels(get_kernels("cpu")))
    budget_bytes: int = 1 << 24

    def __post_init__(self) -> None:
        self.metrics = Metrics()
        self.execution = FusedExecution(
            self.weights,
            self.kernels,
            self.shelf,
            device_budget_bytes=self.budget_bytes,
            metrics=self.metrics,
            row_kernels=get_row_kernels("cpu"),
            mixable=("a.weight", "b.weight"),
        )

    def blend(self, *adapters: Adapter, scale: float = 1.0) -> Blend:
        for adapter in adapters:
            self.shelf.add(adapter)
        return Blend(members=tuple(BlendMember(version=adapter.version, scale=scale) for adapter in adapters))

    def words(self) -> dict[str, Tensor]:
        """Copies of every weight as it is now."""
        return {weight.name: weight.tensor.clone() for weight in self.weights.weights}


def same_bits(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(a[name].view(-1).view(torch.uint8), b[name].view(-1).view(torch.uint8)) for name in a
    )


def expected_words(base: Mapping[str, Tensor], members: Sequence[tuple[Adapter, float]]) -> dict[str, Tensor]:
    """Dense: round(fp32(W0) + Σ fp32(scale) · fp32(value)), the sum in order of version."""
    deltas = {name: torch.zeros(tensor.numel()) for name, tensor in base.items()}
    for adapter, scale in sorted(members, key=lambda member: member[0].version):
        for name, (positions, values) in entries(adapter).items():
            deltas[name][positions] += torch.tensor(scale, dtype=torch.float32) * values.float()
    return {
        name: (tensor.float().view(-1) + deltas[name]).to(tensor.dtype).view(tensor.shape)
        for name, tensor in base.items()
    }


def entries(adapter: Adapter) -> dict[str, tuple[Tensor, Tensor]]:
    """Flat positions and values by weight name."""
    index_set = adapter.index_set
    found = {}
    for row, entry in enumerate(index_set.table):
        offsets = index_set.offsets[entry.first_block : entry.end_block + 1]
        block = torch.repeat_interleave(torch.arange(entry.num_blocks), offsets.diff())
        part = slice(index_set.entry_starts[row], index_set.entry_starts[row + 1])
        positions = index_set.indices[part].to(torch.int64) + block * BLOCK_ELEMENTS
        found[entry.name] = (positions, adapter.values[part])
    return found
