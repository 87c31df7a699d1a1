"""What training can be told, and what of it is refused before anything is loaded."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

import torch

from adapters_store.adapter import DTypeName
from adapters_store.errors import TrainingRefused
from adapters_store.tools.masks import Axis, MaskName
from adapters_store.tools.native_files import SUFFIX
from adapters_store.tools.output_file import check_output

TARGETS = ("q_proj", "k_proj", "v_proj", "up_proj", "down_proj")
Precision = Literal["float32", "bfloat16"]
Schedule = Literal["linear", "cosine", "constant"]
Device = Literal["cpu", "cuda"]
CHOICES: dict[str, tuple[str, ...]] = {
    "mask": get_args(MaskName),
    "axis": get_args(Axis),
    "schedule": get_args(Schedule),
    "values_dtype": get_args(DTypeName),
    "precision": get_args(Precision),
    "device": get_args(Device),
}
POSITIVE = ("learning_rate", "epochs", "max_steps", "batch_size", "rank", "calibration_examples", "checkpoint_steps")
NOT_NEGATIVE = ("task", "offset")
PACKAGES = ("accelerate", "matplotlib")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeOptions:
    """What training can be told whatever the examples are. ``mask`` and what belongs to it as in ``masks.build_mask``;
    ``calibration_examples`` are what ``grad`` and ``snip`` see of the data before the mask is chosen. ``targets`` are
    module names, or their last parts. ``max_steps`` None trains ``epochs`` through the data. ``precision`` is the dtype
    that the model is held in; what is trained, and the optimiser's state, is always fp32. Progress is kept every
    ``checkpoint_steps`` in a folder beside the output until the adapter is written; ``resume`` goes on from there."""

    model_dir: Path
    data: Path
    output: Path
    mask: MaskName = "wm"
    sparsity: float = 0.01
    rank: int | None = None
    task: int = 0
    axis: Axis = "rows"
    offset: int = 0
    calibration_examples: int = 64
    dora: bool = False
    targets: tuple[str, ...] = ()
    seed: int = 0
    learning_rate: float = 5e-4
    schedule: Schedule = "linear"
    epochs: float = 3.0
    max_steps: int | None = None
    batch_size: int = 8
    held_out: float = 0.05
    values_dtype: DTypeName = "float32"
    precision: Precision = "float32"
    device: Device = "cpu"
    checkpoint_steps: int = 50
    resume: bool = False

    @property
    def progress_dir(self) -> Path:
        return self.output.with_name(self.output.name + ".training")

    @property
    def loss_curve(self) -> Path:
        return self.output.with_name(self.output.name.removesuffix(SUFFIX) + ".loss.png")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions(RecipeOptions):
    """To train a language model on a file of text."""

    targets: tuple[str, ...] = TARGETS
    sequence_length: int = 128


def check_options(options: TrainOptions) -> None:
    """Refuses what could not end well, before anything is loaded. Raises TrainingRefused."""
    if not options.targets:
        raise TrainingRefused("targets", expected="at least one linear layer", got="none")
    if options.held_out == 0:
        raise TrainingRefused("held_out", expected="a share between 0 and 1", got="0")
    if options.sequence_length < 2:
        raise TrainingRefused("sequence_length", expected="at least 2", got=str(options.sequence_length))
    if options.data.is_dir():
        got = f"{options.data}: a folder, as bases that draw pictures are trained on"
        raise TrainingRefused("data", expected="a file of text, for the base is a language model", got=got)
    check_recipe(options)


def check_recipe(options: RecipeOptions) -> None:
    """Raises TrainingRefused."""
    for field, choices in CHOICES.items():
        if getattr(options, field) not in choices:
            raise TrainingRefused(field, expected=f"one of {', '.join(choices)}", got=repr(getattr(options, field)))
    if not 0 <= options.seed < 2**32:
        raise TrainingRefused("seed", expected="0 to 2³² − 1", got=str(options.seed))
    if not 0 < options.sparsity <= 1:
        raise TrainingRefused("sparsity", expected="more than 0 and at most 1", got=str(options.sparsity))
    if not 0 <= options.held_out < 1:
        raise TrainingRefused("held_out", expected="a share between 0 and 1", got=str(options.held_out))
    for field in POSITIVE:
        number = getattr(options, field)
        if number is not None and not (math.isfinite(number) and number > 0):
            raise TrainingRefused(field, expected="a number above 0", got=str(number))
    for field in NOT_NEGATIVE:
        if getattr(options, field) < 0:
            raise TrainingRefused(field, expected="0 or more", got=str(getattr(options, field)))
    if options.task and options.mask != "wm":
        raise TrainingRefused("task", expected="0 for every mask but wm", got=f"{options.task} for {options.mask}")
    if (options.axis, options.offset) != ("rows", 0) and options.mask != "struct":
        got = f"{options.axis}, {options.offset} for {options.mask}"
        raise TrainingRefused("axis and offset", expected="rows, 0 for every mask but struct", got=got)
    if options.rank is not None and options.mask == "struct":
        raise TrainingRefused("rank", expected="none: struct takes whole lines", got=str(options.rank))
    check_packages(*PACKAGES)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise TrainingRefused("device", expected="cpu, for torch sees no CUDA device", got="'cuda'")
    if not options.model_dir.is_dir():
        raise TrainingRefused("model", expected="a directory with a checkpoint", got=f"{options.model_dir}: none there")
    check_output(options.output, [options.data, options.model_dir])


def check_packages(*packages: str) -> None:
    """Raises TrainingRefused."""
    for package in packages:
        if find_spec(package) is None:
            raise TrainingRefused(package, expected="pip install 'shira-server[train]'", got="not installed")
