"""What is run and what must come out: cells, and targets that compare two of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from server.bench_serve.subjects import Subject
from server.bench_serve.workload import WorkloadSpec

Figure = Literal["tokens_per_s", "ttft_ms_p99", "gap_ms_p99", "worst_wait_steps", "decode_tokens_per_s"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One subject under one workload."""

    subject: Subject
    workload: WorkloadSpec

    def __str__(self) -> str:
        return f"{self.subject} · {self.workload}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """``figure`` of ``cell`` over that of ``against`` (None: the figure itself) is at least, or at most, ``bound``.

    ``bound`` None reports the ratio and asks nothing of it."""

    says: str
    cell: Cell
    against: Cell | None
    figure: Figure = "tokens_per_s"
    bound: float | None = None
    is_ceiling: bool = False

    def is_met_by(self, value: float) -> bool | None:
        if self.bound is None:
            return None
        return value <= self.bound if self.is_ceiling else value >= self.bound


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """``cells`` in the order in which they take turns."""

    name: str
    cells: tuple[Cell, ...]
    targets: tuple[Target, ...]
