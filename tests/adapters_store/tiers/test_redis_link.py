from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from adapters_store.tiers.embedded import EmbeddedValkey
from adapters_store.tiers.observer import SilentObserver
from adapters_store.tiers.redis_endpoint import UrlEndpoint
from adapters_store.tiers.redis_link import RedisDown, RedisLink
from adapters_store.tiers.redis_settings import MIB, RedisSettings
from tests.adapters_store.replicas import wait_until


class Told(SilentObserver):
    def __init__(self) -> None:
        self.turns: list[bool] = []

    def redis_up(self, is_up: bool) -> None:
        self.turns.append(is_up)


class NoListener:
    def up(self) -> None:
        pass

    def news(self, message: bytes) -> None:
        pass

    def beat(self) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedValkey]:
    server = EmbeddedValkey(tmp_path, max_memory_bytes=16 * MIB)
    server.ensure_running()
    yield server
    server.close()


def test_a_call_that_is_under_way_when_another_one_fails_still_gets_its_answer(server: EmbeddedValkey) -> None:
    """Its connection was closed under it. Most such calls ended as RedisDown, some with a TypeError out of redis-py."""
    url = f"unix://{server.socket_path}"
    settings = RedisSettings(mode="url", url=url, timeout_s=20.0, heartbeat_s=0.03, max_backoff_s=0.1)
    told = Told()
    link = RedisLink(UrlEndpoint(settings), settings, prefix="test:", observer=told)
    redis: Any = Redis.from_url(url)
    link.start(NoListener())
    try:
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(link.call, "BLPOP", "queue", 0)
            wait_until(lambda: redis.info("clients")["blocked_clients"] == 1, what="the call under way")
            with pytest.raises(RedisDown, match="unknown command"):
                link.call("NONSENSE")
            wait_until(lambda: told.turns == [False, True, False, True], what="another connection in its place")
            redis.rpush("queue", "value")
            assert list(answer.result(10)) == [b"queue", b"value"]
        wait_until(lambda: num_connections(redis) <= 3, what="the connections of the first client closed")
    finally:
        link.close()
        redis.close()


def num_connections(redis: Any) -> int:
    return int(redis.info("clients")["connected_clients"])
