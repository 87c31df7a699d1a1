"""Families of causal language models that name and lay out their linear layers in different ways."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from adapters_store.base import describe_checkpoint
from adapters_store.errors import TrainingRefused
from adapters_store.format import read_adapter
from adapters_store.tools.train import TrainOptions, train
from tests.adapters_store.tools.conftest import ALPHABET

VOCABULARY = len(ALPHABET) + 1


def gpt_neox() -> tuple[PreTrainedModel, tuple[str, ...]]:
    config = GPTNeoXConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    return GPTNeoXForCausalLM(config), ("query_key_value", "dense_h_to_4h", "dense")


def gpt2() -> tuple[PreTrainedModel, tuple[str, ...]]:
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4)), ("c_attn", "c_proj")


def gemma3() -> tuple[PreTrainedModel, tuple[str, ...]]:
    config = Gemma3TextConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, sliding_window=8,
    )  # fmt: skip
    return Gemma3ForCausalLM(config), ("q_proj", "down_proj")


def qwen3() -> tuple[PreTrainedModel, tuple[str, ...]]:
    config = Qwen3Config(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8,
    )  # fmt: skip
    return Qwen3ForCausalLM(config), ("q_proj", "v_proj", "up_proj")


@pytest.mark.parametrize("build", [gpt_neox, gpt2, gemma3, qwen3])
@pytest.mark.parametrize("mask", ["wm", "snip"])
def test_any_causal_language_model_learns(build, mask, model_dir: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    model, targets = build()
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    PreTrainedTokenizerFast.from_pretrained(model_dir).save_pretrained(folder)
    data = tmp_path / "text.txt"
    data.write_text("abc def gh " * 200)
    report = train(
        TrainOptions(
            model_dir=folder, data=data, output=tmp_path / "adapter.safetensors", mask=mask, sparsity=0.1,
            targets=targets, learning_rate=3e-2, max_steps=30, batch_size=4, sequence_length=16,
        )
    )  # fmt: skip
    assert report.held_out_loss_after < report.held_out_loss_before - 0.1
    adapter = read_adapter(report.output, base=describe_checkpoint(folder)).adapter
    assert {entry.name.split(".")[-2] for entry in adapter.index_set.table} == set(targets)


def test_dora_of_a_transposed_layer_is_refused(model_dir: Path, tmp_path: Path) -> None:
    model, targets = gpt2()
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    PreTrainedTokenizerFast.from_pretrained(model_dir).save_pretrained(folder)
    data = tmp_path / "text.txt"
    data.write_text("abc def gh " * 200)
    options = TrainOptions(
        model_dir=folder, data=data, output=tmp_path / "a", dora=True, targets=targets, max_steps=1, sequence_length=16
    )
    with pytest.raises(TrainingRefused, match=r"expected an nn\.Linear for DoRA, got Conv1D"):
        train(options)
