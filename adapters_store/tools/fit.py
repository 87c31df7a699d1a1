"""transformers' Trainer over whatever of a model requires a gradient, stopped and resumed without a trace.

A checkpoint holds the trained parameters (not the base), the optimiser, the schedule, the random states and the place
in the data. It counts once its ``trainer_state.json``, written last, is there.
"""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PrinterCallback, Trainer, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from adapters_store.errors import StorageFull
from adapters_store.tools.train_options import RecipeOptions
from adapters_store.tools.train_progress import ProgressBar

PARAMETERS_FILE = "trained.safetensors"
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class FitOutcome:
    """``losses`` are those of every step's batch, from the first step on even if training was resumed."""

    num_steps: int
    losses: tuple[float, ...]

    @property
    def mean_loss(self) -> float:
        return sum(self.losses) / len(self.losses)


def fit(
    model: nn.Module, examples: Dataset[dict[str, Tensor]], options: RecipeOptions, *, progress_dir: Path | None = None
) -> FitOutcome:
    """Trains in place; ``model`` called with a batch of examples gives its ``loss``. With ``progress_dir`` checkpoints
    go there, and the newest one there is where it begins.

    Raises StorageFull when a checkpoint does not fit the disk."""
    with contextlib.ExitStack() as stack:
        folder = progress_dir or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shira-train-")))
        arguments = TrainingArguments(
            output_dir=str(folder),
            learning_rate=options.learning_rate,
            lr_scheduler_type=options.schedule,
            weight_decay=0.0,  # decay would move the trained weights towards the base's zero, not towards the base
            optim="adamw_torch",
            num_train_epochs=options.epochs,
            max_steps=options.max_steps or -1,
            per_device_train_batch_size=options.batch_size,
            seed=options.seed,
            use_cpu=options.device == "cpu",
            dataloader_pin_memory=options.device != "cpu",
            logging_steps=1,
            logging_nan_inf_filter=False,
            save_strategy="no" if progress_dir is None else "steps",
            save_steps=options.checkpoint_steps,
            save_total_limit=1,
            report_to="none",
            disable_tqdm=True,
        )
        _use_one_device(arguments)
        trainer = _Trainer(model=model, args=arguments, train_dataset=examples, callbacks=[ProgressBar()])
        trainer.remove_callback(PrinterCallback)
        newest = newest_checkpoint(folder)
        if newest is not None:
            logger.info("resuming after %s", newest.name)
        state = None if newest is None else TrainerState.load_from_json(str(newest / TRAINER_STATE_NAME))
        if state is not None and state.global_step >= state.max_steps:
            trainer._load_from_checkpoint(str(newest))  # it was the last step: Trainer would take one more
        else:
            trainer.train(resume_from_checkpoint=None if newest is None else str(newest))
            state = trainer.state
    losses = tuple(float(entry["loss"]) for entry in state.log_history if "loss" in entry)
    return FitOutcome(num_steps=state.global_step, losses=losses)


def _use_one_device(arguments: TrainingArguments) -> None:
    """Trainer would spread the batch over all GPUs it sees; what is trained lives on one."""
    _ = arguments.device  # counts them
    arguments._n_gpu = min(arguments._n_gpu, 1)


def newest_checkpoint(folder: Path) -> Path | None:
    """The last checkpoint that was written to its end."""
    checkpoints = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    return next((path for path in reversed(checkpoints) if _is_complete(path)), None)


class _Trainer(Trainer):  # type: ignore[misc]
    """Saves and loads what is trained, and nothing of the base."""

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        assert output_dir is not None
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        trained = {name: parameter.detach().contiguous() for name, parameter in self._trained()}
        save_file(trained, Path(output_dir) / PARAMETERS_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        saved = load_file(Path(resume_from_checkpoint) / PARAMETERS_FILE)
        with torch.no_grad():
            for name, parameter in self._trained():
                parameter.copy_(saved[name])

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        try:
            super()._save_checkpoint(model, trial)
        except (OSError, SafetensorError, RuntimeError) as error:  # torch's writer raises RuntimeError
            raise StorageFull(f"the disk refused a checkpoint of training: {error}") from error

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, parameter) for name, parameter in self.model.named_parameters() if parameter.requires_grad)


def _is_complete(checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / TRAINER_STATE_NAME).read_bytes())
    except (OSError, ValueError):
        return False
    return True
