from __future__ import annotations

import json
from pathlib import Path

import pytest

from server.bench_serve.measures import Measured
from server.bench_serve.plan import Cell, Plan, Target
from server.bench_serve.plot import draw
from server.bench_serve.presets import PRESETS, Scale
from server.bench_serve.report import Conditions, as_json, as_markdown, as_table
from server.bench_serve.runs import PlanResult, results_of
from server.bench_serve.subjects import Offline, ShiraServer, VllmServer
from server.bench_serve.vllm_server import CAVEAT
from server.bench_serve.workload import Lengths, WorkloadSpec

WORKLOAD = WorkloadSpec(num_requests=8, concurrency=4, num_adapters=2)
OURS = Cell(subject=ShiraServer(num_adapters=2), workload=WORKLOAD)
VLLM = Cell(subject=VllmServer(num_adapters=2), workload=WORKLOAD)
PADDED = Cell(subject=Offline(method="generate"), workload=WORKLOAD)
CONDITIONS = Conditions(
    model="tiny", num_rounds=3, seed=7, sparsity=0.01, server_options={"max_batch": "4"}, machine={"cpu": "a cpu"}
)


def measured(tokens_per_s: float, ttft_ms_p99: float = 100.0) -> Measured:
    return Measured(
        figures={"tokens_per_s": tokens_per_s, "ttft_ms_p99": ttft_ms_p99, "num_refusals": 1, "worst_wait_steps": 40.0},
        worst_wait_ms={"base": 40.0},
        tokens_per_s_of_key={0: tokens_per_s},
        mode_shares={"fused": 0.25, "mixed": 0.75},
        failures={"504 deadline": 1},
        counters={"shira_switches_total{kind=fuse}": 2.0},
    )


def result(*targets: Target) -> PlanResult:
    plan = Plan(name="plan", cells=(OURS, VLLM, PADDED), targets=targets)
    rounds = {
        OURS: [measured(rate) for rate in (10, 30, 1000)],
        VLLM: [measured(rate) for rate in (20, 20, 1)],
        PADDED: [measured(15)] * 3,
    }
    return results_of(plan, rounds)


def test_a_ratio_is_that_of_the_medians_over_the_rounds() -> None:
    (verdict,) = result(Target(says="", cell=OURS, against=PADDED)).verdicts
    assert verdict.value == 30 / 15
    assert verdict.is_met is None


@pytest.mark.parametrize(
    ("bound", "is_ceiling", "told"),
    [(1.5, False, ": met"), (2.5, False, ": MISSED"), (2.5, True, ": met"), (1.5, True, ": MISSED"), (None, False, "")],
)
def test_a_target_is_met_or_missed(bound: float | None, is_ceiling: bool, told: str) -> None:
    target = Target(says="ours", cell=OURS, against=PADDED, bound=bound, is_ceiling=is_ceiling)
    line = as_table(result(target)).splitlines()[-1]
    assert line.startswith("  ours: 2.00")
    assert line.endswith(told)
    assert ("met" in line.lower() or "missed" in line.lower()) == bool(told)


def test_a_target_without_a_rival_is_the_figure_itself() -> None:
    target = Target(says="wait", cell=OURS, against=None, figure="worst_wait_steps", bound=50, is_ceiling=True)
    assert "wait: 40 (target ≤ 50): met" in as_table(result(target))


def test_a_figure_that_was_not_measured_meets_nothing() -> None:
    absent = Target(says="x", cell=OURS, against=PADDED, figure="gap_ms_p99", bound=0.1)
    (verdict,) = result(absent).verdicts
    assert verdict.is_met is False
    assert as_json([result(absent)], CONDITIONS)[-1]["value"] is None


def test_every_ratio_to_vllm_stands_beside_its_caveat() -> None:
    both = result(Target(says="one", cell=OURS, against=VLLM), Target(says="two", cell=OURS, against=PADDED))
    for text in (as_table(both), as_markdown([both], CONDITIONS)):
        told = {
            line.split(":")[0].strip("- "): CAVEAT in line
            for line in text.splitlines()
            if ": 1.50" in line or ": 2.00" in line
        }
        assert told == {"one": True, "two": False}
    rows = [row for row in as_json([both], CONDITIONS) if row["kind"] == "target"]
    assert [row.get("caveat") for row in rows] == [CAVEAT, None]


def test_the_table_tells_modes_switches_and_troubles() -> None:
    (line,) = [line for line in as_table(result()).splitlines() if line.startswith("shira")]
    assert "fused 25% mixed 75%" in line
    assert "fuse 6" in line
    assert "refused × 3, 504 deadline × 3" in line


def test_every_row_is_complete_in_itself() -> None:
    rows = as_json([result(Target(says="", cell=OURS, against=PADDED))], CONDITIONS)
    assert [row["kind"] for row in rows] == ["cell"] * 3 + ["target"]
    for row in json.loads(json.dumps(rows)):
        assert (row["seed"], row["machine"], row["model"], row["num_rounds"]) == (7, {"cpu": "a cpu"}, "tiny", 3)
        assert row["server_options"] == {"max_batch": "4"}


def test_the_picture_is_a_png(tmp_path: Path) -> None:
    draw([result()], tmp_path / "out.png")
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", list(PRESETS))
def test_the_targets_of_a_preset_compare_cells_that_it_runs_and_each_runs_once(name: str) -> None:
    lengths = Lengths(low=4, high=4)
    plan = PRESETS[name](Scale(prompt_tokens=lengths, new_tokens=lengths))
    assert plan.name == name
    assert len(set(plan.cells)) == len(plan.cells)
    for target in plan.targets:
        assert {target.cell, target.against} <= {*plan.cells, None}
    assert PRESETS[name].__doc__
