"""From a name to a model in memory, ready to run, with its weights known by name and digest."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from server.core.errors import ModelNotLoadable
from server.execution.weights import BaseWeights
from server.runners.checkpoint import DeviceChoice, DTypeChoice, describe_base, own_memory_, pick_device
from server.runners.default_model import DEFAULT_MODEL, HUB_FILES, Source, ensure_default_model

log = logging.getLogger(__name__)

DEFAULT_NAME = DEFAULT_MODEL.lower()
DEFAULT_SPECS: dict[str, Source | None] = {
    DEFAULT_NAME: None,
    f"{DEFAULT_NAME}@hub": "hub",
    f"{DEFAULT_NAME}@package": "package",
}
DEFAULT_CONTEXT_TOKENS = 2048  # for models whose config does not tell


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """``model`` and ``tokenizer`` are transformers objects; ``weights`` are the model's own tensors."""

    name: str
    model: Any
    tokenizer: Any
    weights: BaseWeights
    max_context_tokens: int
    eos_tokens: frozenset[int]


def resolve_model(spec: str, models_dir: Path) -> Path:
    """The checkpoint directory of ``spec``: a local directory, the default model by name (``…@hub`` and
    ``…@package`` insist on one of its sources), or a hub id, downloaded if the hub's cache lacks it.

    Raises ModelNotLoadable."""
    if spec.lower() in DEFAULT_SPECS:
        return ensure_default_model(models_dir, source=DEFAULT_SPECS[spec.lower()])
    path = Path(spec).expanduser()
    if path.is_dir():
        return path
    if path.is_absolute() or spec.startswith((".", "~")) or spec.count("/") > 1:
        raise ModelNotLoadable(f"{spec}: no such directory")
    return _from_hub(spec)


def load_llm(
    path: Path,
    *,
    name: str | None = None,
    dtype: DTypeChoice = "auto",
    device: DeviceChoice = "auto",
    fingerprints_dir: Path | None = None,
) -> LoadedModel:
    """A causal LM in evaluation mode, without gradients, every weight contiguous; nothing in the directory is executed.

    ``dtype`` auto loads as stored. ``fingerprints_dir`` remembers fingerprints, so that an unchanged checkpoint is
    hashed once. Raises ModelNotLoadable."""
    description = describe_base(path, fingerprints_dir)
    model = _load_model(path, dtype, pick_device(device))
    model.requires_grad_(False).eval()
    own_memory_(model)
    stored = {weight: entry.shape for weight, entry in description.weights.items()}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    unnamed = sorted(
        weight for weight in stored if weight not in parameters or parameters[weight].shape != stored[weight]
    )
    if unnamed:
        log.info("%d stored weights are loaded under other names or shapes; adapters cannot address them", len(unnamed))
    try:
        weights = BaseWeights(parameters, description)
    except ValueError as error:
        raise ModelNotLoadable(f"{path}: {error}") from error
    return LoadedModel(
        name=name or path.name,
        model=model,
        tokenizer=_load_tokenizer(path),
        weights=weights,
        max_context_tokens=int(getattr(model.config, "max_position_embeddings", 0) or DEFAULT_CONTEXT_TOKENS),
        eos_tokens=_eos_tokens(model),
    )


def _load_model(path: Path, dtype: DTypeChoice, device: torch.device) -> Any:
    from transformers import AutoModelForCausalLM

    try:
        return AutoModelForCausalLM.from_pretrained(
            path,
            dtype="auto" if dtype == "auto" else getattr(torch, dtype),
            device_map=None,
            attn_implementation="sdpa",
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
        ).to(device)
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        raise ModelNotLoadable(f"{path} is not a causal language model that can be loaded: {error}") from error


def _load_tokenizer(path: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        raise ModelNotLoadable(f"{path} has no tokenizer that can be loaded: {error}") from error


def _from_hub(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, allow_patterns=HUB_FILES))
    except Exception as error:  # the hub client raises its own, httpx's and OSError alike
        raise ModelNotLoadable(f"{hub_id}: neither a directory nor to be had from the hub: {error}") from error


def _eos_tokens(model: Any) -> frozenset[int]:
    eos = model.generation_config.eos_token_id
    eos = model.config.eos_token_id if eos is None else eos
    return frozenset([eos] if isinstance(eos, int) else eos or ())
