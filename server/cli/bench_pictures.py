"""``shira bench pictures``: a pipeline and a random U-Net in the form of SDXL's."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any, TextIO, get_args

import click

from server.bench_pictures.options import DType, PicturesOptions, Targets, UnetName
from server.core.waiting import wait_passively

SMALL_MODEL = Path("examples/emoji/model")


@click.command(context_settings={"max_content_width": 120})
@click.option(
    "--model",
    "model_dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=SMALL_MODEL,
    show_default=True,
    help="The directory of a text-to-image pipeline.",
)
@click.option("--dtype", type=click.Choice(get_args(DType)), default="float32", show_default=True, help="Of --model.")
@click.option(
    "--unet",
    type=click.Choice([*get_args(UnetName), "none"]),
    default="sdxl",
    show_default=True,
    help="A random one on which switching is timed besides; sdxl takes 14 GB of memory.",
)
@click.option("--sparsity", type=click.FloatRange(0, 1, min_open=True), default=0.02, show_default=True)
@click.option(
    "--targets",
    type=click.Choice(get_args(Targets)),
    default="all",
    show_default=True,
    help="What adapters change: every matrix and convolution of the denoiser, or its attention projections.",
)
@click.option("--lora-rank", type=click.IntRange(1), help="Of diffusers' LoRA.  [default: as many parameters as ours]")
@click.option("--steps", "num_steps", type=click.IntRange(1), default=20, show_default=True, help="Of an image.")
@click.option(
    "--rounds", "num_rounds", type=click.IntRange(1), default=9, show_default=True, help="Contenders take turns."
)
@click.option(
    "--switches", "num_switches", type=click.IntRange(1), default=1000, show_default=True, help="Then verify."
)
@click.option("--threads", type=click.IntRange(1), help="Of torch.  [default: torch's choice]")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--json", "json_file", type=click.File("w", lazy=False), help="One object per row and line.")
def pictures(*, unet: str, threads: int | None, json_file: TextIO | None, **chosen: Any) -> None:
    """Measure switching on denoisers beside diffusers' LoRA, images of several blends in turn, and composition."""
    wait_passively(os.environ)
    import torch
    from diffusers.utils import logging as diffusers_logging

    from server.bench_pictures.run import run

    diffusers_logging.disable_progress_bar()  # of loading a pipeline
    logging.getLogger("peft").setLevel(logging.ERROR)
    if threads is not None:
        torch.set_num_threads(threads)
    options = PicturesOptions(unet=None if unet == "none" else unet, **chosen)  # type: ignore[arg-type]
    run(options, json_file=json_file)
