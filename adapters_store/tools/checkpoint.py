"""The base checkpoint as a tool uses it: the model in memory, its tokenizer, and single weights as stored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from adapters_store.base import BaseDescription
from adapters_store.base_files import weight_files
from adapters_store.errors import TrainingRefused


def load_tokenizer(model_dir: Path) -> Any:
    try:
        return AutoTokenizer.from_pretrained(model_dir, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise TrainingRefused("model", expected="a directory with a tokenizer", got=str(error)) from error


def load_causal_lm(model_dir: Path, *, dtype: torch.dtype | Literal["auto"], device: str) -> nn.Module:
    """``auto`` is the dtype that the checkpoint says, as the server loads it. Code in the directory is never run, and
    weights are read from safetensors alone. Raises TrainingRefused."""
    try:
        model = AutoModelForCausalLM.from_pretrained(
            model_dir, dtype=dtype, local_files_only=True, trust_remote_code=False, use_safetensors=True
        )
    except (OSError, ValueError) as error:
        raise TrainingRefused("model", expected="a transformers causal language model", got=str(error)) from error
    loaded: nn.Module = model.to(device)
    return loaded


def target_weights(base: BaseDescription, targets: tuple[str, ...]) -> list[str]:
    """Names of the checkpoint's weights that ``targets`` mean, module names or their last parts, sorted. A target that
    means none is refused."""
    matches = {target: [name for name in base.weights if _means(target, name)] for target in targets}
    for target, names in matches.items():
        if not names:
            known = sorted(
                {
                    name.removesuffix(".weight").rpartition(".")[2]
                    for name, weight in base.weights.items()
                    if name.endswith(".weight") and len(weight.shape) == 2
                }
            )
            raise TrainingRefused("targets", expected=f"a linear layer ({', '.join(known)})", got=repr(target))
    return sorted({name for names in matches.values() for name in names})


def stored_weights(model_dir: Path, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
    """The named weights in their stored dtype, one at a time: masks rank what is stored, not what is loaded."""
    wanted = set(names)
    for weight_file in weight_files(model_dir):
        with safe_open(weight_file.path, framework="pt") as file:
            for stored in sorted(file.keys()):
                if weight_file.prefix + stored in wanted:
                    yield weight_file.prefix + stored, file.get_tensor(stored)


def _means(target: str, weight_name: str) -> bool:
    module_name = weight_name.removesuffix(".weight")
    return module_name != weight_name and (module_name == target or module_name.endswith("." + target))
