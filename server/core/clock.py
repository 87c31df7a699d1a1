"""The clock of the engine."""

from __future__ import annotations

import time


class MonotonicClock:
    """Seconds since some moment; never goes back. Any thread."""

    def now(self) -> float:
        return time.monotonic()
