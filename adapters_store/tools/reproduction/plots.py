"""The cells as figures. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

from adapters_store.tools.plotting import write_png
from adapters_store.tools.reproduction.fusing import FUSIONS
from adapters_store.tools.reproduction.plan import DOMAINS
from adapters_store.tools.reproduction.summary import Spread, Summary


def draw_alone(summary: Summary, path: Path) -> None:
    """Change of the test loss against the base, on the own domain and on the others."""
    base = summary.base.test
    bars = {
        f"on {name}": {
            method: _shifted(summary.alone_loss(method, name), base[name]) for method in summary.alone_methods
        }
        for name in DOMAINS
    }
    bars["on the others"] = {method: summary.forgetting(method) for method in summary.alone_methods}
    _bars(bars, path, title="One adapter", label="test loss − base, nats per token")


def draw_fused(summary: Summary, path: Path) -> None:
    """Mean test loss over the domains of every fusion, between the base and each adapter alone."""
    base = fmean(summary.base.test.values())
    bars = {"alone": {method: _shifted(summary.alone_of_fused(method), base) for method in summary.fused_methods}}
    for fusion in FUSIONS:
        bars[fusion] = {
            method: _shifted(summary.fused_loss(method, fusion, None), base) for method in summary.fused_methods
        }
    _bars(bars, path, title="Three adapters at once, mean over the domains", label="test loss − base, nats per token")


def draw_alpha(summary: Summary, path: Path) -> None:
    """Mean validation loss of the sum over its strength; a line a method, the mean over seeds."""
    figure = _figure()
    axes = figure.subplots()
    for method in summary.fused_methods:
        cells = list(summary.fused(method).values())
        alphas = sorted(cells[0].validation, key=float)
        losses = [fmean(cell.validation[alpha] for cell in cells) for alpha in alphas]
        axes.plot([float(alpha) for alpha in alphas], losses, marker="o", label=method)
    axes.axhline(fmean(summary.base.validation.values()), color="black", linestyle=":", label="base")
    axes.set_xlabel("α of each of the three adapters")
    axes.set_ylabel("validation loss, nats per token")
    axes.set_title("Three adapters added, by strength")
    axes.legend()
    write_png(figure, path)


def _bars(bars: dict[str, dict[str, Spread]], path: Path, *, title: str, label: str) -> None:
    """A group for each method, a bar for each row of ``bars``; whiskers are standard deviations over seeds."""
    figure = _figure()
    axes = figure.subplots()
    width = 0.8 / len(bars)
    for at, (name, spreads) in enumerate(bars.items()):
        places = [group + at * width for group in range(len(spreads))]
        heights = [spread.mean for spread in spreads.values()]
        whiskers = [spread.std or 0.0 for spread in spreads.values()]
        axes.bar(places, heights, width, yerr=whiskers, label=name, capsize=2)
    methods = list(next(iter(bars.values())))
    axes.set_xticks([group + 0.4 - width / 2 for group in range(len(methods))], methods)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_ylabel(label)
    axes.set_title(title)
    figure.legend(loc="outside right upper")  # bars reach every corner of the axes
    write_png(figure, path)


def _figure() -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(9, 4.5), layout="constrained")


def _shifted(spread: Spread, base: float) -> Spread:
    return Spread(tuple(figure - base for figure in spread.figures))
