"""Checkpoints that PEFT and diffusers themselves wrote, read without either."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from adapters_store.adapter import Adapter
from adapters_store.base import describe_checkpoint
from adapters_store.errors import AdapterRejected
from adapters_store.format import unpack_positions
from adapters_store.peft_format import read_peft, read_single_file
from tests.adapters_store.adapter_files import description

pytestmark = pytest.mark.filterwarnings("ignore")  # those of the libraries

peft = pytest.importorskip("peft")


def tiny_llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=32,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
        )
    )


def dense(adapter: Adapter) -> dict[str, Tensor]:
    """W − W0 of each weight."""
    deltas = {}
    for (entry, flat), start in zip(unpack_positions(adapter.index_set), adapter.index_set.entry_starts, strict=False):
        deltas[entry.name] = torch.zeros(entry.numel)
        deltas[entry.name][flat] = adapter.values[start : start + entry.count].float()
        deltas[entry.name] = deltas[entry.name].view(entry.shape)
    return deltas


def test_a_checkpoint_of_peft_is_the_delta_that_peft_merges(tmp_path: Path) -> None:
    model = tiny_llama()
    model.save_pretrained(tmp_path / "base")
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    config = peft.ShiraConfig(r=1, target_modules=["q_proj", "down_proj"], init_weights=False)
    adapted = peft.get_peft_model(model, config)
    adapted.save_pretrained(tmp_path / "adapter")

    base = describe_checkpoint(tmp_path / "base")
    folder = tmp_path / "adapter"
    parsed = read_peft(folder / "adapter_config.json", folder / "adapter_model.safetensors", base=base)

    merged = adapted.merge_and_unload().state_dict()
    deltas = dense(parsed.adapter)
    assert {name for name in merged if not torch.equal(merged[name], before[name])} == deltas.keys()
    assert all(torch.equal(before[name] + delta, merged[name]) for name, delta in deltas.items())
    assert parsed.adapter.base == base.fingerprint
    assert not parsed.base_verified


def test_the_single_file_of_diffusers_is_the_delta_of_its_layers(tmp_path: Path) -> None:
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    model = UNet2DConditionModel(
        block_out_channels=(4, 8),
        norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=2,
        layers_per_block=1,
        sample_size=8,
    )
    model.save_pretrained(tmp_path / "base")
    model.add_adapter(peft.ShiraConfig(r=1, target_modules=["to_q", "to_v"], init_weights=False))
    model.save_lora_adapter(tmp_path / "adapter")

    base = describe_checkpoint(tmp_path / "base")
    parsed = read_single_file(tmp_path / "adapter" / "pytorch_lora_weights.safetensors", base=base)

    layers = {
        f"{name}.weight": module.get_delta_weight("default").to_dense()
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }
    deltas = dense(parsed.adapter)
    assert deltas.keys() == layers.keys()
    assert all(torch.equal(deltas[name], layers[name]) for name in layers)


def test_another_method_of_peft_is_refused_by_name(tmp_path: Path) -> None:
    model = peft.get_peft_model(tiny_llama(), peft.LoraConfig(r=1, target_modules=["q_proj"]))
    model.save_pretrained(tmp_path)
    with pytest.raises(AdapterRejected, match="LORA"):
        read_peft(
            tmp_path / "adapter_config.json",
            tmp_path / "adapter_model.safetensors",
            base=description(),
        )


def test_whole_modules_beside_the_deltas_are_refused(tmp_path: Path) -> None:
    config = peft.ShiraConfig(r=1, target_modules=["q_proj"], modules_to_save=["lm_head"])
    peft.get_peft_model(tiny_llama(), config).save_pretrained(tmp_path)
    with pytest.raises(AdapterRejected, match="modules_to_save"):
        read_peft(
            tmp_path / "adapter_config.json",
            tmp_path / "adapter_model.safetensors",
            base=description(),
        )
