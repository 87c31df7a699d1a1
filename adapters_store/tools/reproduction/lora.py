"""LoRA as PEFT trains and stores it, and its ΔW = (alpha / r) · B A as an adapter that touches every entry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from adapters_store.adapter import Adapter, Fingerprint, IndexSet, build_adapter
from adapters_store.errors import TrainingRefused
from adapters_store.peft_format import PREFIX
from adapters_store.tools.reproduction.settings import LORA_ALPHA, LORA_DROPOUT, LORA_RANK

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"


def require_peft() -> None:
    """Raises TrainingRefused where it is not installed."""
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise TrainingRefused("peft", expected="pip install 'shira-server[bench]'", got="not installed") from error


def attach_lora(model: nn.Module, targets: tuple[str, ...], *, seed: int) -> Any:
    """``model`` with LoRA factors in float32, all that is trained. A is drawn from ``seed``, B is 0."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(
        r=LORA_RANK, lora_alpha=LORA_ALPHA, lora_dropout=LORA_DROPOUT, target_modules=list(targets), bias="none"
    )
    return get_peft_model(model, config, autocast_adapter_dtype=True)


def load_lora(folder: Path, *, base: Fingerprint, all_positions: IndexSet) -> Adapter:
    """The dense delta of a folder that PEFT saved, float32. ``all_positions`` are those of its target weights."""
    config = json.loads((folder / CONFIG_FILE).read_bytes())
    factors = load_file(folder / WEIGHTS_FILE)
    scale = config["lora_alpha"] / config["r"]
    values = torch.empty(all_positions.num_entries, dtype=torch.float32)
    for entry, start in zip(all_positions.table, all_positions.entry_starts, strict=False):
        module = PREFIX + entry.name.removesuffix(".weight")
        down, up = factors[f"{module}.lora_A.weight"], factors[f"{module}.lora_B.weight"]  # (r, in), (out, r)
        delta = (up.float() @ down.float()) * scale  # (out, in), as PEFT computes it
        values[start : start + entry.count] = delta.flatten()
    return build_adapter(base=base, index_set=all_positions, values=values)


def load_unmerged(model: nn.Module, folder: Path) -> Any:
    """``model`` with the factors of ``folder`` beside its weights, as PEFT serves them."""
    from peft import PeftModel

    return PeftModel.from_pretrained(model, folder)


def num_trained(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def check_finite(model: nn.Module) -> None:
    if not all(bool(parameter.isfinite().all()) for parameter in model.parameters() if parameter.requires_grad):
        raise TrainingRefused("learning_rate", expected="training that converges", got="values that are not finite")
