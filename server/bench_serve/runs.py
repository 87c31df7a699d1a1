"""Runs a plan: starts its subjects, lets its cells take turns, round by round, and stops everybody."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, assert_never

from tqdm import tqdm

from server.bench_serve.measures import Measured, mean_shares, median_over_rounds, sum_counters
from server.bench_serve.offline import RunningOffline
from server.bench_serve.plan import Cell, Plan, Target
from server.bench_serve.shira_server import RunningShira
from server.bench_serve.subjects import Offline, Running, ShiraServer, Subject, Surroundings, VllmServer
from server.bench_serve.vllm_server import RunningVllm
from server.bench_serve.workload import Lengths, draw

WARM_UP_SEED = 2**31
WARM_UP_TOKENS = Lengths(low=8, high=8)


@dataclass(frozen=True, slots=True, kw_only=True)
class CellResult:
    """``figures`` are medians over ``rounds``, ``mode_shares`` means, ``counters`` sums."""

    cell: Cell
    rounds: tuple[Measured, ...]
    figures: dict[str, float]
    mode_shares: dict[str, float]
    counters: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """``value`` is a ratio of medians, or a median where the target compares with nothing; NaN where a cell has no such
    figure. ``is_met`` None: nothing was asked of it."""

    target: Target
    value: float
    is_met: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanResult:
    plan: Plan
    cells: tuple[CellResult, ...]
    verdicts: tuple[Verdict, ...]


def run_plan(plan: Plan, around: Surroundings, words: Sequence[str], *, num_rounds: int, seed: int) -> PlanResult:
    """All subjects are up all the time; the order of the cells is reversed every other round. Every round draws new
    requests, the same for all cells of one workload: nothing may be remembered from the last round.

    Raises ServerFailed, WrongAnswer."""
    measured: dict[Cell, list[Measured]] = {cell: [] for cell in plan.cells}
    with ExitStack() as stack:
        running = {subject: _started(subject, around, stack) for subject in _subjects(plan)}

        def run(cell: Cell, seed: int) -> Measured:
            arrivals = draw(cell.workload, seed=seed, words=words)
            return running[cell.subject].run(arrivals, concurrency=cell.workload.concurrency)

        for cell in tqdm(plan.cells, desc=f"{plan.name}: warm-up", disable=None):
            run(_warm_up(cell), WARM_UP_SEED + seed)
        turns = [(number, cell) for number in range(num_rounds) for cell in plan.cells[:: -1 if number % 2 else 1]]
        for number, cell in tqdm(turns, desc=f"{plan.name}: rounds", disable=None):
            measured[cell].append(run(cell, seed * num_rounds + number))
    return results_of(plan, measured)


def results_of(plan: Plan, rounds: Mapping[Cell, Sequence[Measured]]) -> PlanResult:
    """Cells in the plan's order."""
    results = tuple(_result(cell, rounds[cell]) for cell in plan.cells)
    return PlanResult(plan=plan, cells=results, verdicts=tuple(_verdicts(plan, results)))


def start(subject: Subject, around: Surroundings) -> Running:
    match subject:
        case ShiraServer():
            return RunningShira(subject, around)
        case VllmServer():
            return RunningVllm(subject, around)
        case Offline():
            return RunningOffline(subject, around)
        case _:
            assert_never(subject)


def _started(subject: Subject, around: Surroundings, stack: ExitStack) -> Running:
    running = start(subject, around)
    stack.callback(running.stop)
    return running


def _subjects(plan: Plan) -> list[Subject]:
    return list(dict.fromkeys(cell.subject for cell in plan.cells))


def _warm_up(cell: Cell) -> Cell:
    """A short answer of every adapter, as many at once as the workload has clients."""
    spec = cell.workload
    num_requests = max(spec.concurrency or 8, spec.num_adapters)
    spec = replace(spec, num_requests=num_requests, popularity="round-robin", base_share=0.0, new_tokens=WARM_UP_TOKENS)
    return replace(cell, workload=spec)


def _result(cell: Cell, rounds: Sequence[Measured]) -> CellResult:
    return CellResult(
        cell=cell,
        rounds=tuple(rounds),
        figures=median_over_rounds(rounds),
        mode_shares=mean_shares(rounds),
        counters=sum_counters(rounds),
    )


def _verdicts(plan: Plan, results: Sequence[CellResult]) -> Iterator[Verdict]:
    figures: dict[Any, dict[str, float]] = {result.cell: result.figures for result in results}
    for target in plan.targets:
        value = figures[target.cell].get(target.figure, float("nan"))
        if target.against is not None:
            value /= figures[target.against].get(target.figure, float("nan"))
        yield Verdict(target=target, value=value, is_met=target.is_met_by(value))
