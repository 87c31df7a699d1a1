"""A folder of pictures in, an adapter file out: train the values of one mask in a diffusers pipeline.

The recipe is the paper's for vision (SHiRA, arXiv 2406.13175, appendix D): AdamW, weight decay 0, learning rate 1e-4
falling along a cosine, 2 % of each weight. Small bases want a higher learning rate.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace

import torch

from adapters_store.adapter import TORCH_DTYPES, canonical_json, sha256_digest
from adapters_store.base import describe_checkpoint
from adapters_store.tools.checkpoint import stored_weights
from adapters_store.tools.data import MAX_HELD_OUT
from adapters_store.tools.pictures.denoising import DenoisingLoss, mean_denoising_loss
from adapters_store.tools.pictures.draws import Draws, EncodedPictures
from adapters_store.tools.pictures.families import family_of
from adapters_store.tools.pictures.folder import CaptionedPicture, pictures_digest, read_folder
from adapters_store.tools.pictures.noising import noising_of
from adapters_store.tools.pictures.options import PictureOptions, check_options
from adapters_store.tools.pictures.pipeline import (
    adaptable_module,
    check_resolution,
    default_resolution,
    encode_pictures,
    load_pipeline,
    target_layers,
)
from adapters_store.tools.train_lesson import Lesson, TrainReport, learn
from adapters_store.tools.train_resume import check_progress

__all__ = ["PictureOptions", "TrainReport", "picture_lesson", "train_pictures"]

MEASURED_DRAWS = 256
MEASURING, CALIBRATING = 1 << 32, 1 << 33  # added to the seed, which is below: draws of their own


def train_pictures(options: PictureOptions) -> TrainReport:
    """Writes as ``learn`` does. Raises TrainingRefused for options, pictures or a base that cannot make an adapter,
    StorageFull."""
    started = time.monotonic()
    check_options(options)
    check_progress(options)
    options, lesson = picture_lesson(options)
    return learn(lesson, options, started=started)


def picture_lesson(options: PictureOptions) -> tuple[PictureOptions, Lesson]:
    """What is learned, and the options with the steps counted. Raises TrainingRefused."""
    pictures = read_folder(options.data, caption=options.caption)
    prior: list[CaptionedPicture] = []
    if options.prior_data is not None:
        prior = read_folder(options.prior_data, caption=options.prior_caption, field="prior_data")
    base = describe_checkpoint(options.model_dir)
    pipeline = load_pipeline(options.model_dir, dtype=TORCH_DTYPES[options.precision], device=options.device)
    family = family_of(pipeline)
    noising = noising_of(pipeline.scheduler, snr_gamma=options.snr_gamma)
    components = adaptable_module(pipeline, base)
    names = target_layers(components, base, options.targets)
    resolution = options.resolution or default_resolution(pipeline, base.adaptable_components[0])
    check_resolution(pipeline, resolution)
    captions = ["", *sorted({picture.caption for picture in (*pictures, *prior)} - {""})]
    numbers = {caption: number for number, caption in enumerate(captions)}

    def encode(chosen: list[CaptionedPicture]) -> EncodedPictures:
        latents = encode_pictures(
            pipeline, chosen, resolution=resolution, has_mirrors=options.flip, batch_size=options.batch_size
        )
        return EncodedPictures(latents=latents, captions=torch.tensor([numbers[picture.caption] for picture in chosen]))

    training, held_out = _split(encode(pictures), options.held_out)
    num_steps = options.max_steps or math.ceil(options.epochs * len(training) / options.batch_size)
    drawn_prior = encode(prior) if prior else None

    def draws(num_draws: int, seed: int) -> Draws:
        return Draws(
            training,
            num_draws,
            seed=seed,
            caption_dropout=options.caption_dropout,
            prior=drawn_prior,
            prior_weight=options.prior_weight,
        )

    measured = Draws(held_out if len(held_out) else training, MEASURED_DRAWS, seed=MEASURING)
    trains_text = any(name.startswith("text_encoder") for name in names)
    model = DenoisingLoss(components, family, noising, captions, trains_text=trains_text)
    lesson = Lesson(
        base=base.fingerprint,
        model=model,
        names=names,
        stored_weights=lambda: stored_weights(options.model_dir, names),
        training=draws(num_steps * options.batch_size, options.seed),
        calibration=draws(options.calibration_examples, options.seed + CALIBRATING),
        measure=lambda: mean_denoising_loss(model, measured, batch_size=options.batch_size),
        num_held_out=len(held_out),
        data_digest=sha256_digest(canonical_json([pictures_digest(pictures), pictures_digest(prior)])),
        loss_unit="mean squared error of the prediction",
        card=_card(options, resolution, num_pictures=len(training)),
    )
    return replace(options, max_steps=num_steps), lesson


def _split(pictures: EncodedPictures, share: float) -> tuple[EncodedPictures, EncodedPictures]:
    """(train, held out), the latter spread evenly over the folder; of a handful of pictures none is held out."""
    num_pictures = len(pictures)
    num_held_out = min(round(share * num_pictures), MAX_HELD_OUT, num_pictures - 1)
    is_held_out = torch.zeros(num_pictures, dtype=torch.bool)
    if num_held_out:
        is_held_out[(torch.arange(num_held_out) * num_pictures + num_pictures // 2) // num_held_out] = True
    return pictures.take(~is_held_out), pictures.take(is_held_out)


def _card(options: PictureOptions, resolution: int, *, num_pictures: int) -> dict[str, object]:
    card: dict[str, object] = {
        "pictures": num_pictures,
        "resolution": resolution,
        "caption_dropout": options.caption_dropout,
        "flip": options.flip,
    }
    if options.caption is not None:
        card["caption"] = options.caption
    if options.prior_data is not None:
        card |= {"prior_data": options.prior_data.name, "prior_weight": options.prior_weight}
    if options.snr_gamma is not None:
        card["snr_gamma"] = options.snr_gamma
    return card
