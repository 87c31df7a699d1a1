"""When requests come: Gamma processes, stretched along the run's rate curve."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator
from random import Random

from loadtest.scenario import Rate

BEFORE_RUN = 20  # mean gaps by which a process starts before the run: one that starts with it has too many arrivals
GRID = 4096


def gamma_arrivals(rng: Random, *, rate_per_s: float, cv: float, duration_s: float) -> Iterator[float]:
    """Ascending seconds from 0 to ``duration_s``. Gaps have mean 1/rate and standard deviation cv/rate: a Gamma
    distribution of shape 1/cv² and scale cv²/rate."""
    if rate_per_s <= 0:
        return
    at_s = -BEFORE_RUN / rate_per_s
    while True:
        at_s += rng.gammavariate(1 / cv**2, cv**2 / rate_per_s)
        if at_s >= duration_s:
            return
        if at_s >= 0:
            yield at_s


def along_the_curve(rate: Rate, duration_s: float) -> list[float]:
    """Where each of ``GRID`` + 1 equal steps of a flat run lies in one with the rate curve: the inverse of the rate's
    integral, so that the mean rate stays."""
    steps = [step / GRID for step in range(GRID + 1)]
    if rate.curve == "flat":
        return [step * duration_s for step in steps]
    swing = rate.peak - 1
    passed = [step - swing * math.sin(2 * math.pi * step) / (2 * math.pi) for step in steps]  # ∫ 1 - swing·cos(2πx)
    return [_inverse(passed, steps, step) * duration_s for step in steps]


def place(at_s: float, curve: list[float], duration_s: float) -> float:
    """A moment of a flat run in the one whose ``along_the_curve`` is given."""
    exact = at_s / duration_s * GRID
    below = min(int(exact), GRID - 1)
    return curve[below] + (exact - below) * (curve[below + 1] - curve[below])


def _inverse(ascending: list[float], of: list[float], value: float) -> float:
    above = min(max(bisect_left(ascending, value), 1), len(ascending) - 1)
    low, high = ascending[above - 1], ascending[above]
    return of[above - 1] + (value - low) / (high - low) * (of[above] - of[above - 1])
