"""What the training benchmark prints."""

from __future__ import annotations

import importlib.metadata
from dataclasses import asdict, dataclass
from typing import Any

from adapters_store.tools.bench_report import machine
from adapters_store.tools.bench_train_contenders import REFERENCE, Contender, TrainCase
from adapters_store.tools.bench_train_memory import MemoryUse


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRow:
    """``speed_ratio``: median over rounds of steps/s against the reference's in the same round, more is faster; low
    and high are its quartiles."""

    name: Contender
    num_trained: int
    steps_per_s: float
    speed_ratio: float
    speed_ratio_low: float
    speed_ratio_high: float
    memory: MemoryUse


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainBenchReport:
    case: TrainCase
    num_rounds: int
    num_base_params: int
    rows: tuple[TrainRow, ...]

    def added_ratio(self, row: TrainRow) -> float:
        """Memory beside the base, against the reference's."""
        return row.memory.added / self._reference.memory.added

    def peak_ratio(self, row: TrainRow) -> float:
        return row.memory.peak / self._reference.memory.peak

    @property
    def _reference(self) -> TrainRow:
        return next(row for row in self.rows if row.name == REFERENCE)


def as_json(report: TrainBenchReport) -> dict[str, Any]:
    """One object, complete in itself, without a path of the machine."""
    case = asdict(report.case) | {"model_dir": report.case.model_dir.name if report.case.model_dir else None}
    return {
        "machine": _machine(),
        "case": case,
        "num_rounds": report.num_rounds,
        "num_base_params": report.num_base_params,
        "reference": REFERENCE,
        "contenders": [
            asdict(row)
            | {
                "memory": {"base": row.memory.base, "peak": row.memory.peak, "added": row.memory.added},
                "added_ratio": report.added_ratio(row),
                "peak_ratio": report.peak_ratio(row),
            }
            for row in report.rows
        ],
    }


def as_table(report: TrainBenchReport) -> str:
    case = report.case
    base = case.model_dir.name if case.model_dir else "random Llama"
    lines = [
        ", ".join(f"{key} {value}" for key, value in _machine().items()),
        f"{base} ({report.num_base_params / 1e6:.0f} M parameters), {case.precision} on {case.device}, "
        f"{case.threads} thread{'s' if case.threads > 1 else ''}, batch {case.batch_size} × {case.sequence_length} "
        f"tokens, rank {case.rank}, {report.num_rounds} rounds, seed {case.seed}",
        f"  {'':<34}{'trained':>10}{'steps/s':>9}{'/LoRA':>7}{'quartiles':>13}"
        f"{'peak MB':>9}{'/LoRA':>7}{'beside base':>13}{'/LoRA':>7}",
    ]
    for row in report.rows:
        quartiles = f"{row.speed_ratio_low:.2f}–{row.speed_ratio_high:.2f}"
        lines.append(
            f"  {row.name:<34}{row.num_trained:>10,}{row.steps_per_s:>9.3f}{row.speed_ratio:>7.2f}{quartiles:>13}"
            f"{row.memory.peak / 1e6:>9.0f}{report.peak_ratio(row):>7.2f}"
            f"{row.memory.added / 1e6:>13.0f}{report.added_ratio(row):>7.2f}"
        )
    return "\n".join(lines)


def _machine() -> dict[str, Any]:
    return machine() | {"transformers": importlib.metadata.version("transformers")}
