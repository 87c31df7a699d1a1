"""Tables and figures as Markdown shows them: three decimals, a spread where there is one."""

from __future__ import annotations

from collections.abc import Sequence

from adapters_store.tools.reproduction.summary import Spread


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [_row(columns), _row(["---"] * len(columns)), *(_row(row) for row in rows)]


def number(value: float) -> str:
    return f"{value:.3f}"


def signed(value: float) -> str:
    return f"{value:+.3f}"


def number_spread(spread: Spread) -> str:
    return number(spread.mean) if spread.std is None else f"{number(spread.mean)} ± {spread.std:.3f}"


def signed_spread(spread: Spread) -> str:
    return signed(spread.mean) if spread.std is None else f"{signed(spread.mean)} ± {spread.std:.3f}"


def percent_spread(spread: Spread) -> str:
    shown = f"{spread.mean:.0%}"
    return shown if spread.std is None else f"{shown} ± {spread.std:.0%}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
