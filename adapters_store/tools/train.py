"""Text file in, adapter file out: train the values of one mask under transformers' Trainer.

The recipe is the paper's (SHiRA, arXiv 2406.13175, appendix D): AdamW, weight decay 0, learning rate 5e-4 falling
linearly, all of q, k, v, up and down.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, Trainer, TrainingArguments

from adapters_store.adapter import (
    TORCH_DTYPES,
    Digest,
    Fingerprint,
    IndexSet,
    Version,
    build_adapter,
)
from adapters_store.base import BaseDescription, describe_checkpoint, find_shards
from adapters_store.errors import TrainingRefused
from adapters_store.format import write_adapter
from adapters_store.tools.masks import build_mask
from adapters_store.tools.sparse_linear import SparseParametrisation
from adapters_store.tools.text import Sequences, load_text
from adapters_store.tools.train_options import TrainOptions, check_options
from adapters_store.tools.train_progress import ProgressBar

__all__ = ["TrainOptions", "TrainReport", "train"]

LOGGING_STEPS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainReport:
    """Losses are means over tokens, in nats; the held-out ones are of the very values that were written."""

    output: Path
    version: Version
    base: Fingerprint
    text_digest: Digest
    num_weights: int
    num_entries: int
    num_steps: int
    num_tokens_seen: int
    train_loss: float
    held_out_loss_before: float
    held_out_loss_after: float
    seconds: float


def train(options: TrainOptions) -> TrainReport:
    """Writes the adapter to ``options.output`` once training is over; a failure leaves no file behind.

    Raises TrainingRefused for options, text or a model that cannot make an adapter.
    """
    started = time.monotonic()
    check_options(options)
    base = describe_checkpoint(options.model_dir)
    names = target_weights(base, options.targets)
    text = load_text(
        options.text,
        _load_tokenizer(options.model_dir),
        sequence_length=options.sequence_length,
        held_out=options.held_out,
    )
    index_set = _build_mask(options, names)
    model = _load_model(options)
    with _attach(model, index_set) as sparse:
        before = held_out_loss(model, text.held_out, options)
        num_steps, train_loss = fit(model, text.train, options)
        values = _finished_values(sparse, options)
        after = held_out_loss(model, text.held_out, options)
    adapter = build_adapter(base=base.fingerprint, index_set=index_set, values=values)
    report = TrainReport(
        output=options.output,
        version=adapter.version,
        base=base.fingerprint,
        text_digest=text.digest,
        num_weights=len(index_set.table),
        num_entries=index_set.num_entries,
        num_steps=num_steps,
        num_tokens_seen=num_steps * options.batch_size * options.sequence_length,
        train_loss=train_loss,
        held_out_loss_before=before,
        held_out_loss_after=after,
        seconds=time.monotonic() - started,
    )
    write_adapter(adapter, options.output, card=card(options, report))
    return report


def target_weights(base: BaseDescription, targets: tuple[str, ...]) -> list[str]:
    """Names of the checkpoint's weights that ``targets`` mean, sorted. A target that means none is refused."""
    matches = {target: [name for name in base.weights if _means(target, name)] for target in targets}
    for target, names in matches.items():
        if not names:
            known = sorted({name.split(".")[-2] for name in base.weights if name.endswith("_proj.weight")})
            raise TrainingRefused("targets", expected=f"a linear layer (such as {', '.join(known)})", got=repr(target))
    return sorted({name for names in matches.values() for name in names})


def _means(target: str, weight_name: str) -> bool:
    module_name = weight_name.removesuffix(".weight")
    return module_name != weight_name and (module_name == target or module_name.endswith("." + target))


def stored_weights(model_dir: Path, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
    """The named weights in their stored dtype, one at a time: masks rank what is stored, not what is loaded."""
    wanted = set(names)
    for shard in find_shards(model_dir):
        with safe_open(shard, framework="pt") as file:
            for name in sorted(wanted.intersection(file.keys())):
                yield name, file.get_tensor(name)


def fit(model: nn.Module, sequences: Sequences, options: TrainOptions) -> tuple[int, float]:
    """Trains whatever of ``model`` requires a gradient; returns the steps taken and the mean loss over them."""
    with tempfile.TemporaryDirectory(prefix="shira-train-") as scratch:
        arguments = TrainingArguments(
            output_dir=scratch,
            learning_rate=options.learning_rate,
            lr_scheduler_type="linear",
            weight_decay=0.0,
            optim="adamw_torch",
            num_train_epochs=options.epochs,
            max_steps=options.max_steps or -1,
            per_device_train_batch_size=options.batch_size,
            seed=options.seed,
            bf16=options.precision == "bfloat16",
            use_cpu=options.device == "cpu",
            dataloader_pin_memory=options.device != "cpu",
            logging_steps=LOGGING_STEPS,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = Trainer(model=model, args=arguments, train_dataset=sequences, callbacks=[ProgressBar()])
        trainer.remove_callback(PrinterCallback)
        outcome = trainer.train()
    return outcome.global_step, float(outcome.training_loss)


@torch.no_grad()
def held_out_loss(model: nn.Module, sequences: Sequences, options: TrainOptions) -> float:
    """Mean loss per token, in nats, over sequences of one length."""
    model.eval()
    losses = []
    for batch in DataLoader(sequences, batch_size=options.batch_size):
        inputs = batch["input_ids"].to(options.device)
        with torch.autocast(options.device, torch.bfloat16, enabled=options.precision == "bfloat16"):
            loss = model(input_ids=inputs, labels=inputs).loss
        losses.append(loss.float() * inputs.shape[0])
    return float(torch.stack(losses).sum() / len(sequences))


def card(options: TrainOptions, report: TrainReport) -> dict[str, object]:
    """What a reader of the file wants to know of its making; no paths of the machine that made it."""
    return {
        "made_by": "shira train",
        "base": options.model_dir.name,
        "text": options.text.name,
        "text_digest": report.text_digest,
        "mask": options.mask,
        "sparsity": options.sparsity,
        "targets": list(options.targets),
        "seed": options.seed,
        "learning_rate": options.learning_rate,
        "batch_size": options.batch_size,
        "sequence_length": options.sequence_length,
        "precision": options.precision,
        "steps": report.num_steps,
        "train_loss": round(report.train_loss, 4),
        "held_out_loss_before": round(report.held_out_loss_before, 4),
        "held_out_loss_after": round(report.held_out_loss_after, 4),
    }


def _load_tokenizer(model_dir: Path) -> Any:
    try:
        return AutoTokenizer.from_pretrained(model_dir, local_files_only=True)
    except (OSError, ValueError) as error:
        raise TrainingRefused("model", expected="a directory with a tokenizer", got=str(error)) from error


def _load_model(options: TrainOptions) -> nn.Module:
    """In fp32: deltas are far below the step of a bf16 weight."""
    try:
        model = AutoModelForCausalLM.from_pretrained(options.model_dir, dtype=torch.float32, local_files_only=True)
    except (OSError, ValueError) as error:
        raise TrainingRefused("model", expected="a transformers causal language model", got=str(error)) from error
    loaded: nn.Module = model.to(options.device)
    return loaded


def _build_mask(options: TrainOptions, names: list[str]) -> IndexSet:
    try:
        return build_mask(
            stored_weights(options.model_dir, names), options.mask, sparsity=options.sparsity, seed=options.seed
        )
    except ValueError as error:
        raise TrainingRefused("targets", expected="weights that can carry the mask", got=str(error)) from error


def _attach(model: nn.Module, index_set: IndexSet) -> SparseParametrisation:
    try:
        return SparseParametrisation(model, index_set)
    except ValueError as error:
        raise TrainingRefused("targets", expected="linear layers of the model", got=str(error)) from error


def _finished_values(sparse: SparseParametrisation, options: TrainOptions) -> Tensor:
    """The values as the file will hold them, rounded in the model too, so that what is measured is what is written."""
    values = sparse.values().to(TORCH_DTYPES[options.values_dtype])
    if not torch.isfinite(values).all():
        raise TrainingRefused("learning_rate", expected="training that converges", got="values that are not finite")
    sparse.load_values(values)
    return values
