"""Which series there are, and which an expression names."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from server.core.metrics import Metrics

PROMETHEUS = Path(__file__).parents[2] / "deploy" / "prometheus"
MADE_BY_PROMETHEUS = {"up", "ALERTS"}
_NAME = re.compile(r"\b(?:shira[_:][\w:]+|process_\w+|up|ALERTS)\b")
_STRING_OR_LABELS = re.compile(r'"[^"]*"|\b(?:by|on) \([^)]*\)')


@cache
def rules() -> list[dict[str, Any]]:
    """Recording rules and alerts."""
    groups = [group for path in PROMETHEUS.glob("rules/*.yml") for group in yaml.safe_load(path.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def recordings() -> dict[str, str]:
    """Name → expression."""
    return {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}


@cache
def series_of_the_server() -> frozenset[str]:
    """Names that a scrape can contain, suffixes of histograms and counters included."""
    return frozenset(sample for family in Metrics().registry.collect() for sample in _samples(family))


def named_in(expr: str) -> set[str]:
    return set(_NAME.findall(_STRING_OR_LABELS.sub("", expr)))


def behind(expr: str) -> set[str]:
    """What an expression is made of at last, recording rules looked through; histograms without their suffixes."""
    found = set()
    for name in named_in(expr):
        found |= behind(recordings()[name]) if name in recordings() else {re.sub("_(bucket|sum|count)$", "", name)}
    return found


def _samples(family: Any) -> set[str]:
    match family.type:
        case "counter":
            return {f"{family.name}_total"}
        case "histogram":
            return {f"{family.name}_{suffix}" for suffix in ("bucket", "sum", "count")}
        case "info":
            return {f"{family.name}_info"}
        case _:
            return {family.name}
