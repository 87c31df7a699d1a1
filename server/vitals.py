"""What ``/metrics`` tells of the process as a whole: what it is, whether it is ready, what it may take."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

from server import __version__
from server.api.services import BaseInfo, Engine
from server.core.memory_limit import find_memory_limit
from server.core.metrics import Metrics
from server.core.settings import ServerConfig


def tell_vitals(metrics: Metrics, config: ServerConfig, base: BaseInfo, engine: Engine) -> None:
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
    metrics.ready.set_function(lambda: engine.is_alive and not engine.is_draining)
    metrics.audit_interval_seconds.set(config.audit_interval_s)
    limit = find_memory_limit()
    metrics.memory_limit_bytes.set(limit.num_bytes)
    metrics.memory_used_bytes.set_function(limit.used_bytes)
    metrics.data_free_bytes.set_function(lambda: _disk_bytes(config.data_dir, "free"))
    metrics.data_size_bytes.set_function(lambda: _disk_bytes(config.data_dir, "total"))
    budgets = {"device": config.device_budget_bytes, "host": config.host_budget_bytes}
    if redis != "off":
        budgets["redis"] = config.redis_values_budget_bytes
    for tier, num_bytes in budgets.items():
        metrics.tier_budget_bytes.labels(tier).set(num_bytes)


def _disk_bytes(folder: Path, which: Literal["free", "total"]) -> float:
    """Not a number where the disk does not tell: what else there is to tell is wanted then most of all."""
    try:
        return float(getattr(shutil.disk_usage(folder), which))
    except OSError:
        return float("nan")
