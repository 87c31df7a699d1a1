"""What a store is told once, at start."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from adapters_store.tiers.redis_settings import RedisSettings

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreConfig:
    """``host_budget_bytes`` bounds the values and index sets held in memory."""

    data_dir: Path
    host_budget_bytes: int = 2048 * MIB
    redis: RedisSettings = field(default_factory=RedisSettings)
