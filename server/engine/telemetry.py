"""What the engine tells Prometheus."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

from server.core.metrics import Metrics
from server.core.requests import Mode
from server.engine.scheduler import Scheduler
from server.engine.sequence import Sequence

MAX_ADAPTERS_PER_STEP = 1  # fused mode runs one blend at a time


class Telemetry:
    """Engine thread only."""

    def __init__(self, metrics: Metrics, mode: Mode) -> None:
        self._metrics = metrics
        self._mode = mode
        self._names = ("", "")

    @contextmanager
    def step(self, phase: Literal["prefill", "decode"]) -> Iterator[None]:
        with self._metrics.step_seconds.labels(self._mode, phase).time():
            yield

    def queued(self, scheduler: Scheduler) -> None:
        self._metrics.queue_depth.set(scheduler.num_waiting)
        self._tell_adapters(scheduler)

    def started(self, sequences: Iterable[Sequence], now: float) -> None:
        for sequence in sequences:
            self._metrics.queue_seconds.observe(sequence.queue_s(now))
            self._metrics.tokens.labels("prompt").inc(len(sequence.request.prompt_tokens))

    def finished(self, sequence: Sequence, now: float) -> None:
        first = now if sequence.first_token_s is None else sequence.first_token_s
        self._metrics.time_to_first_token_seconds.observe(first - sequence.request.arrived_s)
        if sequence.num_tokens > 1:
            self._metrics.time_per_output_token_seconds.observe((now - first) / (sequence.num_tokens - 1))
        self._metrics.tokens.labels("completion").inc(sequence.num_tokens)

    def _tell_adapters(self, scheduler: Scheduler) -> None:
        """One time series at a time, told anew only when it changes."""
        running = _names(sequence for group in scheduler.groups for sequence in group.running)
        waiting = _names(sequence for group in scheduler.groups for sequence in group.waiting)
        if (running, waiting) == self._names:
            return
        self._names = (running, waiting)
        self._metrics.lora_requests_info.clear()
        self._metrics.lora_requests_info.labels(str(MAX_ADAPTERS_PER_STEP), running, waiting).set(time.time())


def _names(sequences: Iterable[Sequence]) -> str:
    return ",".join(sorted({adapter.name for sequence in sequences for adapter in sequence.request.adapters}))
