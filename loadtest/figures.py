"""From the outcomes and samples of a run to figures by name, units in the names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from loadtest.comparing import Comparison
from loadtest.memory import growth_of
from loadtest.outcomes import Action, Outcome
from loadtest.samples import Sample
from loadtest.times import TIMES, times_ms
from server.bench_serve.measures import percentile

PERCENTS = (50, 90, 99)
ACTIONS: tuple[Action, ...] = ("text", "image", "upload", "hostile", "download", "move", "delete")


def figures_of(
    outcomes: Sequence[Outcome],
    samples: Sequence[Sample],
    audits: Mapping[str, bool],
    comparisons: Sequence[Comparison],
    *,
    duration_s: float,
) -> dict[str, float]:
    """What has no value is absent; memory, where one of the audited servers was not watched throughout. Availability:
    the share of requests answered as asked for among those whose client stayed."""
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
    growths = growth_of(samples, audits, duration_s=duration_s)
    if growths and growths.keys() == audits.keys():
        figures["memory_growth_mib"] = max(growth.growth_mib for growth in growths.values())
        figures["memory_slope_mib_per_h"] = max(growth.slope_mib_per_h for growth in growths.values())
    if audits:
        figures["base_verified"] = float(all(audits.values()))
    apart = [one.buckets_apart for one in comparisons if one.percent == max(PERCENTS)]
    if apart and None not in apart:
        figures["p99_buckets_apart"] = max(num for num in apart if num is not None)
    return figures


def known_figures() -> set[str]:
    """Every name that ``figures_of`` may give."""
    counted = {f"num_{ending}" for ending in ("answered", "refused", "wrong", "lost", "left")}
    timed = {f"{name}_p{percent}" for name in TIMES for percent in PERCENTS}
    others = {"num_requests", "requests_per_s", "answered_per_s", "tokens_per_s", "availability_percent"}
    judged = {"memory_growth_mib", "memory_slope_mib_per_h", "base_verified", "p99_buckets_apart"}
    return counted | timed | others | judged | {f"num_{action}" for action in ACTIONS}
