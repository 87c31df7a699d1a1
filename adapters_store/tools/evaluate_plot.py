"""Each figure of an evaluation against the scale: a row of panels per metric, a panel per file."""

from __future__ import annotations

from pathlib import Path

from adapters_store.tools.evaluate import EvalReport, EvalRow
from adapters_store.tools.evaluate_report import base_row
from adapters_store.tools.plotting import write_png


def draw(report: EvalReport, path: Path) -> None:
    """The base is the dashed line. Needs matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * len(report.data), 4 * len(report.metrics)), layout="constrained")
    panels = figure.subplots(len(report.metrics), len(report.data), squeeze=False)
    subjects = list(dict.fromkeys(row.subject for row in report.rows if row.kind != "base"))
    for line, metric in zip(panels, report.metrics, strict=True):
        for axes, data in zip(line, report.data, strict=True):
            axes.axhline(_figure(base_row(report, data.name), metric), linestyle="--", color="grey", label="base")
            for subject in subjects:
                rows = [row for row in report.rows if (row.subject, row.data) == (subject, data.name)]
                rows.sort(key=lambda row: row.scale)
                axes.plot(
                    [row.scale for row in rows], [_figure(row, metric) for row in rows], marker="o", label=subject
                )
            axes.set_xlabel("scale")
            axes.set_ylabel(metric)
            axes.set_title(data.name)
            axes.legend()
    write_png(figure, path)


def _figure(row: EvalRow, metric: str) -> float:
    figure = row.perplexity if metric == "perplexity" else row.exact_match
    return float("nan") if figure is None else figure
