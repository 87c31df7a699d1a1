"""An evaluation as a table for people and as JSON for scripts."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

from adapters_store.tools.evaluate import EvalReport, EvalRow
from adapters_store.tools.evaluate_data import DataSummary


def render(report: EvalReport) -> str:
    """What was measured on what, then one line per subject, scale and file."""
    lines = [f"{report.model} in {report.dtype}"]
    lines += [_data_line(data) for data in report.data]
    widths = [max(len(text), 8) for text in (max(names, key=len) for names in _names(report))]
    heads = ["loss", "perplexity", "vs base"] if "perplexity" in report.metrics else []
    heads += ["matched", "exact match"] if "exact-match" in report.metrics else []
    lines += ["", f"{'data':<{widths[0]}}  {'subject':<{widths[1]}}{'scale':>7}" + "".join(f"{h:>12}" for h in heads)]
    for row in report.rows:
        cells = "".join(f"{cell:>12}" for cell in _cells(report, row))
        lines.append(f"{row.data:<{widths[0]}}  {row.subject:<{widths[1]}}{row.scale:>7g}{cells}")
    return "\n".join(lines)


def as_json(report: EvalReport) -> str:
    """Figures that are not finite become null: JSON has none."""
    return json.dumps(_finite(asdict(report)), indent=2, ensure_ascii=False, allow_nan=False)


def base_row(report: EvalReport, data: str) -> EvalRow:
    return next(row for row in report.rows if row.kind == "base" and row.data == data)


def _names(report: EvalReport) -> tuple[list[str], list[str]]:
    return [row.data for row in report.rows], [row.subject for row in report.rows]


def _data_line(data: DataSummary) -> str:
    counts = {
        "examples": data.num_examples,
        "predicted tokens": data.num_tokens,
        "questions": data.num_questions,
    }
    told = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count is not None)
    part = "" if data.held_out is None else f", the {data.held_out:.1%} that training holds out"
    return f"{data.name}: {told}{part}"


def _cells(report: EvalReport, row: EvalRow) -> list[str]:
    cells = []
    if row.loss is not None and row.perplexity is not None:
        base = base_row(report, row.data).perplexity
        cells += [f"{row.loss:.4f}", f"{row.perplexity:.3f}", f"{row.perplexity / base - 1:+.1%}" if base else ""]
    if row.exact_match is not None:
        cells += [f"{row.num_matched:,}", f"{row.exact_match:.1%}"]
    return cells


def _finite(value: Any) -> Any:
    match value:
        case dict():
            return {key: _finite(item) for key, item in value.items()}
        case list() | tuple():
            return [_finite(item) for item in value]
        case float() if not math.isfinite(value):
            return None
        case _:
            return value
