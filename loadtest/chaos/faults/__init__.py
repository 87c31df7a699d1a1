"""One module per fault, each with ``run(trial)``."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from loadtest.chaos.faults import clock_jumps, disk_full, memory, redis_embedded, redis_shared, sigkill, sigterm
from loadtest.chaos.trial import Trial

FAULTS: Mapping[str, Callable[[Trial], None]] = {
    "sigterm": sigterm.run,
    "sigkill": sigkill.run,
    "redis": redis_shared.run,
    "redis-embedded": redis_embedded.run,
    "disk": disk_full.run,
    "clock": clock_jumps.run,
    "memory": memory.run,
}
