from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from adapters_store.kernels import get_kernels
from adapters_store.tools import bench_switch, bench_timing
from adapters_store.tools.bench_contenders import EXCHANGE, FLOOR, IDEAL, floor_cycle, our_cycles
from adapters_store.tools.bench_load import FIRST_LOAD, NEXT_LOAD, time_loads
from adapters_store.tools.bench_stack import CACHE_LINE_BYTES, Case, first_of_lines, random_positions, square_weights
from adapters_store.tools.bench_switch import main

needs_native = pytest.mark.skipif(get_kernels().name == "reference", reason="the C extension is not built")


@pytest.fixture(autouse=True)
def small_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (bench_switch, bench_timing):
        monkeypatch.setattr(module, "last_level_cache_bytes", lambda: 1 << 17)


def small_case(dtype: torch.dtype = torch.bfloat16) -> Case:
    return Case(title="small", weights=square_weights(300, dtype, total_bytes=1 << 19), sparsity=0.01, seed=3)


def test_random_positions_are_ascending_unique_inside_and_as_many_as_asked() -> None:
    flat = random_positions(1_000_000, 0.02, torch.Generator().manual_seed(1))
    assert bool((flat.diff() > 0).all())
    assert 0 <= int(flat[0]) <= int(flat[-1]) < 1_000_000
    assert abs(flat.numel() - 20_000) < 1_000
    assert random_positions(3, 1e-6, torch.Generator().manual_seed(1)).numel() == 1


def test_the_floor_touches_each_cache_line_of_the_adapter_once() -> None:
    flat = random_positions(100_000, 0.03, torch.Generator().manual_seed(1))
    lines = first_of_lines(flat, item_size=2)
    assert set((lines * 2 // CACHE_LINE_BYTES).tolist()) == set((flat * 2 // CACHE_LINE_BYTES).tolist())
    assert bool((lines.diff() > 0).all())


@needs_native
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_our_cycles_and_the_floor_leave_the_weights_as_they_were(dtype: torch.dtype) -> None:
    case = small_case(dtype)
    before = {name: weight.clone() for name, weight in case.weights.items()}
    for cycle in [*our_cycles(case, get_kernels()), floor_cycle(case, get_kernels())]:
        for step in cycle.steps:
            step.run()
        assert all(torch.equal(before[name], weight) for name, weight in case.weights.items())


@pytest.mark.slow  # importing peft takes seconds
@needs_native
def test_a_run_writes_every_row_complete_with_peft_last(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("peft")
    pytest.importorskip("matplotlib")
    table, plot = tmp_path / "rows.jsonl", tmp_path / "rows.png"
    arguments = (
        "--sizes 96 --dtypes bfloat16 float32 --sparsities 0.01 --threads 1 --stack-params 0 --repeats 1 --seed 7"
    )

    assert main([*arguments.split(), "--json", str(table), "--plot", str(plot)]) == 0

    rows = [json.loads(line) for line in table.read_text().splitlines()]
    group = [row for row in rows if row["dtype"] == "float32"]
    whats = [row["what"] for row in group]
    assert whats[0] == EXCHANGE
    assert [what.startswith("PEFT") for what in whats] == sorted(what.startswith("PEFT") for what in whats)
    assert {"PEFT LoRA r64 merge", "PEFT LoRA r64 unmerge", "PEFT SHiRA merge", IDEAL, FLOOR} <= set(whats)
    for row in rows:
        assert row["seed"] == 7
        assert row["machine"]["torch"] == torch.__version__
        assert {"ratio_to_exchange", "ratio_to_floor", "ratio_to_ideal", "median_ms"} <= set(row)
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "n = 96 · float32" in capsys.readouterr().out


def test_loads_are_timed_verified_and_not() -> None:
    timings = time_loads(small_case(), num_repeats=2)
    assert [timing.label for timing in timings] == [FIRST_LOAD, NEXT_LOAD]
    assert all(timing.min_s > 0 for timing in timings)


@pytest.mark.parametrize("arguments", ["--sizes 0", "--sparsities 1.5", "--dtypes int8", "--plot /no/such/place.png"])
def test_a_wrong_option_is_a_usage_error(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments.split())
    assert stopped.value.code == 2
    assert "error:" in capsys.readouterr().err
