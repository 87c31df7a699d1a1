"""Adapters over the real default base, made in a moment: random positions, random small deltas."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from adapters_store.adapter import TORCH_DTYPES, Adapter, IndexSet, build_adapter
from adapters_store.base import BaseDescription, describe_checkpoint
from adapters_store.format import Positions, pack_positions, write_adapter
from loadtest.live_server import MODELS_DIR
from server.demo.text import EXAMPLES_BASE
from server.runners.loading import resolve_model

TARGETS = ("q_proj", "k_proj", "v_proj", "up_proj", "down_proj")


def default_base() -> tuple[Path, BaseDescription]:
    model_dir = resolve_model(EXAMPLES_BASE, MODELS_DIR)
    return model_dir, describe_checkpoint(model_dir)


def random_index_set(base: BaseDescription, *, seed: int, sparsity: float = 0.01) -> IndexSet:
    """``sparsity`` of each target linear of each layer, positions drawn without replacement."""
    generator = torch.Generator().manual_seed(seed)
    positions = []
    for name in sorted(name for name in base.weights if name.split(".")[-2] in TARGETS):
        weight = base.weights[name]
        assert weight.dtype in TORCH_DTYPES
        numel = math.prod(weight.shape)
        chosen = torch.randperm(numel, generator=generator)[: max(1, int(sparsity * numel))].sort().values
        positions.append(Positions(name=name, shape=tuple(weight.shape), dtype=weight.dtype, flat=chosen))
    return pack_positions(positions)


def random_adapter(
    base: BaseDescription,
    *,
    seed: int,
    index_set: IndexSet | None = None,
    strength: float = 0.02,
    sparsity: float = 0.01,
) -> Adapter:
    """``sparsity`` is of the index set that is drawn when none is given."""
    index_set = index_set or random_index_set(base, seed=seed, sparsity=sparsity)
    generator = torch.Generator().manual_seed(seed + 1_000_003)
    values = torch.randn(index_set.num_entries, generator=generator) * strength
    return build_adapter(base=base.fingerprint, index_set=index_set, values=values)


def write_all(adapters: Sequence[tuple[str, Adapter]], directory: Path) -> dict[str, Path]:
    paths = {name: directory / f"{name}.safetensors" for name, _ in adapters}
    for name, adapter in adapters:
        write_adapter(adapter, paths[name])
    return paths
