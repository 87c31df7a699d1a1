"""Adapters that were never trained: sparse ones of ours, LoRA ones for the others. Drawn fast, the same for a seed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from adapters_store.adapter import Adapter, build_adapter
from adapters_store.base import BaseDescription
from adapters_store.format.packing import Positions, pack_positions

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
DELTA_SCALE = 1e-3
LORA_RANK = 16
LORA_SCALE = 1e-2


def is_of_decoder(name: str) -> bool:
    """A linear layer of a causal LM."""
    return name.removesuffix(".weight").endswith(TARGETS)


def sparse_adapter(
    base: BaseDescription,
    *,
    sparsity: float,
    seed: int,
    is_target: Callable[[str], bool] = is_of_decoder,
    delta_scale: float = DELTA_SCALE,
) -> Adapter:
    """Of every weight that is a target each element with probability ``sparsity``: the mask ``rand``, positions of its
    own for every seed; a weight may come out without any. Values are normal with standard deviation ``delta_scale``,
    bfloat16."""
    rng = np.random.default_rng(seed)
    drawn = [
        Positions(name=name, shape=weight.shape, dtype=dtype, flat=_bernoulli(weight.shape, sparsity, rng))
        for name, weight in sorted(base.weights.items(), key=lambda item: item[0].encode())
        if is_target(name) and (dtype := weight.adaptable_dtype) is not None
    ]
    index_set = pack_positions([positions for positions in drawn if positions.flat.numel()])
    values = rng.standard_normal(index_set.num_entries, dtype=np.float32) * np.float32(delta_scale)
    return build_adapter(base=base.fingerprint, index_set=index_set, values=torch.from_numpy(values).bfloat16())


def save_lora_adapters(model_dir: Path, work_dir: Path, *, count: int) -> list[Path]:
    """PEFT checkpoints of rank 16 on the same layers, both factors random; those that are there already are kept."""
    folder = work_dir / f"lora-of-{model_dir.name}"
    folder.mkdir(exist_ok=True)
    paths = [folder / f"lora-{number}" for number in range(count)]
    missing = [number for number, path in enumerate(paths) if not path.exists()]
    if missing:
        _save_missing(model_dir, folder, missing)
    return paths


@contextmanager
def quiet_peft() -> Iterator[None]:
    """PEFT asks for what transformers renames, and each user is told."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".is_gradient_checkpointing. is deprecated", category=FutureWarning)
        yield


def _save_missing(model_dir: Path, folder: Path, numbers: list[int]) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype="auto", local_files_only=True)
    config = LoraConfig(r=LORA_RANK, lora_alpha=LORA_RANK, target_modules=list(TARGETS), task_type="CAUSAL_LM")
    with quiet_peft():
        lora = get_peft_model(model, config, autocast_adapter_dtype=False)
    for number in numbers:
        generator = torch.Generator().manual_seed(number)
        for name, parameter in lora.named_parameters():
            if "lora_" in name:
                parameter.data.normal_(0, LORA_SCALE, generator=generator)
        making = folder / f".making-lora-{number}"
        lora.save_pretrained(making)
        making.rename(folder / f"lora-{number}")


def _bernoulli(shape: tuple[int, ...], probability: float, rng: np.random.Generator) -> Tensor:
    """Ascending positions, each in with ``probability``, int64: the gaps between them are geometric."""
    numel = int(np.prod(shape))
    expected = numel * probability
    gaps = rng.geometric(probability, size=int(expected + 6 * np.sqrt(expected) + 16))
    positions = np.cumsum(gaps) - 1
    return torch.from_numpy(positions[positions < numel])
