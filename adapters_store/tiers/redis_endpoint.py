"""How to get a client: to a server of our own, or to the one a URL names."""

from __future__ import annotations

from pathlib import Path

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from adapters_store.tiers.embedded import EmbeddedValkey
from adapters_store.tiers.redis_settings import MIB, RedisSettings

INDEX_SETS_ALLOWANCE_BYTES = 256 * MIB  # what an embedded server may hold besides values


class UrlEndpoint:
    def __init__(self, settings: RedisSettings) -> None:
        self._url = settings.url or ""
        self._timeout_s = settings.timeout_s

    def connect(self) -> Redis:
        return Redis.from_url(
            self._url,
            protocol=2,
            socket_timeout=self._timeout_s,
            socket_connect_timeout=self._timeout_s,
            retry=Retry(NoBackoff(), 0),
        )

    def close(self) -> None:
        pass


class EmbeddedEndpoint:
    def __init__(self, folder: Path, settings: RedisSettings) -> None:
        """Raises EmbeddedRedisUnavailable."""
        max_memory_bytes = settings.values_budget_bytes + INDEX_SETS_ALLOWANCE_BYTES
        self.server = EmbeddedValkey(folder, max_memory_bytes=max_memory_bytes)
        self._timeout_s = settings.timeout_s

    def connect(self) -> Redis:
        self.server.ensure_running()
        return Redis(
            unix_socket_path=str(self.server.socket_path),
            protocol=2,
            socket_timeout=self._timeout_s,
            socket_connect_timeout=self._timeout_s,
            retry=Retry(NoBackoff(), 0),
        )

    def close(self) -> None:
        self.server.close()
