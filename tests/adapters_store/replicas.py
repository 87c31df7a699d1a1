"""Stores that share one real Redis-protocol server, each with a disk of its own."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from redis import Redis

from adapters_store.adapter import Fingerprint
from adapters_store.errors import AdapterNotFound
from adapters_store.store import AdapterStore
from adapters_store.store_config import StoreConfig
from adapters_store.tiers.embedded import EmbeddedValkey
from adapters_store.tiers.observer import TierObserver
from adapters_store.tiers.redis_settings import MIB, RedisSettings
from tests.adapters_store.small_adapters import BASE, small_adapter, upload

PREFIX = f"shira:{BASE.removeprefix('sha256:')[:12]}:"


def wait_until(is_true: Callable[[], bool], *, what: str, deadline_s: float = 10.0) -> None:
    """For conditions of other processes and threads that offer nothing to wait on."""
    end = time.monotonic() + deadline_s
    while not is_true():
        assert time.monotonic() < end, f"not within {deadline_s} s: {what}"
        time.sleep(0.002)


def is_listening(path: Path) -> bool:
    """A killed server listens until the last of its threads is gone, which is after it looks dead."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


class Replicas:
    """``open`` gives a store by the name of its disk; all are closed at the end."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "redis").mkdir()
        self.server = EmbeddedValkey(root / "redis", max_memory_bytes=64 * MIB)
        self.server.ensure_running()
        self.redis: Any = Redis(unix_socket_path=str(self.server.socket_path))
        self._exit = ExitStack()

    def __enter__(self) -> Replicas:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.close()
        self.redis.close()
        self.server.close()

    def open(
        self,
        name: str,
        *,
        values_budget_bytes: int = MIB,
        observer: TierObserver | None = None,
        base: Fingerprint = BASE,
    ) -> AdapterStore:
        settings = RedisSettings(
            mode="url",
            url=f"unix://{self.server.socket_path}",
            values_budget_bytes=values_budget_bytes,
            timeout_s=0.2,
            heartbeat_s=0.03,
            max_backoff_s=0.1,
        )
        config = StoreConfig(data_dir=self.root / name, host_budget_bytes=MIB, redis=settings)
        store = AdapterStore(config, base, observer)
        self._exit.callback(store.close)
        store.start()
        return store

    def server_pid(self) -> int:
        return int(self.redis.info("server")["process_id"])

    def restart_killed_server(self) -> None:
        wait_until(lambda: not is_listening(self.server.socket_path), what="the server's end")
        self.server.ensure_running()

    def keys(self, pattern: str) -> list[bytes]:
        return list(self.redis.scan_iter(f"{PREFIX}{pattern}"))


def put(store: AdapterStore, name: str = "pirate", *, mask: int = 0, values: int = 0) -> None:
    store.put(upload(small_adapter(mask=mask, values=values)), tenant="default", name=name)


def knows(store: AdapterStore, name: str) -> bool:
    try:
        store.get_record("default", name)
    except AdapterNotFound:
        return False
    return True


def is_up(store: AdapterStore) -> bool:
    """The store's link to Redis."""
    return bool(store.describe()["redis"]["up"])


def num_on_disk(store: AdapterStore) -> int:
    return int(store.describe()["disk"]["num_adapters"])


def wait_for_copy(store: AdapterStore, num_adapters: int = 1) -> None:
    wait_until(lambda: num_on_disk(store) == num_adapters, what=f"{num_adapters} adapters on the disk")
