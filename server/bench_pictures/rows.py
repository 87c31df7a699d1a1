"""What the benchmark prints and writes: a group of rows for each question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """``value`` in ``unit``; ``ratio`` of it ``to`` something else, and what was asked of that ratio."""

    what: str
    value: float
    unit: str
    ratio: float | None = None
    to: str = ""
    at_least: float | None = None
    at_most: float | None = None

    @property
    def is_met(self) -> bool | None:
        """None where nothing was asked."""
        if self.ratio is None or (self.at_least is None and self.at_most is None):
            return None
        low = self.at_least is None or self.ratio >= self.at_least
        return low and (self.at_most is None or self.ratio <= self.at_most)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """``conditions``: what every row of it says beside its figures."""

    name: str
    conditions: Mapping[str, Any]
    rows: Sequence[Row]


def as_table(group: Group) -> str:
    told = ", ".join(f"{name.replace('_', ' ')} {_plain(value)}" for name, value in group.conditions.items())
    lines = [f"{group.name} ({told})"]
    for row in group.rows:
        ratio = "" if row.ratio is None else f"{_figure(row.ratio):>10} {f'× {row.to}':<34}{_verdict(row)}"
        lines.append(f"  {row.what:<58}{_figure(row.value):>12} {row.unit:<10}{ratio}".rstrip())
    return "\n".join(lines)


def as_json(group: Group, common: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One flat object for each row, complete in itself."""
    return [
        {
            "group": group.name,
            "what": row.what,
            "value": row.value,
            "unit": row.unit,
            "ratio": row.ratio,
            "ratio_to": row.to or None,
            "at_least": row.at_least,
            "at_most": row.at_most,
            "is_met": row.is_met,
            **group.conditions,
            **common,
        }
        for row in group.rows
    ]


def _verdict(row: Row) -> str:
    asked = [f"{sign} {bound:g}" for sign, bound in (("≥", row.at_least), ("≤", row.at_most)) if bound is not None]
    outcome = {True: ": met", False: ": MISSED", None: ""}[row.is_met]
    return " ".join(asked) + outcome


def _figure(value: float) -> str:
    """Four digits, more where they are whole."""
    digits = 0 if value == round(value) or abs(value) >= 1000 else 1 if abs(value) >= 100 else 3
    return f"{value:,.{digits}f}"


def _plain(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
