"""The servers' own histograms: what they counted during a run, and in which bucket a percentile lies."""

from __future__ import annotations

import math
from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

Histogram = Mapping[float, float]  # upper bound → how many observations are at most so large


def parse_histogram(text: str, name: str, labels: Mapping[str, str] | None = None) -> dict[float, float]:
    """The sum over all series that have the labels."""
    buckets: dict[float, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples if family.name == name else ():
            if sample.name.endswith("_bucket") and (labels or {}).items() <= sample.labels.items():
                bound = float(sample.labels["le"])
                buckets[bound] = buckets.get(bound, 0.0) + sample.value
    return buckets


def growth(before: Histogram, after: Histogram) -> dict[float, float]:
    return {bound: count - before.get(bound, 0.0) for bound, count in after.items()}


def bucket_of(histogram: Histogram, percent: float) -> tuple[float, float] | None:
    """The bounds of the bucket that holds the percentile; None when nothing was observed."""
    bounds = sorted(histogram)
    if not bounds or not histogram[bounds[-1]]:
        return None
    rank = max(math.ceil(histogram[bounds[-1]] * percent / 100), 1)
    upper = next(bound for bound in bounds if histogram[bound] >= rank)
    below = bounds.index(upper) - 1
    return (bounds[below] if below >= 0 else 0.0), upper


def buckets_apart(histogram: Histogram, bucket: tuple[float, float], value: float) -> int:
    """0: in the bucket; 1: in one beside it; and so on."""
    bounds = sorted(histogram)
    place = next(number for number, bound in enumerate(bounds) if value <= bound)
    return abs(place - bounds.index(bucket[1]))
