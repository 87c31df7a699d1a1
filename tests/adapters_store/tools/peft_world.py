"""A tiny base on disk, PEFT adapters over it, and what PEFT itself makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors.torch import load_file
from torch import Tensor

from adapters_store.adapter import Adapter, build_adapter
from adapters_store.base import describe_checkpoint
from adapters_store.format import Positions, pack_positions, write_adapter
from adapters_store.tools.checkpoint import load_causal_lm

TOKENS = torch.arange(1, 25)[None]
NUM_NEW_TOKENS = 12
TARGETS = ["q_proj", "o_proj", "down_proj"]


def save_peft_adapter(base_dir: Path, folder: Path, config: Any, *, spread: float = 0.05) -> Path:
    """One as after training: every trainable value moved away from where it began. Returns ``folder``."""
    torch.manual_seed(1)
    tuned = peft.get_peft_model(load(base_dir), config)
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * spread)
    tuned.save_pretrained(folder)
    return folder


def merged_by_peft(base_dir: Path, folder: Path) -> Any:
    return peft.PeftModel.from_pretrained(load(base_dir), folder).merge_and_unload()


def save_native(
    base_dir: Path, path: Path, counts: Mapping[str, int], *, dtype: torch.dtype = torch.float32
) -> Adapter:
    """Random positions and values, ``counts`` entries in each of these weights."""
    base = describe_checkpoint(base_dir)
    generator = torch.Generator().manual_seed(2)
    rows, values = [], []
    for name, count in sorted(counts.items()):
        weight = base.weights[name]
        flat = torch.randperm(torch.Size(weight.shape).numel(), generator=generator)[:count].sort().values
        stored: Any = weight.dtype
        rows.append(Positions(name=name, shape=weight.shape, dtype=stored, flat=flat))
        values.append(torch.randn(count, generator=generator).to(dtype))
    adapter = build_adapter(base=base.fingerprint, index_set=pack_positions(rows), values=torch.cat(values))
    write_adapter(adapter, path)
    return adapter


def rank_counts(base_dir: Path, rank: int, targets: list[str] = TARGETS) -> dict[str, int]:
    """r(m + n) for every layer of ``targets``."""
    weights = describe_checkpoint(base_dir).weights
    return {name: rank * sum(w.shape) for name, w in weights.items() if name.split(".")[-2] in targets}


def load(base_dir: Path, dtype: torch.dtype = torch.float32) -> Any:
    return load_causal_lm(base_dir, dtype=dtype, device="cpu").eval()


def stored(base_dir: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = load_file(base_dir / "model.safetensors")
    return weights


def greedy(model: Any) -> list[int]:
    with torch.no_grad():
        output = model.generate(
            input_ids=TOKENS,
            attention_mask=torch.ones_like(TOKENS),
            max_new_tokens=NUM_NEW_TOKENS,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
    tokens: list[int] = output[0].tolist()
    return tokens


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(TOKENS).logits
    return found
