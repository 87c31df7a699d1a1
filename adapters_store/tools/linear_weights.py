"""Which weights of a checkpoint belong to an nn.Linear: its model built from its config, without memory for weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from adapters_store.errors import TrainingRefused


def linear_weights(model_dir: Path) -> set[str]:
    """Of a transformers causal language model, or of one model of diffusers. Raises TrainingRefused."""
    try:
        config = json.loads((model_dir / "config.json").read_bytes())
        with torch.device("meta"):
            model = _build(model_dir, config)
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RuntimeError) as error:
        raise TrainingRefused(
            "base",
            expected="a model that transformers or diffusers can build from its config.json",
            got=str(error)[:200],
        ) from error
    return {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)}


def _build(model_dir: Path, config: dict[str, Any]) -> Any:
    if "_class_name" in config:
        import diffusers

        model_class: Any = getattr(diffusers, str(config["_class_name"]))
        is_model = isinstance(model_class, type) and issubclass(model_class, diffusers.ModelMixin)
        if not is_model:
            raise TypeError(f"{config['_class_name']!r} is no model of diffusers")
        return model_class.from_config(config)
    from transformers import AutoConfig, AutoModelForCausalLM

    known = AutoConfig.from_pretrained(model_dir, local_files_only=True, trust_remote_code=False)
    return AutoModelForCausalLM.from_config(known, trust_remote_code=False)
