from __future__ import annotations

from server.core.metrics import Metrics
from server.core.tier_metrics import TierMetrics


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
