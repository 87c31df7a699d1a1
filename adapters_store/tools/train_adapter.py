"""A model and examples in, an adapter out: the mask chosen, its values trained."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from adapters_store.adapter import TORCH_DTYPES, Adapter, DTypeName, Fingerprint, IndexSet, build_adapter
from adapters_store.errors import StorageFull, TrainingRefused
from adapters_store.tools.fit import FitOutcome, fit
from adapters_store.tools.masks import CALIBRATED, build_mask
from adapters_store.tools.sparse_parametrisation import SparseParametrisation
from adapters_store.tools.train_options import RecipeOptions

OPTIMISER_BYTES = 3 * 4  # of each trained number in a checkpoint: itself and AdamW's two moments, in fp32


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    adapter: Adapter
    outcome: FitOutcome
    num_trained: int


def choose_mask(
    weights: Iterable[tuple[str, Tensor]], options: RecipeOptions, gradients: Callable[[], dict[str, Tensor]]
) -> IndexSet:
    """The index set that ``options`` ask for, over ``weights`` in their stored dtype. Raises TrainingRefused naming the
    weight that cannot carry it."""
    try:
        return build_mask(
            weights,
            options.mask,
            sparsity=options.sparsity,
            rank=options.rank,
            seed=options.seed,
            task=options.task,
            axis=options.axis,
            offset=options.offset,
            gradients=gradients() if options.mask in CALIBRATED else None,
        )
    except (ValueError, KeyError) as error:
        raise TrainingRefused("mask", expected="weights that can carry it", got=str(error)) from error


def train_adapter(
    model: nn.Module,
    index_set: IndexSet,
    examples: Dataset[dict[str, Tensor]],
    options: RecipeOptions,
    *,
    base: Fingerprint,
    progress_dir: Path | None = None,
) -> Trained:
    """Trains on all of ``examples``; the model is the base again afterwards, bit for bit. Raises TrainingRefused when a
    weight is that of no layer that can train or training diverged, StorageFull."""
    try:
        sparse = SparseParametrisation(model, index_set, dora=options.dora)
    except ValueError as error:
        expected = "linear layers of the model, or convolutions"
        raise TrainingRefused("targets", expected=expected, got=str(error)) from error
    with sparse:
        num_trained = sparse.num_trained
        _check_space(options, num_trained)
        outcome = fit(model, examples, options, progress_dir=progress_dir)
        values = _checked(sparse.delta(), options.values_dtype)
    adapter = build_adapter(base=base, index_set=index_set, values=values)
    return Trained(adapter=adapter, outcome=outcome, num_trained=num_trained)


def diverged(got: str) -> TrainingRefused:
    return TrainingRefused("learning_rate", expected="training that converges", got=got)


def _check_space(options: RecipeOptions, num_trained: int) -> None:
    """Better now than after hours: two checkpoints are on the disk for a moment, and the adapter."""
    needed = num_trained * (2 * OPTIMISER_BYTES + 8)
    free = shutil.disk_usage(options.output.parent).free
    if free < needed:
        raise StorageFull(f"training into {options.output.parent} needs {needed:,} bytes free, got {free:,}")


def _checked(delta: Tensor, dtype: DTypeName) -> Tensor:
    if not torch.isfinite(delta).all():
        raise diverged("values that are not finite")
    values = delta.to(TORCH_DTYPES[dtype])
    if not torch.isfinite(values).all():
        largest = float(delta.abs().max())
        raise TrainingRefused("values_dtype", expected="a dtype that holds every value", got=f"{dtype} for {largest:g}")
    return values
