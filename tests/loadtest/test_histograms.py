from __future__ import annotations

import math

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.exposition import generate_latest

from loadtest.histograms import bucket_of, buckets_apart, growth, parse_histogram


def test_the_bucket_of_a_percentile_is_that_of_what_was_observed_in_between() -> None:
    registry = CollectorRegistry()
    histogram = Histogram("seconds", "", ["phase"], buckets=(1, 2, 4, 8), registry=registry)

    def counts() -> dict[float, float]:
        return parse_histogram(generate_latest(registry).decode(), "seconds", {"phase": "total"})

    histogram.labels("total").observe(0.5)
    before = counts()
    histogram.labels("fetch").observe(100)
    for value in [*[1.5] * 98, 3, 7]:
        histogram.labels("total").observe(value)
    seen = growth(before, counts())
    assert bucket_of(seen, 50) == (1.0, 2.0)
    assert bucket_of(seen, 99) == (2.0, 4.0)
    assert bucket_of(seen, 99.5) == bucket_of(seen, 100) == (4.0, 8.0)
    assert [buckets_apart(seen, (2.0, 4.0), value) for value in (4.0, 4.1, 1.9, 0.1, math.inf)] == [0, 1, 1, 2, 2]


def test_a_histogram_without_observations_has_no_bucket() -> None:
    assert bucket_of({}, 50) is None
    assert bucket_of({1.0: 0.0, math.inf: 0.0}, 50) is None
