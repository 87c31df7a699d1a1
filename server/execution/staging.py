"""The device tier: blends staged as words, with the index sets and displaced buffers they need, in one byte budget."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, cast

from torch import Tensor

from adapters_store.adapter import Adapter, IndexSet, Version, WeightTable
from adapters_store.blend import BASE, Blend, BlendKey
from adapters_store.errors import BlendRejected, BudgetExceeded
from adapters_store.fusion import fuse
from adapters_store.kernels import Bound, Kernels, RowKernels, RowLayout, RowTargets, bind, new_words
from adapters_store.tiers.lru import ByteBudgetCache
from adapters_store.tiers.observer import SilentObserver, TierObserver
from server.core.steps import Survey
from server.execution.weights import BaseWeights

BESIDE = " beside "
PREPARED_ENTRY_BYTES = 8  # what kernels make of an entry of targets, at most for the usual spread over rows


class AdapterSource(Protocol):
    """Where adapters come from: the store. ``acquire`` may block when the bytes are not on the host."""

    def acquire(self, version: Version) -> Adapter: ...

    def release(self, adapter: Adapter) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Support:
    """One index set bound to the weights, and the buffer for what an exchange over it displaces.

    Blends on one index set share it; the buffer is meaningful only while one of them is in the weights."""

    index_set: IndexSet  # on the weights' device
    bound: Bound
    displaced: Tensor
    rows: RowLayout | None  # None where rows of these blends cannot run beside others

    @property
    def num_bytes(self) -> int:
        return self.index_set.num_bytes + self.displaced.nbytes + (self.rows.num_bytes if self.rows else 0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Staged:
    """A blend ready to be moved into the weights: its words, computed once from the base."""

    blend: Blend
    support: Support
    words: Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Held:
    """Targets that stay until they are let go."""

    targets: RowTargets
    key: str


class StagedBlends:
    """Least recently used blends leave when the budget is full; a held one stays. Engine thread only."""

    def __init__(
        self,
        weights: BaseWeights,
        kernels: Kernels,
        source: AdapterSource,
        *,
        budget_bytes: int,
        row_kernels: RowKernels | None = None,
        mixable: Collection[str] = (),
        observer: TierObserver | None = None,
    ) -> None:
        """``mixable``: the weights that ``row_kernels`` can give every row its own of."""
        self._weights = weights
        self._kernels = kernels
        self._source = source
        self._row_kernels = row_kernels
        self._mixable = frozenset(mixable)
        self._observer = observer or SilentObserver()
        self._blends: dict[BlendKey, Blend] = {}
        self._cache: ByteBudgetCache[str, Staged | Support | RowTargets] = ByteBudgetCache(
            budget_bytes, what="staged blend", on_evict=self._left
        )

    def hold(self, blend: Blend) -> Staged | None:
        """The staged blend, kept until ``let_go``; None if it is not staged."""
        staged = cast("Staged | None", self._cache.acquire(blend.key))
        if staged is None:
            self._observer.miss("device")
        else:
            self._observer.hit("device")
        return staged

    def let_go(self, staged: Staged) -> None:
        self._cache.release(staged.blend.key)

    def stage_and_hold(self, blend: Blend) -> Staged:
        """Fuses the members and computes their words; the weights must hold the base and are only read.

        Raises BlendRejected (not possible on this model, or out of the dtype's range), BudgetExceeded, and what the
        source raises. Nothing is kept then."""
        with self._adapters(blend) as members:
            delta = fuse(members, blend.fusion, self._kernels)
            support = self._hold_support(delta.index_set)
            try:
                staging = self._kernels.stage(support.bound, delta.delta)
                if staging.num_out_of_range:
                    raise BlendRejected(
                        f"{staging.num_out_of_range} of {delta.index_set.num_entries} weights would leave the range "
                        f"of {self._weights.dtype}; use a smaller scale"
                    )
                staged = Staged(blend=blend, support=support, words=staging.words)
                self._insert(blend.key, staged, staging.words.nbytes)
            except BaseException:
                self._cache.release(_support_key(support.index_set))
                raise
        self._blends[blend.key] = blend
        self._report()
        return staged

    def survey(self, blend: Blend) -> Survey:
        """Most entries that the blend can have, and whether rows of it can run beside others."""
        num_entries, is_mixable = 0, True
        for member in blend.members:
            adapter = self._source.acquire(member.version)
            num_entries += adapter.index_set.num_entries
            is_mixable &= self._is_mixable(adapter.index_set.table)
            self._source.release(adapter)
        return Survey(num_entries=num_entries, is_mixable=is_mixable)

    def names(self, blend: Blend) -> list[str]:
        """The weights that the blend touches, as its adapters name them."""
        names = []
        for member in blend.members:
            adapter = self._source.acquire(member.version)
            names += [entry.name for entry in adapter.index_set.table]
            self._source.release(adapter)
        return names

    def hold_targets(self, staged: Staged | None, dominant: Staged | None) -> Held:
        """What rows of ``staged`` (None: the base) run with beside ``dominant`` (None: the base) in the weights, kept
        until ``let_go_targets``. Both are held. Raises BlendRejected where that is not possible, BudgetExceeded."""
        key = f"{_key(staged)}{BESIDE}{_key(dominant)}"
        targets = cast("RowTargets | None", self._cache.acquire(key))
        if targets is None:
            targets = self._targets(staged, dominant)
            self._insert(key, targets, _bytes_of(targets, staged, dominant))
        return Held(targets=targets, key=key)

    def let_go_targets(self, held: Held) -> None:
        self._cache.release(held.key)

    def forget(self, version: Version) -> None:
        """Drops every staged blend that contains ``version``, and the supports that nothing else uses."""
        for key, blend in list(self._blends.items()):
            if version in blend.versions:
                self._cache.drop_when_unheld(key)
        self._drop_all_but_blends()
        self._report()

    def describe(self) -> dict[str, object]:
        counts = self._cache.counts()
        return {
            "staged_blends": list(self._blends),
            "num_bytes": counts.num_bytes,
            "budget_bytes": self._cache.budget_bytes,
        }

    @contextmanager
    def _adapters(self, blend: Blend) -> Iterator[list[tuple[Adapter, float]]]:
        held: list[tuple[Adapter, float]] = []
        try:
            for member in blend.members:
                held.append((self._source.acquire(member.version), member.scale))
            yield [(self._on_device(adapter), scale) for adapter, scale in held]
        finally:
            for adapter, _ in held:
                self._source.release(adapter)

    def _on_device(self, adapter: Adapter) -> Adapter:
        """On a CPU the adapter itself; else a copy, which lives as long as what is staged from it."""
        device = self._weights.device
        if adapter.values.device == device:
            return adapter
        index_set = adapter.index_set
        known = cast("Support | None", self._cache.get_or_none(_support_key(index_set)))
        index_set = index_set.on(device) if known is None else known.index_set
        return dataclasses.replace(adapter, index_set=index_set, values=adapter.values.to(device))

    def _hold_support(self, index_set: IndexSet) -> Support:
        """The support of an index set that is on the weights' device."""
        key = _support_key(index_set)
        support = cast("Support | None", self._cache.acquire(key))
        if support is None:
            bound = bind(index_set, self._weights.resolve(index_set.table))
            rows = self._rows().layout(bound) if self._is_mixable(index_set.table) else None
            support = Support(index_set=index_set, bound=bound, displaced=new_words(bound), rows=rows)
            self._insert(key, support, support.num_bytes)
        return support

    def _targets(self, staged: Staged | None, dominant: Staged | None) -> RowTargets:
        own = _words(staged.support, staged.words) if staged else None
        displaced = _words(dominant.support, dominant.support.displaced) if dominant else None
        if displaced is None or (own is not None and own.layout is displaced.layout):
            return cast("RowTargets", own)
        return self._rows().relative(own, displaced)

    def _is_mixable(self, table: WeightTable) -> bool:
        return all(entry.name in self._mixable for entry in table)

    def _rows(self) -> RowKernels:
        if self._row_kernels is None:
            raise AssertionError("weights are mixable, but there are no kernels for it")
        return self._row_kernels

    def _insert(self, key: str, value: Staged | Support | RowTargets, num_bytes: int) -> None:
        """Inserts held. Supports cannot be evicted while a staged blend uses them, so idle blends leave first."""
        while True:
            try:
                self._cache.insert(key, value, num_bytes, acquire=True)
                return
            except BudgetExceeded:
                staged = (key for key in self._cache.keys() if key in self._blends)  # noqa: SIM118  (no Mapping)
                victim = next((key for key in staged if not self._cache.num_references(key)), None)
                if victim is None:
                    raise
                self._cache.evict(victim)

    def _left(self, key: str, value: Staged | Support | RowTargets) -> None:
        if isinstance(value, Staged):
            self._blends.pop(value.blend.key, None)
            for other in self._cache.keys():  # noqa: SIM118
                if key in other.split(BESIDE):  # what was made of its words
                    self._cache.evict(other)
            self._cache.release(_support_key(value.support.index_set))
            self._observer.evicted("device", 1)

    def _drop_all_but_blends(self) -> None:
        """Supports that no blend uses, and targets that no row runs with."""
        for key in self._cache.keys():  # noqa: SIM118
            if key not in self._blends:
                self._cache.evict(key)

    def _report(self) -> None:
        num_supports = sum(isinstance(value, Support) for _, value in self._cache.items())
        self._observer.held(
            "device",
            num_adapters=len(self._blends),
            num_index_sets=num_supports,
            num_bytes=self._cache.counts().num_bytes,
        )


def _words(support: Support, words: Tensor) -> RowTargets:
    if support.rows is None:
        raise BlendRejected("a blend that touches more than linear weights cannot run beside others")
    return RowTargets(layout=support.rows, words=words)


def _bytes_of(targets: RowTargets, staged: Staged | None, dominant: Staged | None) -> int:
    """Of what the kernels will have made of the targets, and of the targets where they are not a support's own."""
    layouts = [each.support.rows for each in (staged, dominant) if each]
    own = 0 if targets.layout in layouts else targets.layout.num_bytes + targets.words.nbytes
    return own + PREPARED_ENTRY_BYTES * len(targets.layout.columns)


def _key(staged: Staged | None) -> str:
    return staged.blend.key if staged else BASE.key


def _support_key(index_set: IndexSet) -> str:
    return f"support {index_set.digest}"
