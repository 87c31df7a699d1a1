"""What the switch benchmark prints, writes and draws."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from adapters_store.tools.bench_contenders import EXCHANGE, FLOOR, IDEAL, RESTORE, SAME_SET, STAGE, SWITCH
from adapters_store.tools.bench_stack import Case
from adapters_store.tools.bench_timing import Timing

OURS = (EXCHANGE, RESTORE, SWITCH, SAME_SET, STAGE)
VERSIONS_OF = ("torch", "peft", "shira-server")
RATIOS = {"to_exchange": EXCHANGE, "to_floor": FLOOR, "to_ideal": IDEAL}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line: what, on what, how long. ``ratios`` are to other rows of the same group, where these were run."""

    case: str
    dtype: str
    sparsity: float
    num_weights: int
    num_params: int
    num_entries: int
    num_threads: int
    label: str
    timing: Timing
    ratios: dict[str, float]


def rows_of(case: Case, num_threads: int, timings: Sequence[Timing]) -> list[Row]:
    """In reporting order: ours, the floor and torch's, PEFT's last."""
    medians = {timing.label: timing.median_s for timing in timings}
    return [
        Row(
            case=case.title,
            dtype=case.dtype,
            sparsity=case.sparsity,
            num_weights=len(case.weights),
            num_params=case.num_params,
            num_entries=case.bound_a.num_entries,
            num_threads=num_threads,
            label=timing.label,
            timing=timing,
            ratios={name: timing.median_s / medians[of] for name, of in RATIOS.items() if of in medians},
        )
        for timing in sorted(timings, key=_rank)
    ]


def machine() -> dict[str, Any]:
    return {
        "cpu": _cpu_name(),
        "num_cpus": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: _version(name) for name in VERSIONS_OF},
    }


def as_json(row: Row, *, seed: int, kernels: str) -> dict[str, Any]:
    """One flat object, complete in itself."""
    return {
        "case": row.case,
        "dtype": row.dtype,
        "sparsity": row.sparsity,
        "num_weights": row.num_weights,
        "num_params": row.num_params,
        "num_entries": row.num_entries,
        "num_threads": row.num_threads,
        "what": row.label,
        "median_ms": row.timing.median_s * 1e3,
        "min_ms": row.timing.min_s * 1e3,
        "num_repeats": row.timing.num_repeats,
        **{f"ratio_{name}": ratio for name, ratio in row.ratios.items()},
        "kernels": kernels,
        "seed": seed,
        "machine": machine(),
    }


def as_table(rows: Sequence[Row]) -> str:
    """One group: same case, same threads."""
    head = rows[0]
    threads = f"{head.num_threads} thread{'s' if head.num_threads > 1 else ''}"
    lines = [
        f"{head.case} · {head.dtype} · {head.sparsity:.1%} · {threads} "
        f"({head.num_weights} weights, {head.num_params / 1e6:.0f} M parameters, {head.num_entries:,} entries)",
        f"  {'':<46}{'median ms':>12}{'/exchange':>11}{'/floor':>9}{'/ideal':>9}",
    ]
    for row in rows:
        ratios = [row.ratios.get(name) for name in RATIOS]
        columns = "".join(
            f"{'' if ratio is None else format(ratio, '.2f'):>{width}}"
            for ratio, width in zip(ratios, (11, 9, 9), strict=True)
        )
        lines.append(f"  {row.label:<46}{row.timing.median_s * 1e3:>12.3f}{columns}")
    return "\n".join(lines)


def draw(rows: Sequence[Row], path: Path) -> None:
    """Times of the last group (the biggest case) as bars on a logarithmic axis. Needs matplotlib."""
    from matplotlib.figure import Figure

    group = [row for row in rows if (row.case, row.dtype, row.num_threads) == _group_of(rows[-1])][::-1]
    figure = Figure(figsize=(9, 0.4 * len(group) + 1.2), layout="constrained")
    axes = figure.subplots()
    colours = ["tab:blue" if row.label in OURS else "tab:grey" for row in group]
    bars = axes.barh([row.label for row in group], [row.timing.median_s * 1e3 for row in group], color=colours)
    axes.bar_label(bars, labels=[f"{row.timing.median_s * 1e3:,.1f}" for row in group], padding=3)
    axes.set_xscale("log")
    axes.margins(x=0.2)
    axes.set_xlabel("median, milliseconds")
    axes.set_title(f"{group[0].case}, {group[0].dtype}, {group[0].sparsity:.0%}, threads: {group[0].num_threads}")
    figure.savefig(path, format="png", dpi=120)


def _group_of(row: Row) -> tuple[str, str, int]:
    return row.case, row.dtype, row.num_threads


def _rank(timing: Timing) -> tuple[bool, int]:
    order = {label: at for at, label in enumerate((EXCHANGE, SWITCH, SAME_SET, RESTORE, STAGE, FLOOR, IDEAL))}
    return timing.label.startswith("PEFT"), order.get(timing.label, len(order))


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()} ({torch.backends.cpu.get_cpu_capability()})"
    return platform.processor()


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
