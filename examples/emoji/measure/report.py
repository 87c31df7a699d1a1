"""Tables and plots of the figures that the other steps wrote, and of nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from examples.emoji.measure.adapters import METHODS
from examples.emoji.measure.cells import Cell, Share
from examples.emoji.measure.figures import Figures, alone, fused, fusion_label
from examples.emoji.measure.grid import FUSIONS, SCALES, SWEPT, TURNS, read_cells
from examples.emoji.measure.plots import plot_fusions, plot_methods, plot_scales


def write_report(docs: Path) -> None:
    """``docs/results.md``, and plots beside it. A cell that was not drawn is a dash."""
    figures = Figures(read_cells(docs / "cells.jsonl"))
    sections = [
        "# Pictures: style and concept, every cell\n\nWritten by `python -m examples.emoji.measure report` from the "
        "cells beside it. Shares in per cent with Wilson's 95 % interval.",
        _section("The classifier, on emoji that it did not learn", _classifier(_read(docs / "classifier.json"))),
        _section("Training", _training(_read_lines(docs / "adapters.jsonl"), _read(docs / "sweep.json") or [])),
        _section("Supports of style and concept", _overlaps(_read_lines(docs / "overlap.jsonl"))),
        _section("Alone and added", _methods(figures)),
        _section("New and learned expressions, added", _kinds(figures)),
        _section("Ways to put them together", _fusions(figures)),
        _section("Strength", _scales(figures)),
        _section("Turns of `switch`, and who comes first", _turns(figures)),
        _section("Frequencies of what adapters change", _frequencies(_read(docs / "frequency.json") or [])),
    ]
    (docs / "results.md").write_text("\n\n".join(sections) + "\n")
    plot_methods(figures, docs / "methods.png")
    plot_fusions(figures, docs / "fusions.png")
    plot_scales(figures, docs / "strength.png")


def _methods(figures: Figures) -> str:
    base, base_others = Cell(prompts="cats"), Cell(prompts="others")
    rows = [
        ["base", _show(figures.style(base_others)), _show(figures.as_asked(base_others)), _show(figures.as_asked(base))]
        + ["–"] * 5
    ]
    for method in METHODS:
        style, concept = alone(method, "style", prompts="others"), alone(method, "concept")
        rows.append(
            [
                method,
                _show(figures.style(style)),
                _show(figures.as_asked(style)),
                _show(figures.as_asked(concept)),
                _show(figures.cats(alone(method, "concept", prompts="others"))),
                _show(figures.style(fused(method))),
                _show(figures.as_asked(fused(method))),
                _show(figures.both(fused(method))),
                _show(figures.both(fused(method, prompts="others"))),
            ]
        )
    header = [
        "method",
        "style alone: in ink",
        "… and as asked",
        "concept alone: cat faces",
        "… where none is asked for",
        "added, cats: in ink",
        "added, cats: cat faces",
        "added, cats: both",
        "added, others: in ink and as asked",
    ]
    return _table(header, rows)


def _kinds(figures: Figures) -> str:
    rows = [[method, *(_show(figures.both(fused(method), kind)) for kind in ("learned", "new"))] for method in METHODS]
    return _table(["method", "both, learned captions", "both, new captions"], rows)


def _fusions(figures: Figures) -> str:
    labels = [("sum", None), *FUSIONS]
    rows = [
        [
            method,
            *(
                " / ".join(
                    _percent(share(fused(method, fusion=fusion, every=every)))
                    for share in (figures.style, figures.as_asked)
                )
                + f" / **{_percent(figures.both(fused(method, fusion=fusion, every=every)))}**"
                for fusion, every in labels
            ),
        ]
        for method in METHODS
    ]
    return "In ink / cat faces / **both**, cat prompts.\n\n" + _table(
        ["method", *(fusion_label(*label) for label in labels)], rows
    )


def _scales(figures: Figures) -> str:
    scales = sorted((1.0, *SCALES))
    rows = []
    for method in SWEPT:
        for what, share, cell in (
            (
                "style alone: in ink and as asked (others)",
                figures.both,
                lambda m, s: alone(m, "style", s, prompts="others"),
            ),
            ("concept alone: cat faces", figures.as_asked, lambda m, s: alone(m, "concept", s)),
            ("added: in ink", figures.style, fused),
            ("added: cat faces", figures.as_asked, fused),
            ("added: both", figures.both, fused),
        ):
            rows.append([method, what, *(_percent(share(cell(method, scale))) for scale in scales)])
    return _table(["method", "", *(f"α = {scale:g}" for scale in scales)], rows)


def _turns(figures: Figures) -> str:
    rows = []
    for method in SWEPT:
        for every in TURNS:
            first = fused(method, fusion="switch", every=every)
            second = Cell(prompts="cats", members=first.members[::-1], fusion="switch", every=every)
            for order, cell in (("style first", first), ("concept first", second)):
                shares = (figures.style(cell), figures.as_asked(cell), figures.both(cell))
                rows.append([method, str(every), order, *(_show(share) for share in shares)])
    return _table(["method", "steps a turn", "order", "in ink", "cat faces", "both"], rows)


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
        ["method", "style entries", "concept entries", "shared", "of these with opposite signs", "cosine", "norms"],
        [
            [
                row["method"],
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
