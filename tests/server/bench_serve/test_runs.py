"""The whole of it: real servers over a tiny model, adapters uploaded, loads run, transformers and PEFT beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest

from adapters_store.base import describe_checkpoint
from adapters_store.format.native import check_against_base
from adapters_store.tools.checkpoint import load_tokenizer
from loadtest.tiny_model import save_tiny_model
from server.bench_serve.custom import custom
from server.bench_serve.models import one_token_words, random_model
from server.bench_serve.offline import Job, make_baseline, run_batches
from server.bench_serve.options import BenchOptions
from server.bench_serve.random_adapters import save_lora_adapters, sparse_adapter
from server.bench_serve.run import run
from server.bench_serve.subjects import OfflineMethod
from server.bench_serve.workload import Lengths, WorkloadSpec, draw


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


def test_words_are_one_token_each_however_many_follow_each_other(model_dir: Path) -> None:
    tokenizer = load_tokenizer(model_dir)
    words = one_token_words(tokenizer)
    assert words
    assert len(tokenizer("".join([*words, *words]))["input_ids"]) == 2 * len(words)


def test_a_random_adapter_fits_its_base_is_its_seeds_and_touches_the_share_asked_for(model_dir: Path) -> None:
    base = describe_checkpoint(model_dir)
    adapter = sparse_adapter(base, sparsity=0.1, seed=3)
    check_against_base(adapter.index_set.table, base)
    num_weights = sum(entry.numel for entry in adapter.index_set.table)
    assert len(adapter.index_set.table) == 2 * 7
    assert adapter.index_set.num_entries / num_weights == pytest.approx(0.1, rel=0.1)
    assert sparse_adapter(base, sparsity=0.1, seed=3).version == adapter.version
    assert sparse_adapter(base, sparsity=0.1, seed=4).index_set.digest != adapter.index_set.digest


def test_a_random_model_is_made_once_and_knows_its_tokenizers_words(model_dir: Path, tmp_path: Path) -> None:
    path = random_model(1_000_000, seed=0, tokenizer_of=model_dir, work_dir=tmp_path)
    written = (path / "model.safetensors").stat()
    assert json.loads((path / "config.json").read_text())["vocab_size"] == len(load_tokenizer(model_dir))
    assert random_model(1_000_000, seed=0, tokenizer_of=model_dir, work_dir=tmp_path) == path
    assert (path / "model.safetensors").stat() == written


@pytest.mark.parametrize("method", get_args(OfflineMethod))
def test_every_baseline_answers_batches_with_and_without_adapters(
    method: OfflineMethod, model_dir: Path, tmp_path: Path
) -> None:
    loras = save_lora_adapters(model_dir, tmp_path, count=2) if method in ("adapter-names", "merge") else []
    job = Job(method=method, model_dir=str(model_dir), lora_dirs=[str(path) for path in loras], threads=1)
    spec = WorkloadSpec(
        num_requests=5,
        concurrency=3,
        num_adapters=2,
        base_share=0.3,
        prompt_tokens=Lengths(low=2, high=8),
        new_tokens=Lengths(low=1, high=6),
    )
    arrivals = draw(spec, seed=1, words=one_token_words(load_tokenizer(model_dir)))
    assert {arrival.adapter for arrival in arrivals} == {None, "bench-0", "bench-1"}
    spent = run_batches(make_baseline(job), arrivals, batch=3)
    assert spent["wall_s"] > 0
    if method == "merge":
        assert 2 <= spent["num_switches"] <= 4
        assert spent["switch_s"] < spent["wall_s"]
    else:
        assert spent["num_decoded"] == sum(arrival.num_new_tokens - 1 for arrival in arrivals)
        assert spent["decode_s"] < spent["wall_s"]


@pytest.mark.slow
def test_adapters_the_base_and_a_baseline_are_measured_side_by_side(model_dir: Path, tmp_path: Path) -> None:
    workload = WorkloadSpec(
        num_requests=12,
        concurrency=3,
        num_adapters=3,
        base_share=0.3,
        prompt_tokens=Lengths(low=2, high=8),
        new_tokens=Lengths(low=2, high=6),
        key_shares=(0.5, 0.5),
    )
    options = BenchOptions(
        plans=(custom(workload, num_held=4, room_for=2, baselines=("merge",)),),
        model_dir=model_dir,
        work_dir=tmp_path / "work",
        num_rounds=2,
        threads=1,
        server_options={"max_batch": "2"},
        json_file=tmp_path / "out.json",
        plot_file=tmp_path / "out.png",
        report_file=tmp_path / "out.md",
    )
    (result,) = run(options)
    many, base, merged = result.cells
    assert all(cell.figures["tokens_per_s"] > 0 for cell in result.cells)
    assert many.figures["num_answered"] == base.figures["num_answered"] == 12
    assert many.figures["num_failed"] == 0
    assert sum(many.mode_shares.values()) == pytest.approx(1)
    assert set(many.rounds[0].tokens_per_s_of_key) == {0, 1}
    assert set(many.rounds[0].worst_wait_ms) > {"base"}
    assert many.counters["shira_tokens_total{kind=completion}"] == base.counters["shira_tokens_total{kind=completion}"]
    assert base.mode_shares == {"fused": 1.0}
    assert not [name for name in base.counters if name.startswith("shira_switches_total")]
    assert merged.counters["num_switches"] > 0
    rows = json.loads((tmp_path / "out.json").read_text())
    assert [row["kind"] for row in rows] == ["cell"] * 3 + ["target"] * 2
    assert (tmp_path / "out.md").read_text().count("\n| ") == 5
    assert (tmp_path / "out.png").stat().st_size > 1000
    assert not list((tmp_path / "work").glob("shira-bench-*"))  # data directories are gone
