"""From answers to figures: percentiles, shares, medians over rounds."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from server.bench_serve.counters import by_label
from server.bench_serve.load import Answered, Load

PERCENTILES = (50, 95, 99)
Figures = Mapping[str, float]  # by name, unit in the name; what has no value is absent


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One round of one cell. ``worst_wait_ms`` by adapter (``base`` for none), ``tokens_per_s_of_key`` by key number,
    ``mode_shares`` of the requests, ``failures`` by reason, ``counters``: what the server's own counters grew by."""

    figures: Figures
    worst_wait_ms: Mapping[str, float]
    tokens_per_s_of_key: Mapping[int, float]
    mode_shares: Mapping[str, float]
    failures: Mapping[str, int]
    counters: Mapping[str, float]


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least ``percent`` per cent of them do not exceed. ``values`` is not empty."""
    return sorted(values)[max(math.ceil(len(values) * percent / 100) - 1, 0)]


def measure(load: Load, counters: Mapping[str, float]) -> Measured:
    """Figures: ``tokens_per_s`` new tokens of answered requests over the whole run; ``ttft_ms`` to the first text,
    refused tries included; ``token_ms`` between tokens after the first, mean of each request; ``gap_ms`` the longest
    silence in each stream; ``total_ms``; ``worst_wait_steps`` the worst wait in mean steps of the run."""
    answered = load.answered
    num_tokens = sum(one.finished.num_tokens for one in answered)
    waits = _worst_waits(answered)
    figures = {
        "num_answered": len(answered),
        "num_failed": sum(load.failures.values()),
        "num_refusals": load.num_refusals,
        "wall_s": load.wall_s,
        "tokens_per_s": num_tokens / load.wall_s,
        "prompt_tokens_per_s": sum(one.finished.num_prompt_tokens for one in answered) / load.wall_s,
        "client_cpu_us_per_token": 1e6 * load.client_cpu_s / max(num_tokens, 1),
        "client_cpu_share": load.client_cpu_s / load.wall_s,
        **_percentiles("ttft_ms", [1e3 * one.first_text_s for one in answered]),
        **_percentiles("token_ms", [ms for one in answered if (ms := _token_ms(one)) is not None]),
        **_percentiles("gap_ms", [1e3 * one.longest_gap_s for one in answered]),
        **_percentiles("total_ms", [1e3 * one.total_s for one in answered]),
    }
    if waits:
        figures["worst_wait_ms"] = max(waits.values())
        if (step_ms := _step_ms(counters)) is not None:
            figures["worst_wait_steps"] = figures["worst_wait_ms"] / step_ms
    return Measured(
        figures=figures,
        worst_wait_ms=waits,
        tokens_per_s_of_key=_by_key(load),
        mode_shares=_shares([one.finished.mode for one in answered if one.finished.mode is not None]),
        failures=load.failures,
        counters=counters,
    )


def median_over_rounds(rounds: Sequence[Measured]) -> dict[str, float]:
    """The median of every figure that all rounds have; of failures and refusals the sum, of waits the worst."""
    names = [name for name in rounds[0].figures if all(name in one.figures for one in rounds)]
    return {name: _combine(name, [one.figures[name] for one in rounds]) for name in names}


def _combine(name: str, values: Sequence[float]) -> float:
    match name:
        case "num_failed" | "num_refusals":
            return sum(values)
        case "worst_wait_ms" | "worst_wait_steps":
            return max(values)
        case _:
            return statistics.median(values)


def sum_counters(rounds: Sequence[Measured]) -> dict[str, float]:
    names = sorted({name for one in rounds for name in one.counters})
    return {name: sum(one.counters.get(name, 0.0) for one in rounds) for name in names}


def mean_shares(rounds: Sequence[Measured]) -> dict[str, float]:
    modes = sorted({mode for one in rounds for mode in one.mode_shares})
    return {mode: statistics.fmean(one.mode_shares.get(mode, 0.0) for one in rounds) for mode in modes}


def _percentiles(name: str, values: Sequence[float]) -> dict[str, float]:
    return {f"{name}_p{percent}": percentile(values, percent) for percent in PERCENTILES} if values else {}


def _token_ms(one: Answered) -> float | None:
    if one.finished.num_tokens < 2:
        return None
    return 1e3 * (one.total_s - one.first_text_s) / (one.finished.num_tokens - 1)


def _worst_waits(answered: Sequence[Answered]) -> dict[str, float]:
    """From arrival to the first step, as receipts say; to the first text where there are none."""
    worst: dict[str, float] = {}
    for one in answered:
        name = one.arrival.adapter or "base"
        queue_ms = one.finished.queue_ms
        waited_ms = 1e3 * one.first_text_s if queue_ms is None else queue_ms
        worst[name] = max(worst.get(name, 0.0), waited_ms)
    return worst


def _step_ms(counters: Mapping[str, float]) -> float | None:
    """The mean of the server's steps in this run."""
    num_steps = sum(by_label(counters, "shira_step_seconds_count", "mode").values())
    seconds = sum(by_label(counters, "shira_step_seconds_sum", "mode").values())
    return 1e3 * seconds / num_steps if num_steps else None


def _by_key(load: Load) -> dict[int, float]:
    tokens: Counter[int] = Counter()
    for one in load.answered:
        tokens[one.arrival.key] += one.finished.num_tokens
    return {key: count / load.wall_s for key, count in sorted(tokens.items())}


def _shares(modes: Sequence[str]) -> dict[str, float]:
    return {mode: count / len(modes) for mode, count in sorted(Counter(modes).items())}
