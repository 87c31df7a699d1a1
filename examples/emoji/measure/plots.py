"""The plots: bars and curves of shares, each with its Wilson interval."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from adapters_store.tools.plotting import write_png
from examples.emoji.measure.adapters import CONCEPT_TASK, METHODS
from examples.emoji.measure.cells import Share
from examples.emoji.measure.figures import Figures, fusion_label
from examples.emoji.measure.grid import FUSIONS, SCALES, STYLE_TASKS, SWEPT, alone, fused, turns


def plot_methods(figures: Figures, style: str, path: Path) -> None:
    """What each adapter does alone, and both of them added, by method."""
    bars = {
        f"{style} alone: in style": [figures.style(alone(method, style), style) for method in METHODS],
        "cat alone: cat faces": [figures.as_asked(alone(method, CONCEPT_TASK)) for method in METHODS],
        "added: in style": [figures.style(fused(method, style), style) for method in METHODS],
        "added: cat faces": [figures.as_asked(fused(method, style)) for method in METHODS],
        "added: both": [figures.both(fused(method, style), style) for method in METHODS],
    }
    _bars(bars, METHODS, path, f"{style} and cat on cat prompts, alone and added")


def plot_fusions(figures: Figures, style: str, path: Path) -> None:
    """Pictures that show both, by method and way of putting them together."""
    ways = [("sum", None), *FUSIONS]
    bars = {
        method: [
            *(figures.both(fused(method, style, fusion=fusion, every=every), style) for fusion, every in ways),
            figures.both(turns(method, 1)[1], style),
        ]
        for method in METHODS
    }
    places = [*(fusion_label(*way) for way in ways), "switch 1,\nconcept first"]
    _bars(bars, places, path, f"cat faces in {style}, by way of putting two adapters together", top=32)


def plot_scales(figures: Figures, path: Path) -> None:
    """A panel per method and style: shares over the scale of both adapters."""
    from matplotlib.figure import Figure

    scales = sorted((1.0, *SCALES))
    subjects = list(product(STYLE_TASKS, SWEPT))
    figure = Figure(figsize=(3 * len(subjects), 3), layout="constrained")
    for axes, (style, method) in zip(figure.subplots(1, len(subjects), sharey=True), subjects, strict=True):
        curves = {
            f"{style} alone: in style": [
                figures.style(alone(method, style, scale, prompts="others"), style) for scale in scales
            ],
            "cat alone: cat faces": [figures.as_asked(alone(method, CONCEPT_TASK, scale)) for scale in scales],
            "added: in style": [figures.style(fused(method, style, scale), style) for scale in scales],
            "added: cat faces": [figures.as_asked(fused(method, style, scale)) for scale in scales],
        }
        for label, shares in curves.items():
            axes.errorbar(scales, _values(shares), yerr=_reaches(shares), marker="o", capsize=2, label=label)
        axes.set_title(f"{method}, {style}")
        axes.set_xlabel("scale of each adapter")
        axes.set_ylim(-2, 102)
        axes.legend(fontsize="xx-small")
    figure.supylabel("% of pictures")
    write_png(figure, path)


def _bars(
    groups: dict[str, list[Share | None]], places: Sequence[str], path: Path, title: str, *, top: int = 102
) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.5, 3.4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(groups)
    for number, (label, shares) in enumerate(groups.items()):
        left = [place + (number - (len(groups) - 1) / 2) * width for place in range(len(places))]
        axes.bar(left, _values(shares), width, yerr=_reaches(shares), label=label, error_kw={"linewidth": 0.8})
    axes.set_xticks(range(len(places)), places)
    axes.set_ylim(0, top)
    axes.set_ylabel("% of pictures")
    axes.set_title(title, fontsize="medium")
    axes.legend(fontsize="x-small", ncols=3)
    write_png(figure, path)


def _values(shares: Sequence[Share | None]) -> list[float]:
    return [float("nan") if share is None else 100 * share.value for share in shares]


def _reaches(shares: Sequence[Share | None]) -> Any:
    """Below and above, as matplotlib takes them."""
    known = [share or Share(0, 0, 0) for share in shares]
    return [[100 * (share.value - share.low) for share in known], [100 * (share.high - share.value) for share in known]]
