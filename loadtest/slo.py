"""Service level objectives: named in a TOML file, each a bound of one figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from loadtest.figures import known_figures
from loadtest.scenario import Part, read_toml


class Slo(Part):
    name: str = Field(min_length=1)
    figure: str
    at_most: float | None = None
    at_least: float | None = None

    @model_validator(mode="after")
    def _is_one_bound(self) -> Self:
        if (self.at_most is None) == (self.at_least is None):
            raise ValueError("expected either at_most or at_least, got both or none")
        if self.figure not in known_figures():
            raise ValueError(f"figure: expected one of {', '.join(sorted(known_figures()))}, got {self.figure!r}")
        return self

    @property
    def bound(self) -> str:
        return f"≤ {self.at_most:g}" if self.at_most is not None else f"≥ {self.at_least:g}"

    def is_met_by(self, value: float) -> bool:
        """NaN meets nothing."""
        return value <= self.at_most if self.at_most is not None else value >= (self.at_least or 0.0)


class SloFile(Part):
    slo: tuple[Slo, ...] = Field(min_length=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """``value`` None: the run has no such figure, which breaks the objective."""

    slo: Slo
    value: float | None

    @property
    def is_met(self) -> bool:
        return self.value is not None and self.slo.is_met_by(self.value)

    def __str__(self) -> str:
        got = "no measurement" if self.value is None else f"{self.value:g}"
        return (
            f"{'held  ' if self.is_met else 'BROKEN'}  {self.slo.name}: {self.slo.figure} {self.slo.bound}, got {got}"
        )


def load_slos(path: Path) -> tuple[Slo, ...]:
    """Raises ScenarioRejected."""
    return read_toml(path, SloFile).slo


def judge(slos: Sequence[Slo], figures: Mapping[str, float]) -> list[Verdict]:
    return [Verdict(slo=slo, value=figures.get(slo.figure)) for slo in slos]
