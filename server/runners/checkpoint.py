"""What every base has in common: hashed as stored, put on a device, in memory of its own."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from adapters_store.base import BaseDescription, describe_checkpoint
from adapters_store.errors import AdapterStoreError
from server.core.errors import ModelNotLoadable

DTypeChoice = Literal["auto", "bfloat16", "float16", "float32"]
DeviceChoice = Literal["auto", "cpu", "cuda"]


def describe_base(path: Path, fingerprints_dir: Path | None) -> BaseDescription:
    """``fingerprints_dir`` remembers fingerprints, so that an unchanged checkpoint is hashed once.

    Raises ModelNotLoadable."""
    try:
        return describe_checkpoint(path, cache_file=_fingerprint_cache(path, fingerprints_dir))
    except (AdapterStoreError, OSError) as error:
        raise ModelNotLoadable(f"{path}: {error}") from error


def pick_device(device: DeviceChoice) -> torch.device:
    if device == "cuda" and not torch.cuda.is_available():
        raise ModelNotLoadable("device = 'cuda': torch finds no CUDA device here; use cpu or auto")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def own_memory_(model: nn.Module) -> None:
    """Every weight contiguous in memory of this process's own: the loader maps the checkpoint, whose pages would be
    copied one by one at the first switch, and would change if somebody wrote to the file."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)


def _fingerprint_cache(path: Path, directory: Path | None) -> Path | None:
    if directory is None:
        return None
    directory.mkdir(parents=True, exist_ok=True)
    return directory / f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]}.json"
