"""What a server's own counters say: read before and after a run."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

Counters = Mapping[str, float]  # sample name with its labels, as in the text format → value


def parse_counters(text: str) -> dict[str, float]:
    """Of the Prometheus text format: counters, and of histograms their counts and sums. Gauges are left out, and so is
    what every Python process counts."""
    return {
        sample.name + _labels(sample.labels): sample.value
        for family in text_string_to_metric_families(text)
        if family.type in ("counter", "histogram") and not family.name.startswith(("process_", "python_"))
        for sample in family.samples
        if not sample.name.endswith(("_bucket", "_created"))
    }


def growth(before: Counters, after: Counters) -> dict[str, float]:
    """What grew, by how much."""
    grown = {name: value - before.get(name, 0.0) for name, value in after.items()}
    return {name: value for name, value in grown.items() if value}


def by_label(counters: Counters, name: str, label: str) -> dict[str, float]:
    """The values of a metric, summed by one of its labels."""
    values: dict[str, float] = {}
    for sample, value in counters.items():
        metric, _, labels = sample.partition("{")
        if metric == name:
            key = dict(pair.split("=", 1) for pair in labels.rstrip("}").split(",") if pair).get(label, "")
            values[key] = values.get(key, 0.0) + value
    return values


def _labels(labels: Mapping[str, str]) -> str:
    return "{" + ",".join(f"{name}={value}" for name, value in sorted(labels.items())) + "}" if labels else ""
