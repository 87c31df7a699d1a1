"""From where adapters came to the host, on the thread that brought them."""

from __future__ import annotations

from collections import deque
from threading import local
from time import monotonic
from typing import TYPE_CHECKING

from server.core.tracing import Phase

if TYPE_CHECKING:
    from adapters_store.tiers.observer import TierName

MAX_NOTED = 64  # more than a blend has adapters; nobody asks on some threads


class Fetches(local):
    """Each thread sees its own: an adapter is fetched on the thread that acquires it, or another waits for it."""

    def __init__(self) -> None:
        self._noted: deque[Phase] = deque(maxlen=MAX_NOTED)

    def note(self, tier: TierName, seconds: float) -> None:
        """A fetch that ends now."""
        ended_s = monotonic()
        attributes = {"shira.tier": tier}
        self._noted.append(Phase(name="fetch", started_s=ended_s - seconds, ended_s=ended_s, attributes=attributes))

    def take(self) -> tuple[Phase, ...]:
        """Those since the last call."""
        taken = tuple(self._noted)
        self._noted.clear()
        return taken
