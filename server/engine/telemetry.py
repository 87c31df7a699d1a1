"""What the engine tells Prometheus, and of traced requests their traces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

from server.core.errors import DeadlineUnreachable, ServerError
from server.core.metrics import FIRST_TOKEN_OBJECTIVE_S, Metrics
from server.core.steps import SwitchReport
from server.core.tracing import Phase
from server.engine import course
from server.engine.group import Group
from server.engine.image_sequence import ImageSequence
from server.engine.plan import Plan
from server.engine.seats import Seats
from server.engine.sequence import Sequence
from server.engine.text_sequence import TextSequence


class Telemetry:
    """Engine thread only."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._completion_tokens = metrics.tokens.labels("completion")  # counted one by one: looked up once

    @contextmanager
    def step(self, plan: Plan) -> Iterator[None]:
        """A step of texts is a prefill step if any row of it has more than one token."""
        num_beside = sum(plan.is_beside(sequence) for sequence in plan.sequences)
        self._metrics.rows.labels("mixed").inc(num_beside)
        self._metrics.rows.labels("fused").inc(len(plan.shares) - num_beside)
        mode = "mixed" if plan.is_mixed else "fused"
        with self._metrics.step_seconds.labels(mode, _phase(plan)).time():
            yield

    def refused(self, error: ServerError) -> None:
        if isinstance(error, DeadlineUnreachable):
            self._metrics.deadline_refusals.inc()

    def seated(self, seats: Seats, now: float) -> None:
        """Tells what changed since the last call."""
        for parked in seats.parked:
            self._metrics.parked.labels(parked.reason).inc()
            course.note_parked(parked.sequence, parked.reason, now)
        for seated in seats.seated:
            self._metrics.prefix_tokens.inc(seated.reused.num_tokens)
            course.note_seated(seated.sequence, seated.reused, now)
        seats.parked.clear()
        seats.seated.clear()

    def started(self, sequences: Iterable[Sequence], now: float) -> None:
        for sequence in sequences:
            self._metrics.queue_seconds.observe(sequence.queue_s(now))
            if isinstance(sequence, TextSequence):
                self._metrics.tokens.labels("prompt").inc(sequence.request.num_prompt_tokens)

    def loaded(self, group: Group, load: Phase | None) -> None:
        if load is not None:
            course.note_load(group, load)

    def switched(self, plan: Plan, report: SwitchReport, now: float) -> None:
        if report.total_s:
            course.note_switch(plan.sequences, plan.blend, report, now)

    def failed(self, sequences: Iterable[Sequence], error: Exception, now: float) -> None:
        for sequence in sequences:
            course.tell(sequence, now, error)
            waited_s = now - sequence.request.arrived_s
            if isinstance(sequence, TextSequence) and not sequence.num_tokens and waited_s > FIRST_TOKEN_OBJECTIVE_S:
                self._metrics.time_to_first_token_seconds.observe(waited_s)  # who waited less may have had it in time

    def advanced(self, sequence: Sequence, now: float) -> None:
        """By a token, or a step of an image."""
        if not isinstance(sequence, TextSequence):
            return
        self._completion_tokens.inc()
        if sequence.num_tokens == 1:
            self._metrics.time_to_first_token_seconds.observe(now - sequence.request.arrived_s)

    def finished(self, sequence: Sequence, now: float) -> None:
        course.tell(sequence, now)
        self._metrics.request_switch_seconds.observe(sequence.switch_s)
        if isinstance(sequence, ImageSequence):
            self._metrics.images.inc()
            self._metrics.image_seconds.observe(now - sequence.request.arrived_s)
            return
        first = now if sequence.first_token_s is None else sequence.first_token_s
        if sequence.num_tokens > 1:
            self._metrics.time_per_output_token_seconds.observe((now - first) / (sequence.num_tokens - 1))


def _phase(plan: Plan) -> Literal["prefill", "decode", "denoise"]:
    if isinstance(plan.sequences[0], ImageSequence):
        return "denoise"
    return "decode" if plan.is_decode else "prefill"
