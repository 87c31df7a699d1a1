"""Which adapters requests wait for and run with now, for gateways that route by adapter."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from adapters_store.blend import MAX_ADAPTERS_PER_BLEND
from server.core.metrics import Metrics

MAX_NAMES = 16  # of the busiest adapters; the label must stay bounded


class AdapterTraffic:
    """Lives on the event loop, but for ``publish``."""

    def __init__(self) -> None:
        self._waiting: Counter[str] = Counter()
        self._running: Counter[str] = Counter()

    @contextmanager
    def request(self, names: Sequence[str]) -> Iterator[RequestTraffic]:
        """Counts one request from admission to its end."""
        traffic = RequestTraffic(names, self._waiting, self._running)
        try:
            yield traffic
        finally:
            traffic.end()

    def publish(self, metrics: Metrics) -> None:
        """Sets the gateway gauge to what holds now. For ``Metrics.at_scrape``: on any thread."""
        metrics.lora_requests_info.clear()
        labels = (str(MAX_ADAPTERS_PER_BLEND), _busiest(self._running), _busiest(self._waiting))
        metrics.lora_requests_info.labels(*labels).set(time.time())


class RequestTraffic:
    def __init__(self, names: Sequence[str], waiting: Counter[str], running: Counter[str]) -> None:
        self._names = names
        self._running = running
        self._counted_in = waiting
        waiting.update(names)

    def started(self) -> None:
        """The first output is there."""
        self._move_to(self._running)

    def end(self) -> None:
        self._move_to(Counter())

    def _move_to(self, counts: Counter[str]) -> None:
        self._counted_in.subtract(self._names)
        for name in self._names:
            if not self._counted_in[name]:
                del self._counted_in[name]
        counts.update(self._names)
        self._counted_in = counts


def _busiest(counts: Counter[str]) -> str:
    now = Counter(dict(counts))  # copied in one go: the event loop goes on counting
    return ",".join(name for name, _ in now.most_common(MAX_NAMES))
