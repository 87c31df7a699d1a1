"""Timing that survives a shared machine: contenders take turns, medians, caches that hold nothing of the last turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

SLOW_S = 1.0  # steps slower than this are repeated less
NUM_SLOW_REPEATS = 3
DEFAULT_CACHE_BYTES = 32 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """``label`` None: not timed, only leads to the next step."""

    label: str | None
    run: Callable[[], object]


@dataclass(frozen=True, slots=True)
class Cycle:
    """Steps that together lead back to where they began."""

    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    label: str
    median_s: float
    min_s: float
    num_repeats: int


class CacheFlush:
    """Called, it drives what was cached out by reading and writing four last-level caches of other memory."""

    def __init__(self) -> None:
        self._memory = torch.zeros(4 * last_level_cache_bytes() // 8, dtype=torch.int64)

    def __call__(self) -> None:
        self._memory.add_(1)


def time_cycles(cycles: Sequence[Cycle], num_repeats: int, flush: CacheFlush) -> list[Timing]:
    """One untimed round, then rounds in which every cycle has its turn, the order reversed every other time.
    Every timed step starts with cold caches."""
    seconds: dict[str, list[float]] = {step.label: [] for cycle in cycles for step in cycle.steps if step.label}
    slow = {id(cycle): _warm_up(cycle) > SLOW_S for cycle in cycles}
    for turn in range(num_repeats):
        for cycle in cycles if turn % 2 == 0 else reversed(cycles):
            if slow[id(cycle)] and turn >= NUM_SLOW_REPEATS:
                continue
            for step in cycle.steps:
                if step.label:
                    flush()
                start = time.perf_counter()
                step.run()
                if step.label:
                    seconds[step.label].append(time.perf_counter() - start)
    return [
        Timing(label=label, median_s=statistics.median(taken), min_s=min(taken), num_repeats=len(taken))
        for label, taken in seconds.items()
    ]


def last_level_cache_bytes() -> int:
    """What the kernel says of CPU 0's biggest cache, or 32 MiB where it says nothing."""
    sizes = [path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max((_parse_size(size) for size in sizes if size), default=DEFAULT_CACHE_BYTES)


def _parse_size(text: str) -> int:
    factor = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1], 1)
    return int(text.rstrip("KMG")) * factor


def _warm_up(cycle: Cycle) -> float:
    """Seconds of the slowest step."""
    slowest = 0.0
    for step in cycle.steps:
        start = time.perf_counter()
        step.run()
        slowest = max(slowest, time.perf_counter() - start)
    return slowest
