"""The generator's percentiles beside the text server's own histograms: in one bucket, or the one beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from loadtest.histograms import bucket_of, buckets_apart, growth, parse_histogram
from loadtest.outcomes import Outcome
from server.bench_serve.measures import percentile

_Value = Callable[[Outcome], float | None]


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1e3 * seconds


# From sending, not from when it was due: a server cannot know how late its client is. Half of the requests have no
# switch, more or less, so the median may fall on either side of the first one.
COMPARED: Mapping[str, tuple[str, _Value, tuple[int, ...]]] = {
    "text_first_token_ms": ("shira_time_to_first_token_seconds", lambda one: _ms(one.first_text_s), (50, 99)),
    "text_token_ms": ("shira_time_per_output_token_seconds", lambda one: _ms(one.token_s), (50, 99)),
    "request_switch_ms": ("shira_request_switch_seconds", lambda one: one.switch_ms, (99,)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """``low_ms`` and ``high_ms`` bound the server's bucket; ``buckets_apart`` 0 is the same one, None that the server
    counted nothing. The server counts every text, the generator what it can see: of times to tokens, those of
    streams."""

    figure: str
    client_ms: float
    low_ms: float
    high_ms: float
    buckets_apart: int | None

    @property
    def percent(self) -> int:
        return int(self.figure.rpartition("_p")[2])

    @property
    def is_known(self) -> bool:
        """A record of an earlier version may hold others."""
        return self.figure.rpartition("_p")[0] in COMPARED


def compare(outcomes: Sequence[Outcome], before: str, after: str) -> list[Comparison]:
    """``before`` and ``after`` are the server's metrics around the run."""
    return list(_compare(outcomes, before, after))


def _compare(outcomes: Sequence[Outcome], before: str, after: str) -> Iterator[Comparison]:
    answered = [one for one in outcomes if one.action == "text" and one.ending == "answered"]
    for name, (histogram_name, value, percents) in COMPARED.items():
        histogram = growth(parse_histogram(before, histogram_name), parse_histogram(after, histogram_name))
        values = [got for one in answered if (got := value(one)) is not None]
        for percent in percents if values else ():
            bucket = bucket_of(histogram, percent)
            client_ms = percentile(values, percent)
            yield Comparison(
                figure=f"{name}_p{percent}",
                client_ms=client_ms,
                low_ms=1e3 * bucket[0] if bucket else 0.0,
                high_ms=1e3 * bucket[1] if bucket else 0.0,
                buckets_apart=buckets_apart(histogram, bucket, client_ms / 1e3) if bucket else None,
            )
