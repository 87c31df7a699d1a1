from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import ShiraConfig, get_peft_model
from torch import Tensor, nn
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from adapters_store.base import describe_checkpoint
from adapters_store.errors import BaseUnreadable, TrainingRefused
from adapters_store.format import read_adapter, unpack_positions
from adapters_store.tools.checkpoint import target_weights
from adapters_store.tools.data import load_examples, split_held_out
from adapters_store.tools.fit import fit
from adapters_store.tools.train import TrainOptions, train
from tests.adapters_store.tools.conftest import ALPHABET, HIDDEN


@pytest.fixture
def options(model_dir: Path, tmp_path: Path) -> TrainOptions:
    text = tmp_path / "text.txt"
    text.write_text("abc def gh " * 200)
    return TrainOptions(
        model_dir=model_dir,
        data=text,
        output=tmp_path / "adapter.safetensors",
        sparsity=2 / HIDDEN,
        learning_rate=1e-2,
        max_steps=5,
        batch_size=4,
        sequence_length=16,
    )


@pytest.mark.parametrize("mask", ["wm", "rand", "grad", "snip"])
def test_training_writes_an_adapter_of_this_base_that_lowers_the_held_out_loss(
    options: TrainOptions, mask: Any
) -> None:
    report = train(replace(options, mask=mask, max_steps=30))
    base = describe_checkpoint(options.model_dir)
    upload = read_adapter(options.output, base=base)
    assert upload.base_verified
    assert (upload.adapter.version, upload.adapter.base) == (report.version, base.fingerprint)
    assert report.num_weights == 2 * 5
    assert report.num_entries == upload.adapter.index_set.num_entries == 10 * 2 * HIDDEN
    assert report.num_steps == 30
    assert report.held_out_loss_after < report.held_out_loss_before - 0.1


def test_the_card_tells_how_it_was_made_and_nothing_of_the_machine(options: TrainOptions) -> None:
    report = train(options)
    card = read_adapter(options.output, base=None).card
    assert card is not None
    assert card["data_digest"] == report.data_digest
    assert (card["mask"], card["seed"], card["steps"]) == ("wm", 0, 5)
    assert card["held_out_loss_after"] == round(report.held_out_loss_after, 4)
    assert str(options.data.parent) not in json.dumps(card)


def test_the_same_options_give_the_same_version(options: TrainOptions) -> None:
    assert train(options).version == train(replace(options, output=options.output.with_name("again"))).version


@pytest.mark.parametrize(
    ("output", "loss_curve"), [("a.safetensors", "a.loss.png"), ("a-0.01", "a-0.01.loss.png"), ("a", "a.loss.png")]
)
def test_every_adapter_has_a_loss_curve_of_its_own_name(options: TrainOptions, output: str, loss_curve: str) -> None:
    report = train(replace(options, output=options.output.with_name(output), max_steps=1))
    assert report.loss_curve == options.output.with_name(loss_curve)
    assert report.loss_curve.read_bytes().startswith(b"\x89PNG")


def test_wm_adapters_of_one_base_share_one_index_set(options: TrainOptions) -> None:
    train(replace(options, seed=1))
    first = read_adapter(options.output, base=None).adapter
    train(replace(options, seed=2))
    second = read_adapter(options.output, base=None).adapter
    assert first.index_set.digest == second.index_set.digest
    assert first.version != second.version


def test_values_can_be_stored_in_bf16_under_bf16_arithmetic(options: TrainOptions) -> None:
    train(replace(options, values_dtype="bfloat16", precision="bfloat16"))
    assert read_adapter(options.output, base=None).adapter.values.dtype == torch.bfloat16


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # asked for by PEFT
def test_trained_values_agree_with_peft_on_the_same_mask_data_and_seed(options: TrainOptions) -> None:
    options = replace(options, mask="rand", seed=3)
    train(options)
    ours = read_adapter(options.output, base=None).adapter
    positions = {entry.name: flat for entry, flat in unpack_positions(ours.index_set)}
    model = LlamaForCausalLM.from_pretrained(options.model_dir, dtype=torch.float32)
    names = {module: f"{name}.weight" for name, module in model.named_modules()}

    def mask_of(base_layer: nn.Linear, r: int, **_: object) -> Tensor:
        mask = torch.zeros(base_layer.weight.numel())
        mask[positions[names[base_layer]]] = 1
        return mask.view_as(base_layer.weight)

    config = ShiraConfig(r=1, target_modules=list(options.targets))
    config.mask_fn = mask_of
    peft_model = get_peft_model(model, config)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(options.model_dir)
    training, _ = split_held_out(load_examples(options.data, tokenizer, sequence_length=16), options.held_out)
    with torch.sparse.check_sparse_tensor_invariants():  # type: ignore[no-untyped-call]
        fit(peft_model, training, options)
    layers = {names[layer.base_layer]: layer for layer in peft_model.modules() if hasattr(layer, "shira_weight")}
    theirs = torch.cat([layers[name].shira_weight["default"].detach() for name in positions])
    assert theirs.abs().max() > 1e-2
    torch.testing.assert_close(ours.values, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": Path("nowhere.txt")}, "data: expected a readable file, got nowhere.txt: No such file"),
        ({"targets": ("q_proj", "w_proj")}, r"targets: .*q_proj.*got 'w_proj'"),
        ({"targets": ("embed_tokens",)}, "targets: .*nn.Linear or nn.Conv2d, got Embedding"),
        ({"targets": ()}, "targets: expected at least one"),
        ({"model_dir": Path("nowhere")}, "model: expected a directory"),
        ({"output": Path("nowhere/adapter")}, "output: expected a file in a directory that exists"),
        ({"sparsity": 0.0}, "sparsity"),
        ({"mask": "best"}, "mask: expected one of struct, rand, wm, grad, snip, got 'best'"),
        ({"values_dtype": "int8"}, "values_dtype: expected one of bfloat16, float16, float32, got 'int8'"),
        ({"precision": "float16"}, "precision: expected one of float32, bfloat16"),
        ({"device": "tpu"}, "device: expected one of cpu, cuda"),
        ({"seed": -1}, "seed"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"max_steps": 0}, "max_steps"),
        ({"held_out": 1.0}, "held_out"),
        ({"sequence_length": 1}, "sequence_length"),
        ({"sequence_length": 2000}, "data: expected two examples or more, one of them held out, got 1"),
    ],
)
def test_what_cannot_be_trained_is_refused_by_name_and_leaves_no_file(
    options: TrainOptions, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(TrainingRefused, match=message):
        train(replace(options, **change))
    assert [path.name for path in options.data.parent.iterdir()] == ["text.txt"]


def test_without_accelerate_it_says_what_to_install(options: TrainOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(TrainingRefused, match=r"shira-server\[train\]"):
        train(options)


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "some text"), (b" \n\t", "some text"), (b"abc \xff def", "UTF-8, got .* byte 4")]
)
def test_a_text_that_is_none_is_refused(options: TrainOptions, content: bytes, message: str) -> None:
    options.data.write_bytes(content)
    with pytest.raises(TrainingRefused, match=message):
        train(options)


def test_a_folder_without_safetensors_is_refused(options: TrainOptions, tmp_path: Path) -> None:
    with pytest.raises(BaseUnreadable):
        train(replace(options, model_dir=tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 1e36}, "converges, got values that are not finite"),
        ({"learning_rate": 1e30, "max_steps": 1}, "converges, got a held-out loss of"),
        ({"learning_rate": 1e5, "max_steps": 1, "values_dtype": "float16"}, "values_dtype: .* got float16 for 100000"),
    ],
)
def test_training_that_diverges_leaves_no_half_written_adapter_and_keeps_an_older_one(
    options: TrainOptions, changes: dict[str, Any], message: str
) -> None:
    options.output.write_bytes(b"an older adapter")
    with pytest.raises(TrainingRefused, match=message):
        train(replace(options, **changes))
    assert options.output.read_bytes() == b"an older adapter"
    assert len(list(options.output.parent.iterdir())) == 2


def test_the_output_cannot_be_the_data_nor_a_file_of_the_base(options: TrainOptions, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(options.data)
    model_dir = tmp_path / "of links, as hub snapshots are"
    model_dir.mkdir()
    for file in options.model_dir.iterdir():
        (model_dir / file.name).symlink_to(file)
    for path in (options.data, link, model_dir / "model.safetensors", model_dir / "config.json"):
        before = path.read_bytes()
        with pytest.raises(TrainingRefused, match="output: expected another file than what is read"):
            train(replace(options, model_dir=model_dir, output=path))
        assert path.read_bytes() == before


def test_a_base_that_has_no_finite_loss_is_refused_before_training(options: TrainOptions, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(options.model_dir, folder)
    model = LlamaForCausalLM.from_pretrained(folder)
    model.lm_head.weight.data.fill_(torch.nan)
    model.save_pretrained(folder)
    with pytest.raises(TrainingRefused, match="model: expected a base with a finite loss"):
        train(replace(options, model_dir=folder))
    assert not options.progress_dir.exists()


def test_a_target_is_a_whole_module_name_or_its_last_parts(model_dir: Path) -> None:
    base = describe_checkpoint(model_dir)
    assert target_weights(base, ("layers.1.self_attn.q_proj",)) == ["model.layers.1.self_attn.q_proj.weight"]
    with pytest.raises(TrainingRefused):
        target_weights(base, ("proj",))


def test_held_out_sequences_are_spread_over_the_text_and_never_trained_on(options: TrainOptions) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(options.model_dir)
    letters = "".join(ALPHABET[number % 8] * 4 for number in range(40))
    options.data.write_text(letters)
    training, held_out = split_held_out(load_examples(options.data, tokenizer, sequence_length=4), 0.1)
    assert (len(training), len(held_out)) == (36, 4)
    assert held_out.input_ids[:, 0].tolist() == [5 % 8, 15 % 8, 25 % 8, 35 % 8]
