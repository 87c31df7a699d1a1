"""Heat maps of an overlap report: adapters by adapters."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from adapters_store.tools.overlap_report import OverlapReport, PairOverlap
from adapters_store.tools.plotting import write_png


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """``lowest`` and ``highest`` bound the colours, not the figures."""

    title: str
    figure: Callable[[PairOverlap], float | None]
    lowest: float = 0.0
    highest: float = 1.0
    colours: str = "viridis"


PANELS = (
    Panel(title="delta cosine", figure=lambda pair: pair.delta_cosine, lowest=-1.0, colours="coolwarm"),
    Panel(title="shared support (Jaccard)", figure=lambda pair: pair.jaccard),
    Panel(
        title="sign conflicts, share of shared",
        figure=lambda pair: pair.sign_conflicts / pair.shared if pair.shared else None,
    ),
    Panel(title="AWOR, mean over weights (1 = orthogonal)", figure=lambda pair: pair.awor_mean),
)


def draw(report: OverlapReport, path: Path) -> None:
    """The diagonal stays blank, and so does what there is no figure for. Needs matplotlib."""
    from matplotlib.figure import Figure

    names = list(report.versions)
    side = 3.5 + 0.6 * len(names)
    figure = Figure(figsize=(2 * side, 1.8 * side), layout="constrained")
    for axes, panel in zip(figure.subplots(2, 2).flat, PANELS, strict=True):
        cells = cells_of(report, panel)
        image = axes.imshow(cells, vmin=panel.lowest, vmax=panel.highest, cmap=panel.colours)
        for row, values in enumerate(cells):
            for column, value in enumerate(values):
                if not math.isnan(value):
                    label = {"ha": "center", "va": "center", "fontsize": 8, "backgroundcolor": (1, 1, 1, 0.6)}
                    axes.text(column, row, f"{value:.2f}", **label)
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
        axes.set_yticks(range(len(names)), names)
        axes.set_title(panel.title)
        figure.colorbar(image, ax=axes, shrink=0.8)
    write_png(figure, path)


def cells_of(report: OverlapReport, panel: Panel) -> list[list[float]]:
    """Symmetric, in the order of the report's adapters; NaN where there is nothing to tell."""
    names = list(report.versions)
    cells = [[math.nan] * len(names) for _ in names]
    for pair in report.pairs:
        a, b = names.index(pair.a), names.index(pair.b)
        figure = panel.figure(pair)
        cells[a][b] = cells[b][a] = math.nan if figure is None else figure
    return cells
