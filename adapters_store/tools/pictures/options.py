"""What training on pictures can be told, and what of it is refused before anything is loaded."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from adapters_store.base_files import is_pipeline
from adapters_store.errors import TrainingRefused
from adapters_store.tools.train_options import RecipeOptions, Schedule, check_packages, check_recipe

PACKAGES = ("diffusers", "PIL")  # which all modules here but this one import


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureOptions(RecipeOptions):
    """To train a pipeline on a folder of pictures. ``targets`` are modules, all of whose linear layers and convolutions
    train, or last parts of layers' names; none is all of the denoiser.

    ``caption`` is that of every picture, in the place of captions in the folder. Of ``prior_data`` (what the base
    should go on drawing) one picture is learned for each of ``data``, its loss times ``prior_weight``. A caption is
    replaced by the empty one at the rate of ``caption_dropout``, which is what guidance needs. ``resolution`` is in
    pixels, the base's own unless given. ``snr_gamma`` is min-SNR weighting's γ (arXiv 2303.09556)."""

    sparsity: float = 0.02
    learning_rate: float = 1e-4
    schedule: Schedule = "cosine"
    max_steps: int | None = 1000
    caption: str | None = None
    prior_data: Path | None = None
    prior_caption: str | None = None
    prior_weight: float = 1.0
    caption_dropout: float = 0.1
    flip: bool = False
    resolution: int | None = None
    snr_gamma: float | None = None


def check_options(options: PictureOptions) -> None:
    """Refuses what could not end well, before anything is loaded. Raises TrainingRefused."""
    for field in ("prior_weight", "resolution", "snr_gamma"):
        number = getattr(options, field)
        if number is not None and not (math.isfinite(number) and number > 0):
            raise TrainingRefused(field, expected="a number above 0", got=str(number))
    if not 0 <= options.caption_dropout <= 1:
        raise TrainingRefused("caption_dropout", expected="a share from 0 to 1", got=str(options.caption_dropout))
    if options.prior_caption is not None and options.prior_data is None:
        raise TrainingRefused("prior_caption", expected="none without prior data", got=repr(options.prior_caption))
    if options.dora:
        raise TrainingRefused("dora", expected="a language model: here the mask's values train alone", got="pictures")
    check_recipe(options)
    for folder in (options.data, options.prior_data):
        if folder is not None and options.output.resolve().parent == folder.resolve():
            got = f"{options.output}, whose loss curve would be one of the pictures"
            raise TrainingRefused("output", expected="a file outside the folder of pictures", got=got)
    if not is_pipeline(options.model_dir):
        got = f"{options.model_dir}: no model_index.json"
        raise TrainingRefused("model", expected="a diffusers pipeline's directory", got=got)


def check_picture_packages() -> None:
    """Raises TrainingRefused."""
    check_packages(*PACKAGES)
