"""The way from a lesson, what a model is to learn from what, to an adapter file: the same for text and pictures."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn
from torch.utils.data import Dataset

from adapters_store.adapter import Digest, Fingerprint, Version
from adapters_store.errors import TrainingRefused
from adapters_store.format import write_adapter
from adapters_store.tools.applied import applied
from adapters_store.tools.calibrate import accumulated_gradients
from adapters_store.tools.loss_curve import write_loss_curve
from adapters_store.tools.train_adapter import choose_mask, diverged, train_adapter
from adapters_store.tools.train_options import RecipeOptions
from adapters_store.tools.train_resume import keep_index_set, kept_index_set, progress_kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """``model``, called with a batch of examples, gives its ``loss``. ``stored_weights`` reads the ``names`` that train
    as the checkpoint stores them; ``calibration`` is what masks may look at; ``measure`` gives the loss, in
    ``loss_unit``, of the model as it is, on the ``num_held_out`` examples that training does not see. ``card`` is what
    the adapter's card says of this kind of examples."""

    base: Fingerprint
    model: nn.Module
    names: list[str]
    stored_weights: Callable[[], Iterable[tuple[str, Tensor]]]
    training: Dataset[dict[str, Tensor]]
    calibration: Dataset[dict[str, Tensor]]
    measure: Callable[[], float]
    num_held_out: int
    data_digest: Digest
    loss_unit: str
    card: dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainReport:
    """The held-out losses are of the base and of the very adapter that was written, applied as a server applies it to
    weights of ``precision``. Text: means over predicted tokens, in nats. Pictures: mean squared errors of the noise
    predicted; if there are ``num_held_out`` 0, then of the pictures trained on, under other noise."""

    output: Path
    loss_curve: Path
    version: Version
    base: Fingerprint
    data_digest: Digest
    num_weights: int
    num_entries: int
    num_trained: int
    num_steps: int
    num_held_out: int
    train_loss: float
    held_out_loss_before: float
    held_out_loss_after: float
    seconds: float


def learn(lesson: Lesson, options: RecipeOptions, *, started: float) -> TrainReport:
    """Writes the adapter to ``options.output``, and its loss curve beside it, once training is over. A failure leaves
    no adapter behind; what was trained until then stays in ``options.progress_dir`` for ``resume``. ``started`` is a
    reading of the monotonic clock.

    Raises TrainingRefused, StorageFull."""
    before = lesson.measure()
    if not math.isfinite(before):
        raise TrainingRefused("model", expected="a base with a finite loss on the held-out data", got=str(before))
    with progress_kept(options, lesson.base, lesson.data_digest) as folder:
        index_set = kept_index_set(folder)
        if index_set is None:
            index_set = choose_mask(lesson.stored_weights(), options, lambda: _gradients(lesson, options))
            keep_index_set(folder, index_set)
        trained = train_adapter(
            lesson.model, index_set, lesson.training, options, base=lesson.base, progress_dir=folder
        )
        with applied(lesson.model, [(trained.adapter, 1.0)]):
            after = lesson.measure()
        if not math.isfinite(after):
            raise diverged(f"a held-out loss of {after}")
        report = TrainReport(
            output=options.output,
            loss_curve=options.loss_curve,
            version=trained.adapter.version,
            base=lesson.base,
            data_digest=lesson.data_digest,
            num_weights=len(index_set.table),
            num_entries=index_set.num_entries,
            num_trained=trained.num_trained,
            num_steps=trained.outcome.num_steps,
            num_held_out=lesson.num_held_out,
            train_loss=trained.outcome.mean_loss,
            held_out_loss_before=before,
            held_out_loss_after=after,
            seconds=time.monotonic() - started,
        )
        write_loss_curve(
            report.loss_curve,
            trained.outcome.losses,
            title=options.output.name,
            unit=lesson.loss_unit,
            held_out=(before, after),
        )
        write_adapter(trained.adapter, options.output, card=_card(lesson, options, report))
    return report


def _gradients(lesson: Lesson, options: RecipeOptions) -> dict[str, Tensor]:
    return accumulated_gradients(lesson.model, lesson.names, lesson.calibration, batch_size=options.batch_size)


def _card(lesson: Lesson, options: RecipeOptions, report: TrainReport) -> dict[str, object]:
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
        **lesson.card,
        "precision": options.precision,
        "steps": report.num_steps,
        "trained_parameters": report.num_trained,
        "train_loss": round(report.train_loss, 4),
        "held_out_loss_before": round(report.held_out_loss_before, 4),
        "held_out_loss_after": round(report.held_out_loss_after, 4),
    }
