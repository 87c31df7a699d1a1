"""What ``/metrics`` tells of the process as a whole: what it is, whether it is ready, what it may take."""

from __future__ import annotations

import shutil

from server import __version__
from server.api.services import BaseInfo
from server.core.memory_limit import memory_limit_bytes
from server.core.metrics import Metrics
from server.core.settings import ServerConfig
from server.engine.client import EngineClient


def tell_vitals(metrics: Metrics, config: ServerConfig, base: BaseInfo, client: EngineClient) -> None:
    redis = config.redis if config.redis in ("embedded", "off") else "url"
    metrics.build.info(
        {
            "version": __version__,
            "base": base.name,
            "fingerprint": base.fingerprint,
            "kind": "pictures" if base.pictures else "text",
            "dtype": base.dtype,
            "device": base.device,
            "redis": redis,
        }
    )
    metrics.ready.set_function(lambda: client.is_alive and not client.is_draining)
    metrics.audit_interval_seconds.set(config.audit_interval_s)
    metrics.memory_limit_bytes.set(memory_limit_bytes())
    metrics.data_free_bytes.set_function(lambda: shutil.disk_usage(config.data_dir).free)
    metrics.data_size_bytes.set_function(lambda: shutil.disk_usage(config.data_dir).total)
    budgets = {"device": config.device_budget_bytes, "host": config.host_budget_bytes}
    if redis != "off":
        budgets["redis"] = config.redis_values_budget_bytes
    for tier, num_bytes in budgets.items():
        metrics.tier_budget_bytes.labels(tier).set(num_bytes)
