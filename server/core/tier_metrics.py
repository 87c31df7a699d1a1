"""Turns what the tiers tell into Prometheus instruments. Satisfies ``adapters_store.tiers.observer.TierObserver``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from server.core.fetches import Fetches
from server.core.metrics import Metrics

if TYPE_CHECKING:
    from adapters_store.tiers.observer import TierName


class TierMetrics:
    """May be called from any thread."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self.fetches = Fetches()

    def hit(self, tier: TierName) -> None:
        self._metrics.tier_hits.labels(tier).inc()

    def miss(self, tier: TierName) -> None:
        self._metrics.tier_misses.labels(tier).inc()

    def fetched(self, tier: TierName, seconds: float) -> None:
        self._metrics.switch_seconds.labels("fetch", tier).observe(seconds)
        self.fetches.note(tier, seconds)

    def evicted(self, tier: TierName, num_entries: int) -> None:
        self._metrics.tier_evictions.labels(tier).inc(num_entries)

    def held(self, tier: TierName, *, num_adapters: int, num_index_sets: int, num_bytes: int) -> None:
        self._metrics.adapter_resident.labels(tier).set(num_adapters)
        self._metrics.index_sets.labels(tier).set(num_index_sets)
        self._metrics.tier_bytes.labels(tier).set(num_bytes)

    def index_set_bytes_shared(self, num_bytes: int) -> None:
        self._metrics.index_set_bytes_shared.set(num_bytes)

    def redis_up(self, is_up: bool) -> None:
        self._metrics.redis_up.set(is_up)
