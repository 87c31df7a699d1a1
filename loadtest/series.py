"""Figures over time: outcomes put into equal stretches of the run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from loadtest.outcomes import Outcome
from server.bench_serve.measures import percentile

NUM_STRETCHES = 60
MIN_STRETCH_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretches:
    """``num`` stretches of ``each_s`` seconds from the start of the run."""

    each_s: float
    num: int

    @classmethod
    def of(cls, duration_s: float) -> Stretches:
        each_s = max(duration_s / NUM_STRETCHES, MIN_STRETCH_S)
        return cls(each_s=each_s, num=max(round(duration_s / each_s), 1))

    @property
    def middles_s(self) -> list[float]:
        return [(number + 0.5) * self.each_s for number in range(self.num)]

    def rates(self, moments_s: Iterable[float]) -> list[float]:
        """Per second; what comes after the last stretch is left out."""
        counts = [0] * self.num
        for at_s in moments_s:
            if 0 <= at_s < self.num * self.each_s:
                counts[int(at_s / self.each_s)] += 1
        return [count / self.each_s for count in counts]

    def percentiles(
        self, outcomes: Iterable[Outcome], value: Callable[[Outcome], float | None], percents: Sequence[float]
    ) -> list[list[float]]:
        """For each percentage a line over the stretches, by when a request was sent; NaN where there is no value."""
        values: list[list[float]] = [[] for _ in range(self.num)]
        for one in outcomes:
            got = value(one)
            if got is not None and 0 <= one.sent_s < self.num * self.each_s:
                values[int(one.sent_s / self.each_s)].append(got)
        return [[percentile(some, percent) if some else float("nan") for some in values] for percent in percents]
