"""A file of text in, an adapter file out: train the values of one mask under transformers' Trainer.

The recipe is the paper's (SHiRA, arXiv 2406.13175, appendices D and H): AdamW, weight decay 0, learning rate 5e-4
falling linearly, three epochs, all of q, k, v, up and down.
"""

from __future__ import annotations

import time

from adapters_store.adapter import TORCH_DTYPES
from adapters_store.base import describe_checkpoint
from adapters_store.tools.checkpoint import load_causal_lm, load_tokenizer, stored_weights, target_weights
from adapters_store.tools.data import load_examples, split_held_out
from adapters_store.tools.loss import mean_loss
from adapters_store.tools.train_lesson import Lesson, TrainReport, learn
from adapters_store.tools.train_options import TrainOptions, check_options
from adapters_store.tools.train_resume import check_progress

__all__ = ["TrainOptions", "TrainReport", "train"]


def train(options: TrainOptions) -> TrainReport:
    """Writes as ``learn`` does. Raises TrainingRefused for options, data or a model that cannot make an adapter,
    StorageFull."""
    started = time.monotonic()
    check_options(options)
    check_progress(options)
    return learn(_lesson(options), options, started=started)


def _lesson(options: TrainOptions) -> Lesson:
    base = describe_checkpoint(options.model_dir)
    names = target_weights(base, options.targets)
    examples = load_examples(options.data, load_tokenizer(options.model_dir), sequence_length=options.sequence_length)
    training, held_out = split_held_out(examples, options.held_out)
    model = load_causal_lm(options.model_dir, dtype=TORCH_DTYPES[options.precision], device=options.device)
    return Lesson(
        base=base.fingerprint,
        model=model,
        names=names,
        stored_weights=lambda: stored_weights(options.model_dir, names),
        training=training,
        calibration=training.spread(options.calibration_examples),
        measure=lambda: mean_loss(model, held_out, batch_size=options.batch_size),
        num_held_out=len(held_out),
        data_digest=examples.digest,
        loss_unit="loss per token (nats)",
        card={"sequence_length": options.sequence_length},
    )
