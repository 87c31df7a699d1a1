"""From the outcomes and samples of a run to figures by name, units in the names."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from loadtest.outcomes import Action, Outcome
from loadtest.samples import Sample
from server.bench_serve.measures import percentile

PERCENTS = (50, 90, 99)
MIB = 2**20
SETTLED_SHARE = 0.5  # memory is judged over the second half of a run: caches have filled by then
ACTIONS: tuple[Action, ...] = ("text", "image", "upload", "hostile", "download", "move", "delete")
TIMES = {
    "text_first_token_ms": "streams: from sending to the first text",
    "text_token_ms": "streams: mean time between tokens after the first, of each request",
    "text_ms": "whole texts, streamed or not: from sending to the end",
    "image_ms": "pictures: from sending to the end",
    "upload_ms": "uploads: from sending to the answer",
    "download_ms": "downloads",
    "move_ms": "a name moved to another version",
    "delete_ms": "a delete, until nothing holds the memory",
    "switch_ms": "switches of one text request that had any, all together, as its receipt says",
    "late_ms": "how late the generator sent",
}
Figures = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """Least squares over the second half of the run. ``error_mib_per_h``: the slope's standard error, as if samples
    were independent."""

    slope_mib_per_h: float
    error_mib_per_h: float
    growth_mib: float
    peak_mib: float


def figures_of(
    outcomes: Sequence[Outcome], samples: Sequence[Sample], audits: Mapping[str, bool], *, duration_s: float
) -> dict[str, float]:
    """What has no value is absent. Availability: the share of requests answered as asked for among those whose client
    stayed."""
    endings = Counter(outcome.ending for outcome in outcomes)
    stayed = len(outcomes) - endings["left"]
    figures: dict[str, float] = {
        "num_requests": len(outcomes),
        **{f"num_{ending}": endings[ending] for ending in ("answered", "refused", "wrong", "lost", "left")},
        **{f"num_{action}": sum(one.action == action for one in outcomes) for action in ACTIONS},
        "requests_per_s": len(outcomes) / duration_s,
        "answered_per_s": endings["answered"] / duration_s,
        "tokens_per_s": sum(outcome.num_tokens for outcome in outcomes) / duration_s,
    }
    if stayed:
        figures["availability_percent"] = 100 * endings["answered"] / stayed
    for name, values in times_ms(outcomes).items():
        if values:
            figures |= {f"{name}_p{percent}": percentile(values, percent) for percent in PERCENTS}
    growths = growth_of(samples)
    if growths:
        figures["memory_growth_mib"] = max(growth.growth_mib for growth in growths.values())
        figures["memory_slope_mib_per_h"] = max(growth.slope_mib_per_h for growth in growths.values())
    if audits:
        figures["base_verified"] = float(all(audits.values()))
    return figures


def known_figures() -> set[str]:
    """Every name that ``figures_of`` may give."""
    counted = {f"num_{ending}" for ending in ("answered", "refused", "wrong", "lost", "left")}
    timed = {f"{name}_p{percent}" for name in TIMES for percent in PERCENTS}
    others = {"num_requests", "requests_per_s", "answered_per_s", "tokens_per_s", "availability_percent"}
    judged = {"memory_growth_mib", "memory_slope_mib_per_h", "base_verified"}
    return counted | timed | others | judged | {f"num_{action}" for action in ACTIONS}


def times_ms(outcomes: Iterable[Outcome]) -> dict[str, list[float]]:
    """The values behind the percentiles of ``TIMES``, of what was answered."""
    times: dict[str, list[float]] = {name: [] for name in TIMES}
    for one in outcomes:
        times["late_ms"].append(1e3 * (one.sent_s - one.due_s))
        if one.ending != "answered":
            continue
        if one.first_text_s is not None:
            times["text_first_token_ms"].append(1e3 * one.first_text_s)
        if one.token_s is not None:
            times["text_token_ms"].append(1e3 * one.token_s)
        if one.action == "text" and one.switch_ms:
            times["switch_ms"].append(one.switch_ms)
        if (name := f"{one.action}_ms") in times:
            times[name].append(1e3 * one.total_s)
    return times


def growth_of(samples: Sequence[Sample]) -> dict[str, Growth]:
    """Of each server with at least three samples in the second half of the run."""
    return {
        server: growth
        for server in dict.fromkeys(sample.server for sample in samples)
        if (growth := _growth([sample for sample in samples if sample.server == server])) is not None
    }


def _growth(samples: Sequence[Sample]) -> Growth | None:
    begin_s = samples[0].at_s + SETTLED_SHARE * (samples[-1].at_s - samples[0].at_s)
    points = [(one.at_s / 3600, one.rss_bytes / MIB) for one in samples if one.at_s >= begin_s]
    if len(points) < 3:
        return None
    mean_h = sum(at_h for at_h, _ in points) / len(points)
    mean_mib = sum(mib for _, mib in points) / len(points)
    spread = sum((at_h - mean_h) ** 2 for at_h, _ in points)
    slope = sum((at_h - mean_h) * (mib - mean_mib) for at_h, mib in points) / spread
    residual = sum((mib - mean_mib - slope * (at_h - mean_h)) ** 2 for at_h, mib in points)
    return Growth(
        slope_mib_per_h=slope,
        error_mib_per_h=math.sqrt(residual / (len(points) - 2) / spread),
        growth_mib=slope * (points[-1][0] - points[0][0]),
        peak_mib=max(one.rss_bytes for one in samples) / MIB,
    )
