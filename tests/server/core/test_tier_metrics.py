from __future__ import annotations

from pathlib import Path

from adapters_store.store import AdapterStore
from adapters_store.store_config import StoreConfig
from adapters_store.tiers.redis_settings import RedisSettings
from server.core.metrics import Metrics
from server.core.tier_metrics import TierMetrics
from tests.adapters_store.small_adapters import small_adapter, upload


def test_what_a_tier_tells_is_what_is_exposed() -> None:
    metrics = Metrics()
    tiers = TierMetrics(metrics)
    tiers.hit("host")
    tiers.miss("disk")
    tiers.evicted("host", 3)
    tiers.held("disk", num_adapters=2, num_index_sets=1, num_bytes=4096)
    tiers.index_set_bytes_shared(512)
    tiers.redis_up(True)
    lines = metrics.render().decode().splitlines()
    assert {
        'shira_tier_hits_total{tier="host"} 1.0',
        'shira_tier_misses_total{tier="disk"} 1.0',
        'shira_tier_evictions_total{tier="host"} 3.0',
        'shira_adapter_resident{tier="disk"} 2.0',
        'shira_index_sets{tier="disk"} 1.0',
        'shira_tier_bytes{tier="disk"} 4096.0',
        "shira_index_set_bytes_shared 512.0",
        "shira_redis_up 1.0",
    } <= set(lines)


def test_bringing_an_adapter_to_the_host_is_the_fetch_phase_of_a_switch(tmp_path: Path) -> None:
    metrics = Metrics()
    config = StoreConfig(data_dir=tmp_path / "data", redis=RedisSettings(mode="off"))
    store = AdapterStore(config, observer=TierMetrics(metrics))
    try:
        parsed = upload(small_adapter())
        store.put(parsed, tenant="default", name="a")
        for _ in range(2):
            store.release(store.acquire(parsed.adapter.version))
    finally:
        store.close()
    told = metrics.registry.get_sample_value("shira_switch_seconds_count", {"phase": "fetch", "tier": "disk"})
    assert told == 1  # the second time it was there
