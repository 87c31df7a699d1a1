"""The benchmark as a picture: tokens per second and waiting for the first one. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adapters_store.tools.plotting import write_png
from server.bench_serve.runs import CellResult, PlanResult
from server.bench_serve.subjects import ShiraServer

PANELS = {"tokens_per_s": "tokens per second", "ttft_ms_p99": "time to first token, p99, ms"}


def draw(results: Sequence[PlanResult], path: Path) -> None:
    """A row of bars per cell, ours in colour. Raises StorageFull, OSError."""
    from matplotlib.figure import Figure

    cells = [cell for result in results for cell in result.cells][::-1]
    figure = Figure(figsize=(14, 0.32 * len(cells) + 1.2), layout="constrained")
    for axes, (name, title) in zip(figure.subplots(1, len(PANELS), sharey=True), PANELS.items(), strict=True):
        _panel(axes, cells, name, title)
    write_png(figure, path)


def _panel(axes: Any, cells: Sequence[CellResult], name: str, title: str) -> None:
    values = [cell.figures.get(name, 0.0) for cell in cells]
    colours = ["tab:blue" if isinstance(cell.cell.subject, ShiraServer) else "tab:grey" for cell in cells]
    bars = axes.barh(range(len(cells)), values, color=colours)
    axes.bar_label(bars, labels=[f"{value:,.0f}" if value else "" for value in values], padding=3, fontsize=7)
    axes.set_yticks(range(len(cells)), [str(cell.cell) for cell in cells], fontsize=7)
    axes.set_title(title, fontsize=9)
    axes.margins(x=0.15)
