"""The generator's percentiles beside the text server's own histograms: in one bucket, or the one beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from loadtest.figures import times_ms
from loadtest.histograms import bucket_of, buckets_apart, growth, parse_histogram
from loadtest.outcomes import Outcome
from server.bench_serve.measures import percentile

HISTOGRAMS: Mapping[str, tuple[str, Mapping[str, str], tuple[int, ...]]] = {
    "text_first_token_ms": ("shira_time_to_first_token_seconds", {}, (50, 99)),
    "text_token_ms": ("shira_time_per_output_token_seconds", {}, (50, 99)),
    "switch_ms": ("shira_switch_seconds", {"phase": "total"}, (99,)),  # a receipt adds up several short ones
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """``low_ms`` and ``high_ms`` bound the server's bucket; ``buckets_apart`` 0 is the same one. The server counts
    every request and switch, the generator what it can see: streams, and the sum of the switches of a request."""

    figure: str
    client_ms: float
    low_ms: float
    high_ms: float
    buckets_apart: int


def compare(outcomes: Sequence[Outcome], before: str, after: str) -> list[Comparison]:
    """``before`` and ``after`` are the server's metrics around the run."""
    return list(_compare(outcomes, before, after))


def _compare(outcomes: Sequence[Outcome], before: str, after: str) -> Iterator[Comparison]:
    times = times_ms(outcomes)
    for name, (histogram_name, labels, percents) in HISTOGRAMS.items():
        histogram = growth(
            parse_histogram(before, histogram_name, labels), parse_histogram(after, histogram_name, labels)
        )
        for percent in percents if times[name] else ():
            bucket = bucket_of(histogram, percent)
            if bucket is None:
                continue
            client_ms = percentile(times[name], percent)
            yield Comparison(
                figure=f"{name}_p{percent}",
                client_ms=client_ms,
                low_ms=1e3 * bucket[0],
                high_ms=1e3 * bucket[1],
                buckets_apart=buckets_apart(histogram, bucket, client_ms / 1e3),
            )
