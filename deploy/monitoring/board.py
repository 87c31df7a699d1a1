"""What a dashboard is made of. ``boards/`` says what is on each, ``render`` makes Grafana's JSON of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

HERE = 'job=~"$job", instance=~"$instance"'  # what the variables of every dashboard select
INTERVAL = "$__rate_interval"
Unit = Literal["short", "s", "bytes", "percentunit", "ops", "reqps", "dateTimeAsIso"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """``@`` in ``expr`` stands for ``HERE``, ``~`` before a bracket's end for ``INTERVAL``: ``rate(x{@}[~])``."""

    expr: str
    legend: str

    @property
    def promql(self) -> str:
        return self.expr.replace("{@", "{" + HERE).replace("[~]", f"[{INTERVAL}]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """``kind``: lines over time, one number for now, or a table of labels. ``thresholds``: from this value on it has
    this colour; ``names``: what certain values are called."""

    title: str
    description: str
    unit: Unit
    queries: tuple[Query, ...]
    kind: Literal["lines", "number", "table"] = "lines"
    is_share: bool = False  # drawn from 0 to 1
    thresholds: tuple[tuple[float, str], ...] = ()
    names: tuple[tuple[str, str], ...] = ()
    width: int = 8  # of 24
    height: int = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    uid: str
    title: str
    description: str
    rows: tuple[Row, ...]

    def panels(self) -> Iterator[tuple[int, Panel]]:
        """With their ids, which links name."""
        yield from enumerate((panel for row in self.rows for panel in row.panels), start=1)

    def id_of(self, title: str) -> int:
        return next(number for number, panel in self.panels() if panel.title == title)


def lines(expr: str, legend: str = "{{instance}}") -> Query:
    return Query(expr=expr, legend=legend)


def quantile(q: float, histogram: str, legend: str, *, by: str = "instance", where: str = "") -> Query:
    """Nothing where nothing was observed."""
    selector = "{@" + (f", {where}" if where else "") + "}"
    total = f"sum by ({by}, le) (rate({histogram}_bucket{selector}[~]))"
    return Query(expr=f"histogram_quantile({q:g}, {total}) >= 0", legend=legend)


def quantiles(histogram: str, *qs: float, where: str = "") -> tuple[Query, ...]:
    return tuple(quantile(q, histogram, f"p{q * 100:g} {{{{instance}}}}", where=where) for q in qs)
