"""GGUF file → a checkpoint directory of bf16 safetensors, the same bytes each time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

# What GGUF loading leaves in a config that a plain checkpoint must not carry.
LEFTOVERS = ("_model_name_or_path", "quantization_config", "gguf_file", "transformers_version")


def convert_gguf(gguf: Path, target: Path) -> None:
    """Writes config, generation config, tokenizer, chat template and ``model.safetensors`` into ``target``.

    Every weight is dequantised to fp32 and rounded once to bf16. A weight that equals the one it is tied to is
    stored once. ``target`` must exist and be empty; the caller moves it into place when this returns.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.quantization_config import GgufConfig

    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name, "local_files_only": True}
    AutoTokenizer.from_pretrained(**source).save_pretrained(target)
    model = AutoModelForCausalLM.from_pretrained(
        **source, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    plain = _plain_copy(model)
    plain.config.save_pretrained(target)
    plain.generation_config.save_pretrained(target)
    save_file(_stored_once(plain), target / "model.safetensors", metadata={"format": "pt"})


def _plain_copy(model: Any) -> Any:
    """The same weights in a model that knows nothing of GGUF, which ``from_pretrained`` left in the first one."""
    fields = {key: value for key, value in model.config.to_dict().items() if key not in LEFTOVERS}
    if "rms_norm_eps" in fields:  # GGUF holds it as fp32
        fields["rms_norm_eps"] = float(f"{fields['rms_norm_eps']:.6g}")
    config = type(model.config)(**fields)
    config.architectures = [type(model).__name__]
    with torch.device("meta"):
        plain = type(model)(config)
    state = {name: tensor.to(torch.bfloat16) for name, tensor in model.state_dict().items()}
    plain.load_state_dict(state, strict=True, assign=True)
    plain.generation_config = model.generation_config
    return plain


def _stored_once(model: Any) -> dict[str, Tensor]:
    state: dict[str, Tensor] = dict(model.state_dict())
    tied: dict[str, str] = dict(model._tied_weights_keys or {}) if model.config.tie_word_embeddings else {}
    for name, original in tied.items():
        if not torch.equal(state[name], state[original]):
            raise ValueError(f"{name} should be tied to {original}, but their values differ")
        del state[name]
    return {name: state[name].contiguous() for name in sorted(state)}
