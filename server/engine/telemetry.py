"""What the engine tells Prometheus."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

from server.core.metrics import Metrics
from server.core.requests import Mode
from server.engine.scheduler import Scheduler
from server.engine.sequence import Sequence


class Telemetry:
    """Engine thread only."""

    def __init__(self, metrics: Metrics, mode: Mode) -> None:
        self._metrics = metrics
        self._mode = mode

    @contextmanager
    def step(self, phase: Literal["prefill", "decode"]) -> Iterator[None]:
        with self._metrics.step_seconds.labels(self._mode, phase).time():
            yield

    def queued(self, scheduler: Scheduler) -> None:
        self._metrics.queue_depth.set(scheduler.num_waiting)

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
