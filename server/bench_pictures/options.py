"""What one run measures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

UnetName = Literal["sdxl", "tiny"]
DType = Literal["bfloat16", "float16", "float32"]
Targets = Literal["attention", "all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PicturesOptions:
    """``model_dir`` is a diffusers pipeline; ``unet`` a random U-Net on which switching is timed besides. Adapters
    change the share ``sparsity`` of the denoiser's matrices and convolutions, or of its attention projections alone.
    ``lora_rank`` None: as many parameters. Images have ``num_steps`` denoising steps; every measurement is taken
    ``num_rounds`` times."""

    model_dir: Path
    dtype: DType = "float32"
    unet: UnetName | None = "sdxl"
    sparsity: float = 0.02
    targets: Targets = "all"
    lora_rank: int | None = None
    num_steps: int = 20
    num_rounds: int = 9
    num_switches: int = 1000
    seed: int = 0
