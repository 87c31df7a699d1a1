"""Tables and plots of the figures that the other steps wrote, and of nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from examples.emoji.measure.adapters import CONCEPT_TASK, METHODS
from examples.emoji.measure.cells import Cell, Share
from examples.emoji.measure.figures import Figures, fusion_label
from examples.emoji.measure.grid import (
    FUSIONS,
    SCALES,
    STYLE_TASKS,
    SWEPT,
    TURNS,
    TURNS_STYLE,
    alone,
    fused,
    read_cells,
    turns,
)
from examples.emoji.measure.plots import plot_fusions, plot_methods, plot_scales
from examples.emoji.measure.prompts import CAT_PROMPTS


def write_report(docs: Path) -> None:
    """``docs/results.md``, and plots beside it. A cell that was not drawn is a dash."""
    figures = Figures(read_cells(docs / "cells.jsonl"))
    sections = [
        "# Pictures: style and concept, every cell\n\nWritten by `python -m examples.emoji.measure report` from the "
        "cells beside it. Shares in per cent with Wilson's 95 % interval.",
        _section("The classifier, on emoji that it did not learn", _classifier(_read(docs / "classifier.json"))),
        _section("Training", _training(_read_lines(docs / "adapters.jsonl"), _read(docs / "sweep.json") or [])),
        _section("Supports of style and concept", _overlaps(_read_lines(docs / "overlap.jsonl"))),
        _section("The concept alone, on captions that it learned and on others", _kinds(figures)),
        *(_section(f"Alone and added: {style}", _methods(figures, style)) for style in STYLE_TASKS),
        *(_section(f"Ways to put them together: {style}", _fusions(figures, style)) for style in STYLE_TASKS),
        *(_section(f"Strength: {style}", _scales(figures, style)) for style in STYLE_TASKS),
        _section("Turns of `switch`, and who comes first", _turns(figures)),
        _section("Frequencies of what adapters change", _frequencies(_read(docs / "frequency.json") or [])),
    ]
    (docs / "results.md").write_text("\n\n".join(sections) + "\n")
    plot_methods(figures, TURNS_STYLE, docs / "methods.png")
    plot_fusions(figures, TURNS_STYLE, docs / "fusions.png")
    plot_scales(figures, docs / "strength.png")


def _methods(figures: Figures, style: str) -> str:
    base, base_others = Cell(prompts="cats"), Cell(prompts="others")
    rows = [["base", _show(figures.style(base_others, style)), "–", _show(figures.as_asked(base)), *["–"] * 5]]
    for method in METHODS:
        concept, added = alone(method, CONCEPT_TASK), fused(method, style)
        rows.append(
            [
                method,
                _show(figures.style(alone(method, style, prompts="others"), style)),
                _show(figures.style(alone(method, style), style)),
                _show(figures.as_asked(concept)),
                _show(figures.cats(alone(method, CONCEPT_TASK, prompts="others"))),
                _show(figures.style(added, style)),
                _show(figures.as_asked(added)),
                _show(figures.both(added, style)),
                _show(figures.style(fused(method, style, prompts="others"), style)),
            ]
        )
    header = [
        "method",
        "style alone, others: in style",
        "style alone, cats: in style",
        "concept alone: cat faces",
        "concept alone, others: cat faces",
        "added, cats: in style",
        "added, cats: cat faces",
        "added, cats: both",
        "added, others: in style",
    ]
    return _table(header, rows)


def _kinds(figures: Figures) -> str:
    rows = [
        [method, *(_show(figures.as_asked(alone(method, CONCEPT_TASK), kind)) for kind in CAT_PROMPTS)]
        for method in METHODS
    ]
    return _table(["method", *(f"cat faces, {kind} captions" for kind in CAT_PROMPTS)], rows)


def _fusions(figures: Figures, style: str) -> str:
    ways = [("sum", None), *FUSIONS]

    def shares(cell: Cell) -> str:
        in_style, cats = _percent(figures.style(cell, style)), _percent(figures.as_asked(cell))
        return f"{in_style} / {cats} / **{_percent(figures.both(cell, style))}**"

    rows = [
        [method, *(shares(fused(method, style, fusion=fusion, every=every)) for fusion, every in ways)]
        for method in METHODS
    ]
    header = ["method", *(fusion_label(*way) for way in ways)]
    return "In style / cat faces / **both**, cat prompts.\n\n" + _table(header, rows)


def _scales(figures: Figures, style: str) -> str:
    scales = sorted((1.0, *SCALES))
    rows = []
    for method in SWEPT:
        styled = [figures.style(alone(method, style, scale, prompts="others"), style) for scale in scales]
        concepts = [figures.as_asked(alone(method, CONCEPT_TASK, scale)) for scale in scales]
        added = [fused(method, style, scale) for scale in scales]
        for what, shares in (
            ("style alone, others: in style", styled),
            ("concept alone: cat faces", concepts),
            ("added: in style", [figures.style(cell, style) for cell in added]),
            ("added: cat faces", [figures.as_asked(cell) for cell in added]),
            ("added: both", [figures.both(cell, style) for cell in added]),
        ):
            rows.append([method, what, *map(_percent, shares)])
    return _table(["method", "", *(f"α = {scale:g}" for scale in scales)], rows)


def _turns(figures: Figures) -> str:
    rows = []
    kinds = [*product(SWEPT, TURNS), *((method, 1) for method in METHODS if method not in SWEPT)]
    for method, every in kinds:
        for order, cell in zip(("style first", "concept first"), turns(method, every), strict=True):
            shares = (figures.style(cell, TURNS_STYLE), figures.as_asked(cell), figures.both(cell, TURNS_STYLE))
            rows.append([method, str(every), order, *(_show(share) for share in shares)])
    return _table(["method", "steps a turn", "order", f"in {TURNS_STYLE}", "cat faces", "both"], rows)


def _classifier(report: Any) -> str:
    if report is None:
        return "–"
    names = [name for name, figure in next(iter(report.values())).items() if isinstance(figure, float)]
    rows = [[name.replace("_", " "), *(f"{100 * part[name]:.1f}" for part in report.values())] for name in names]
    confusions = [
        f"Of {true} ({version}): " + ", ".join(f"{answer} {count}" for answer, count in said.items())
        for version, part in report.items()
        if version != "autoencoded with noise"
        for true, said in part["style_confusion"].items()
    ]
    return _table(["per cent", *report], rows) + "\n\n" + "\n".join(f"- {line}" for line in confusions)


def _training(reports: Sequence[Mapping[str, Any]], swept: Sequence[Mapping[str, Any]]) -> str:
    fields = ("method", "task", "learning_rate", "steps", "num_trained", "held_out_loss_before", "held_out_loss_after")
    header = ["method", "task", "learning rate", "steps", "parameters", "held-out loss before", "after"]
    tables = [
        _table(
            header,
            [[f"{row[field]:,}" if field == "num_trained" else str(row[field]) for field in fields] for row in rows],
        )
        for rows in (reports, swept)
        if rows
    ]
    return "\n\nThe sweep:\n\n".join(tables) or "–"


def _overlaps(rows: Sequence[Mapping[str, Any]]) -> str:
    return _table(
        [
            "method",
            "style",
            "style entries",
            "concept entries",
            "shared",
            "of these with opposite signs",
            "cosine",
            "norms",
        ],
        [
            [
                row["method"],
                row["task"],
                f"{row['style_entries']:,}",
                f"{row['concept_entries']:,}",
                f"{row['shared']:,} ({100 * row['shared'] / row['style_entries']:.1f} %)",
                f"{100 * row['sign_conflicts'] / max(1, row['shared']):.1f} %",
                "–" if row["delta_cosine"] is None else f"{row['delta_cosine']:.4f}",
                f"{row['style_norm']:.2f}, {row['concept_norm']:.2f}",
            ]
            for row in rows
        ],
    )


def _frequencies(rows: Sequence[Mapping[str, Any]]) -> str:
    steps = list(dict.fromkeys(row["step"] for row in rows))
    by_adapter: dict[str, list[str]] = {}
    for row in rows:
        by_adapter.setdefault(row["adapter"], []).append(f"{row['change']:.3f} ({100 * row['high_share']:.0f} %)")
    header = ["adapter", *(f"step {step}" for step in steps)]
    return (
        "Mean square of the change against that of the base's answer (share of it in the high frequencies).\n\n"
        + _table(header, [[adapter, *figures] for adapter, figures in by_adapter.items()])
    )


def _show(share: Share | None) -> str:
    return "–" if share is None else f"{100 * share.value:.1f} ({100 * share.low:.0f}–{100 * share.high:.0f})"


def _percent(share: Share | None) -> str:
    return "–" if share is None else f"{100 * share.value:.0f}"


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n{text}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _read(file: Path) -> Any:
    return json.loads(file.read_text()) if file.exists() else None


def _read_lines(file: Path) -> list[dict[str, Any]]:
    """Of each method and task the last."""
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return list({(row["method"], row.get("task")): row for row in rows}.values())
