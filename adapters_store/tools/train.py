"""A file of examples in, an adapter file out: train the values of one mask under transformers' Trainer.

The recipe is the paper's (SHiRA, arXiv 2406.13175, appendices D and H): AdamW, weight decay 0, learning rate 5e-4
falling linearly, three epochs, all of q, k, v, up and down.
"""

from __future__ import annotations

import math
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from adapters_store.adapter import (
    TORCH_DTYPES,
    Adapter,
    Digest,
    DTypeName,
    Fingerprint,
    IndexSet,
    Version,
    build_adapter,
)
from adapters_store.base import describe_checkpoint
from adapters_store.errors import StorageFull, TrainingRefused
from adapters_store.format import write_adapter
from adapters_store.tools.applied import applied
from adapters_store.tools.calibrate import accumulated_gradients
from adapters_store.tools.checkpoint import load_causal_lm, load_tokenizer, stored_weights, target_weights
from adapters_store.tools.data import Examples, load_examples, split_held_out
from adapters_store.tools.fit import FitOutcome, fit
from adapters_store.tools.loss import mean_loss
from adapters_store.tools.loss_curve import write_loss_curve
from adapters_store.tools.masks import CALIBRATED, build_mask
from adapters_store.tools.sparse_linear import SparseParametrisation
from adapters_store.tools.train_options import TrainOptions, check_options
from adapters_store.tools.train_resume import check_progress, keep_index_set, kept_index_set, progress_kept

__all__ = ["TrainOptions", "TrainReport", "train"]

OPTIMISER_BYTES = 3 * 4  # of each trained number in a checkpoint: itself and AdamW's two moments, in fp32


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainReport:
    """Losses are means over predicted tokens, in nats; the held-out ones are of the base and of the very adapter that
    was written, applied as a server applies it to weights of ``precision``."""

    output: Path
    loss_curve: Path
    version: Version
    base: Fingerprint
    data_digest: Digest
    num_weights: int
    num_entries: int
    num_trained: int
    num_steps: int
    train_loss: float
    held_out_loss_before: float
    held_out_loss_after: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    adapter: Adapter
    outcome: FitOutcome
    num_trained: int


def train(options: TrainOptions) -> TrainReport:
    """Writes the adapter to ``options.output``, and its loss curve beside it, once training is over. A failure leaves
    no adapter behind; what was trained until then stays in ``options.progress_dir`` for ``resume``.

    Raises TrainingRefused for options, data or a model that cannot make an adapter, StorageFull."""
    started = time.monotonic()
    check_options(options)
    check_progress(options)
    base = describe_checkpoint(options.model_dir)
    names = target_weights(base, options.targets)
    examples = load_examples(options.data, load_tokenizer(options.model_dir), sequence_length=options.sequence_length)
    training, held_out = split_held_out(examples, options.held_out)
    model = load_causal_lm(options.model_dir, dtype=TORCH_DTYPES[options.precision], device=options.device)
    before = mean_loss(model, held_out, batch_size=options.batch_size)
    if not math.isfinite(before):
        raise TrainingRefused("model", expected="a base with a finite loss on the held-out data", got=str(before))
    with progress_kept(options, base.fingerprint, examples.digest) as folder:
        index_set = kept_index_set(folder)
        if index_set is None:
            index_set = choose_mask(model, names, training, options)
            keep_index_set(folder, index_set)
        trained = train_adapter(model, index_set, training, options, base=base.fingerprint, progress_dir=folder)
        with applied(model, [(trained.adapter, 1.0)]):
            after = mean_loss(model, held_out, batch_size=options.batch_size)
        if not math.isfinite(after):
            raise _diverged(f"a held-out loss of {after}")
        report = TrainReport(
            output=options.output,
            loss_curve=options.loss_curve,
            version=trained.adapter.version,
            base=base.fingerprint,
            data_digest=examples.digest,
            num_weights=len(index_set.table),
            num_entries=index_set.num_entries,
            num_trained=trained.num_trained,
            num_steps=trained.outcome.num_steps,
            train_loss=trained.outcome.mean_loss,
            held_out_loss_before=before,
            held_out_loss_after=after,
            seconds=time.monotonic() - started,
        )
        write_loss_curve(report.loss_curve, trained.outcome.losses, title=options.output.name, held_out=(before, after))
        write_adapter(trained.adapter, options.output, card=card(options, report))
    return report


def choose_mask(model: nn.Module, names: list[str], examples: Examples, options: TrainOptions) -> IndexSet:
    """The index set that ``options`` ask for. Raises TrainingRefused naming the weight that cannot carry it."""
    gradients = None
    try:
        if options.mask in CALIBRATED:
            gradients = accumulated_gradients(
                model, names, examples, batch_size=options.batch_size, num_examples=options.calibration_examples
            )
        return build_mask(
            stored_weights(options.model_dir, names),
            options.mask,
            sparsity=options.sparsity,
            rank=options.rank,
            seed=options.seed,
            task=options.task,
            axis=options.axis,
            offset=options.offset,
            gradients=gradients,
        )
    except (ValueError, KeyError) as error:
        raise TrainingRefused("mask", expected="weights that can carry it", got=str(error)) from error


def train_adapter(
    model: nn.Module,
    index_set: IndexSet,
    examples: Examples,
    options: TrainOptions,
    *,
    base: Fingerprint,
    progress_dir: Path | None = None,
) -> Trained:
    """Trains on all of ``examples``; the model is the base again afterwards, bit for bit. Raises TrainingRefused when a
    weight is no linear layer's or training diverged, StorageFull."""
    try:
        sparse = SparseParametrisation(model, index_set, dora=options.dora)
    except ValueError as error:
        raise TrainingRefused("targets", expected="linear layers of the model", got=str(error)) from error
    with sparse:
        num_trained = sparse.num_trained
        _check_space(options, num_trained)
        outcome = fit(model, examples, options, progress_dir=progress_dir)
        values = _checked(sparse.delta(), options.values_dtype)
    adapter = build_adapter(base=base, index_set=index_set, values=values)
    return Trained(adapter=adapter, outcome=outcome, num_trained=num_trained)


def card(options: TrainOptions, report: TrainReport) -> dict[str, object]:
    """What a reader of the file wants to know of its making; no paths of the machine that made it."""
    mask: dict[str, object] = {"mask": options.mask, "sparsity": options.sparsity}
    match options.mask:
        case "struct":
            mask |= {"axis": options.axis, "offset": options.offset}
        case "wm":
            mask |= {"task": options.task}
        case "grad" | "snip":
            mask |= {"calibration_examples": options.calibration_examples}
    if options.rank is not None:
        mask |= {"sparsity": None, "rank": options.rank}
    return {
        "made_by": "shira train",
        "base": options.model_dir.name,
        "data": options.data.name,
        "data_digest": report.data_digest,
        **mask,
        "method": "SHiRA-DoRA" if options.dora else "SHiRA",
        "targets": list(options.targets),
        "seed": options.seed,
        "learning_rate": options.learning_rate,
        "schedule": options.schedule,
        "batch_size": options.batch_size,
        "sequence_length": options.sequence_length,
        "precision": options.precision,
        "steps": report.num_steps,
        "trained_parameters": report.num_trained,
        "train_loss": round(report.train_loss, 4),
        "held_out_loss_before": round(report.held_out_loss_before, 4),
        "held_out_loss_after": round(report.held_out_loss_after, 4),
    }


def _check_space(options: TrainOptions, num_trained: int) -> None:
    """Better now than after hours: two checkpoints are on the disk for a moment, and the adapter."""
    needed = num_trained * (2 * OPTIMISER_BYTES + 8)
    free = shutil.disk_usage(options.output.parent).free
    if free < needed:
        raise StorageFull(f"training into {options.output.parent} needs {needed:,} bytes free, got {free:,}")


def _checked(delta: Tensor, dtype: DTypeName) -> Tensor:
    if not torch.isfinite(delta).all():
        raise _diverged("values that are not finite")
    values = delta.to(TORCH_DTYPES[dtype])
    if not torch.isfinite(values).all():
        largest = float(delta.abs().max())
        raise TrainingRefused("values_dtype", expected="a dtype that holds every value", got=f"{dtype} for {largest:g}")
    return values


def _diverged(got: str) -> TrainingRefused:
    return TrainingRefused("learning_rate", expected="training that converges", got=got)
