"""What the benchmark prints and writes: tables for people, one flat object per cell for programs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from server.bench_serve.counters import by_label
from server.bench_serve.plan import Cell
from server.bench_serve.runs import CellResult, PlanResult, Verdict
from server.bench_serve.subjects import VllmServer
from server.bench_serve.vllm_server import CAVEAT

COLUMNS = (  # heading, figure, digits
    ("tok/s", "tokens_per_s", 1),
    ("decode", "decode_tokens_per_s", 1),
    ("TTFT p50", "ttft_ms_p50", 0),
    ("p95", "ttft_ms_p95", 0),
    ("p99", "ttft_ms_p99", 0),
    ("ms/token p50", "token_ms_p50", 1),
    ("p95", "token_ms_p95", 1),
    ("p99", "token_ms_p99", 1),
    ("worst wait", "worst_wait_ms", 0),
)
HEADINGS = ["", *(heading for heading, _, _ in COLUMNS), "modes", "switches", "hits", "troubles"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What every row must say beside its figures."""

    model: str
    num_rounds: int
    seed: int
    sparsity: float
    server_options: Mapping[str, str]
    machine: Mapping[str, Any]


def as_json(results: Sequence[PlanResult], conditions: Conditions) -> list[dict[str, Any]]:
    """One object per cell, complete in itself, then one per target."""
    common = asdict(conditions)
    rows = [
        {"preset": result.plan.name, "kind": "cell", **_cell_json(cell), **common}
        for result in results
        for cell in result.cells
    ]
    verdicts = [
        {"preset": result.plan.name, "kind": "target", **_verdict_json(verdict), **common}
        for result in results
        for verdict in result.verdicts
    ]
    return rows + verdicts


def as_table(result: PlanResult) -> str:
    """For a terminal. Milliseconds where nothing else is said."""
    lines = [f"── {result.plan.name} ──"]
    lines += _aligned([HEADINGS, *(_cells_of(cell) for cell in result.cells)])
    lines += ["", *(f"  {_sentence(verdict)}" for verdict in result.verdicts)]
    return "\n".join(lines)


def as_markdown(results: Sequence[PlanResult], conditions: Conditions) -> str:
    """A fragment for the documentation."""
    machine = ", ".join(f"{name} {value}" for name, value in conditions.machine.items())
    options = "".join(f", {key}={value}" for key, value in conditions.server_options.items())
    parts = [
        f"{conditions.model}, adapters of {conditions.sparsity:.1%} of every linear layer, "
        f"{conditions.num_rounds} rounds, seed {conditions.seed}{options}. {machine}."
    ]
    for result in results:
        parts.append(f"### {result.plan.name}")
        rows = [HEADINGS, ["---"] * len(HEADINGS), *(_cells_of(cell) for cell in result.cells)]
        parts.append("\n".join("| " + " | ".join(cell.strip() for cell in row) + " |" for row in rows))
        parts.append("\n".join(f"- {_sentence(verdict)}" for verdict in result.verdicts))
    return "\n\n".join(parts) + "\n"


def _cells_of(result: CellResult) -> list[str]:
    figures = [_number(result.figures.get(name), digits) for _, name, digits in COLUMNS]
    return [str(result.cell), *figures, *_notes(result)]


def _notes(result: CellResult) -> list[str]:
    modes = " ".join(f"{mode} {share:.0%}" for mode, share in result.mode_shares.items())
    switches = by_label(result.counters, "shira_switches_total", "kind")
    return [
        modes,
        " ".join(f"{kind} {count:.0f}" for kind, count in sorted(switches.items())),
        _tier_hits(result),
        _troubles(result),
    ]


def _tier_hits(result: CellResult) -> str:
    hits = by_label(result.counters, "shira_tier_hits_total", "tier")
    misses = by_label(result.counters, "shira_tier_misses_total", "tier")
    asked = {tier: hits.get(tier, 0.0) + misses.get(tier, 0.0) for tier in ("device", "host")}
    return " ".join(f"{tier} {hits.get(tier, 0.0) / count:.0%}" for tier, count in asked.items() if count)


def _troubles(result: CellResult) -> str:
    refusals = result.figures.get("num_refusals", 0)
    failures: dict[str, int] = {}
    for measured in result.rounds:
        for reason, count in measured.failures.items():
            failures[reason] = failures.get(reason, 0) + count
    told = [f"{reason} × {count}" for reason, count in sorted(failures.items())]
    return ", ".join([f"refused × {refusals:.0f}"] * bool(refusals) + told)


def _sentence(verdict: Verdict) -> str:
    """What was asked, what came out, met or missed; with vLLM the sentence that belongs to it."""
    target = verdict.target
    sign = "≤" if target.is_ceiling else "≥"
    asked = "" if target.bound is None else f" (target {sign} {target.bound:g})"
    outcome = {True: ": met", False: ": MISSED", None: ""}[verdict.is_met]
    value = "–" if math.isnan(verdict.value) else f"{verdict.value:.{0 if target.against is None else 2}f}"
    caveat = f" [{CAVEAT}]" if _is_vllm(target.against) else ""
    return f"{target.says}: {value}{asked}{outcome}{caveat}"


def _is_vllm(cell: Cell | None) -> bool:
    return cell is not None and isinstance(cell.subject, VllmServer)


def _cell_json(result: CellResult) -> dict[str, Any]:
    return {
        "subject": str(result.cell.subject),
        "workload": asdict(result.cell.workload),
        **result.figures,
        "mode_shares": result.mode_shares,
        "counters": result.counters,
        "rounds": [asdict(measured) for measured in result.rounds],
    }


def _verdict_json(verdict: Verdict) -> dict[str, Any]:
    target = verdict.target
    return {
        "says": target.says,
        "cell": str(target.cell),
        "against": None if target.against is None else str(target.against),
        "figure": target.figure,
        "value": None if math.isnan(verdict.value) else verdict.value,
        "bound": target.bound,
        "is_ceiling": target.is_ceiling,
        "is_met": verdict.is_met,
        **({"caveat": CAVEAT} if _is_vllm(target.against) else {}),
    }


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The first column to the left, figures to the right, empty columns left out."""
    kept = [number for number, column in enumerate(zip(*rows, strict=True)) if any(column[1:])]
    widths = {number: max(len(row[number]) for row in rows) for number in kept}
    return [
        "  ".join(row[n].ljust(widths[n]) if n == 0 else row[n].rjust(widths[n]) for n in kept).rstrip() for row in rows
    ]
