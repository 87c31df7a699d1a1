"""LoRA of the same layers, by the same loop on the same draws: what sparse adapters of pictures are compared with."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from adapters_store.adapter import Adapter, build_adapter
from adapters_store.errors import TrainingRefused
from adapters_store.tools.fit import FitOutcome, fit
from adapters_store.tools.masks import build_mask
from adapters_store.tools.pictures.options import PictureOptions, check_options
from adapters_store.tools.pictures.train import picture_lesson
from adapters_store.tools.train_adapter import diverged
from adapters_store.tools.train_lesson import Lesson

ADAPTER = "lora"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraOutcome:
    """``adapter`` is ΔW = (alpha / rank) · B A of every target, dense, in fp32: it is applied, scaled and fused as any
    other. Losses as in ``TrainReport``."""

    adapter: Adapter
    outcome: FitOutcome
    rank: int
    num_trained: int
    held_out_loss_before: float
    held_out_loss_after: float


def train_lora(options: PictureOptions, *, alpha: float | None = None) -> LoraOutcome:
    """The counterpart of ``train_pictures`` with these options: of rank ``options.rank``, else of the rank whose number
    of parameters is nearest to the sparse adapter's. ``alpha`` is the rank unless given. Writes no file. Raises
    TrainingRefused."""
    check_options(options)
    options, lesson = picture_lesson(options)
    stored = list(lesson.stored_weights())
    rank = options.rank or matched_rank((weight.shape for _, weight in stored), options.sparsity)
    before = lesson.measure()
    layers = _attach(lesson, rank, alpha or rank, seed=options.seed)
    outcome = fit(lesson.model, lesson.training, options)
    after = lesson.measure()
    if not math.isfinite(after):
        raise diverged(f"a held-out loss of {after}")
    every_position = build_mask(stored, "wm", sparsity=1.0)
    values = torch.cat([_delta(layers[entry.name]) for entry in every_position.table])
    return LoraOutcome(
        adapter=build_adapter(base=lesson.base, index_set=every_position, values=values),
        outcome=outcome,
        rank=rank,
        num_trained=sum(parameter.numel() for parameter in lesson.model.parameters() if parameter.requires_grad),
        held_out_loss_before=before,
        held_out_loss_after=after,
    )


def matched_rank(shapes: Iterable[torch.Size], sparsity: float) -> int:
    """Of LoRA, whose factors have rank · (rows + columns) parameters; a convolution is the matrix (out, in · k · k)."""
    matrices = [(shape[0], shape[1:].numel()) for shape in shapes]
    num_entries = sparsity * sum(rows * columns for rows, columns in matrices)
    return max(1, round(num_entries / sum(rows + columns for rows, columns in matrices)))


def _attach(lesson: Lesson, rank: int, alpha: float, *, seed: int) -> dict[str, Any]:
    """The LoRA layers by the names of their weights; their factors are all that trains, A drawn from ``seed``, B 0."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise TrainingRefused("peft", expected="pip install 'shira-server[train]'", got="not installed") from error
    modules = {name: name.removesuffix(".weight") for name in lesson.names}
    config = LoraConfig(r=rank, lora_alpha=alpha, init_lora_weights="gaussian", target_modules=list(modules.values()))
    torch.manual_seed(seed)
    model: nn.Module = inject_adapter_in_model(config, lesson.model, adapter_name=ADAPTER)
    return {name: model.get_submodule(module) for name, module in modules.items()}


@torch.no_grad()
def _delta(layer: Any) -> Tensor:
    delta: Tensor = layer.get_delta_weight(ADAPTER)
    return delta.float().cpu().flatten()
