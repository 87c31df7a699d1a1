"""From a name to a model in memory, ready to run, with its weights known by name and digest."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from adapters_store.base import describe_checkpoint
from adapters_store.errors import AdapterStoreError
from server.core.errors import ModelNotLoadable
from server.execution.weights import BaseWeights
from server.runners.default_model import DEFAULT_MODEL, HUB_FILES, Source, ensure_default_model

log = logging.getLogger(__name__)

DTypeChoice = Literal["auto", "bfloat16", "float16", "float32"]
DeviceChoice = Literal["auto", "cpu", "cuda"]
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
    try:
        description = describe_checkpoint(path, cache_file=_fingerprint_cache(path, fingerprints_dir))
    except AdapterStoreError as error:
        raise ModelNotLoadable(f"{path}: {error}") from error
    model = _load_model(path, dtype, _pick_device(device))
    model.requires_grad_(False).eval()
    _own_memory_(model)
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


def _pick_device(device: DeviceChoice) -> torch.device:
    if device == "cuda" and not torch.cuda.is_available():
        raise ModelNotLoadable("device = 'cuda': torch finds no CUDA device here; use cpu or auto")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def _own_memory_(model: nn.Module) -> None:
    """Every weight contiguous in memory of this process's own: the loader maps the checkpoint, whose pages would be
    copied one by one at the first switch, and would change if somebody wrote to the file."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)


def _fingerprint_cache(path: Path, directory: Path | None) -> Path | None:
    if directory is None:
        return None
    directory.mkdir(parents=True, exist_ok=True)
    return directory / f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]}.json"


def _eos_tokens(model: Any) -> frozenset[int]:
    eos = model.generation_config.eos_token_id
    eos = model.config.eos_token_id if eos is None else eos
    return frozenset([eos] if isinstance(eos, int) else eos or ())
