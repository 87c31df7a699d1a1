from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from adapters_store.errors import TrainingRefused
from adapters_store.tools import bench_train_contenders
from adapters_store.tools.bench_train import run, same_weights, time_steps
from adapters_store.tools.bench_train_contenders import (
    REFERENCE,
    Contender,
    TrainCase,
    attach,
    choose_entries,
    contenders,
    load_base,
    random_llama,
)
from adapters_store.tools.bench_train_memory import measure_memory
from adapters_store.tools.bench_train_step import TrainStep, draw_batches
from adapters_store.tools.train_options import Precision

RANK = 2
OURS: tuple[Contender, ...] = ("SHiRA", "SHiRA, dense gradient then gather")


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny-llama")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def case(model_dir: Path) -> TrainCase:
    return TrainCase(model_dir=model_dir, rank=RANK, batch_size=2, sequence_length=8, precision="float32")


@pytest.mark.parametrize("precision", get_args(Precision))
def test_every_contender_trains_as_many_parameters(case: TrainCase, precision: Precision) -> None:
    case = replace(case, precision=precision)
    shapes = [(64, 64), (32, 64), (32, 64), (128, 64), (64, 128)] * 2
    times = time_steps(case, num_rounds=1)
    assert set(times.num_trained) == set(contenders(case))
    assert set(times.num_trained.values()) == {RANK * sum(map(sum, shapes))}


def test_the_sampled_product_and_the_gathered_dense_gradient_and_peft_agree(case: TrainCase) -> None:
    base = load_base(case)
    index_set = choose_entries(case, base)
    (batch,) = draw_batches(case, base, 1)
    gradients = {}
    for name in (*OURS, "PEFT SHiRA"):
        trainee = attach(name, case, copy.deepcopy(base), index_set)
        trainee(input_ids=batch, labels=batch).loss.backward()
        found = [p.grad for p in trainee.parameters() if p.requires_grad]
        assert all(gradient is not None for gradient in found)
        gradients[name] = torch.cat([gradient for gradient in found if gradient is not None])
    for other in OURS[1], "PEFT SHiRA":
        assert gradients["SHiRA"].abs().max() > 1e-4
        torch.testing.assert_close(gradients[other], gradients["SHiRA"])


@pytest.mark.parametrize("name", get_args(Contender))
def test_a_step_moves_what_is_trained_alone_and_leaves_no_gradient(case: TrainCase, name: Contender) -> None:
    case = replace(case, precision="bfloat16")
    base = load_base(case)
    trainee = attach(name, case, copy.deepcopy(base), choose_entries(case, base))
    before = {key: parameter.detach().clone() for key, parameter in trainee.named_parameters()}
    step = TrainStep(case, trainee)
    for batch in draw_batches(case, base, 2):
        assert step(batch) > 0
    for key, parameter in trainee.named_parameters():
        assert parameter.grad is None
        is_written = name in OURS and key.endswith("linear.weight")  # holds the base and what was learnt
        if not is_written:
            assert torch.equal(parameter, before[key]) != parameter.requires_grad, key


def test_the_contenders_of_a_timing_share_one_base(case: TrainCase) -> None:
    base = load_base(case)
    trainee = attach("PEFT LoRA", case, same_weights(base), choose_entries(case, base))
    frozen = {parameter.data_ptr() for parameter in trainee.parameters() if not parameter.requires_grad}
    assert frozen == {parameter.data_ptr() for parameter in base.parameters()}


def test_a_timing_leaves_the_number_of_threads_as_it_was(case: TrainCase) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        time_steps(replace(case, threads=threads), num_rounds=1)
        assert torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)


def test_a_random_llama_has_about_the_size_that_was_asked_for() -> None:
    for wanted in (4_000_000, 20_000_000):
        model = random_llama(wanted, dtype=torch.bfloat16, seed=0)
        found = sum(parameter.numel() for parameter in model.parameters())
        assert abs(found / wanted - 1) < 0.5
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


@pytest.mark.slow  # starts a process for each contender
def test_a_run_tells_time_and_memory_of_every_contender_beside_lora(
    case: TrainCase, capsys: pytest.CaptureFixture[str]
) -> None:
    report = run(case, num_rounds=3, is_json=True)
    told = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in told["contenders"]] == contenders(case)
    assert (told["case"]["model_dir"], told["case"]["rank"]) == (case.model_dir and case.model_dir.name, RANK)
    assert {"cpu", "torch", "peft", "transformers"} <= set(told["machine"])
    for row in told["contenders"]:
        assert row["speed_ratio_low"] <= row["speed_ratio"] <= row["speed_ratio_high"]
        assert row["memory"]["added"] == row["memory"]["peak"] - row["memory"]["base"] > 0
        if row["name"] == REFERENCE:
            assert row["speed_ratio"] == row["added_ratio"] == row["peak_ratio"] == 1
    assert report.num_base_params == sum(parameter.numel() for parameter in load_base(case).parameters())


@pytest.mark.slow  # starts processes
def test_the_memory_of_a_fresh_process_holds_the_activations_and_repeats(model_dir: Path) -> None:
    case = TrainCase(model_dir=model_dir, batch_size=64, sequence_length=256, precision="float32")
    logits = case.batch_size * case.sequence_length * 32 * 4
    hidden = case.batch_size * case.sequence_length * 64 * 4
    first, second = (measure_memory(case, "SHiRA").added for _ in range(2))
    assert first > logits + 2 * 5 * hidden
    assert abs(first - second) < 0.1 * first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"random_params": 4_000_000}, "model: expected a directory or a number"),
        ({"model_dir": None}, "model: expected a directory or a number"),
        ({"device": "cuda"}, "device: expected cpu"),
        ({"targets": ("w_proj",)}, "targets: .*none of the model's weights"),
        ({"rank": 1000}, "targets: expected weights that can carry the mask, got .*entries"),
        ({"model_dir": Path("nowhere")}, "model: expected a directory with a checkpoint"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="one of them is that there is no CUDA device")
def test_what_cannot_be_measured_is_refused_by_name(case: TrainCase, change: dict[str, object], message: str) -> None:
    with pytest.raises(TrainingRefused, match=message):
        run(replace(case, **change), num_rounds=1)  # type: ignore[arg-type]


def test_without_peft_it_says_what_to_install(case: TrainCase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_train_contenders, "find_spec", lambda _: None)
    with pytest.raises(TrainingRefused, match=r"shira-server\[bench\]"):
        replace(case)
