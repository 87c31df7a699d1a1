"""Pictures as the model's autoencoder gives them back: what a perfect denoiser would draw."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from examples.emoji.measure.pictures import STYLES


def autoencoder_of(model: Path) -> Callable[[Tensor, float], Tensor]:
    """A function of uint8 pictures (n, 3, height, width) and the deviation of the noise put on their latents, in those
    of a latent. The noise is the same at every call."""
    vae = AutoencoderKL.from_pretrained(model / "vae", torch_dtype=torch.float32).eval()

    def autoencode(images: Tensor, noise: float) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            return torch.cat([copied(part, noise, generator) for part in torch.split(images, 64)])

    def copied(images: Tensor, noise: float, generator: torch.Generator) -> Tensor:
        latents: Tensor = vae.encode(images.float() / 127.5 - 1).latent_dist.mean
        latents = latents + noise / vae.config.scaling_factor * torch.randn(latents.shape, generator=generator)
        decoded: Tensor = vae.decode(latents).sample.float()
        return ((decoded.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)

    return autoencode


@torch.inference_mode()
def latents_of(model: Path, work: Path, num: int) -> tuple[Tensor, list[str]]:
    """Of pictures in the base's style, spread over all it learned, as the denoiser knows them; and their captions."""
    vae = AutoencoderKL.from_pretrained(model / "vae", torch_dtype=torch.float32).eval()
    with np.load(work / f"{STYLES[0]}.npz") as data:
        learned = np.flatnonzero(data["splits"] == "train")
        chosen = learned[np.linspace(0, len(learned) - 1, num).astype(int)]
        images, captions = (
            torch.from_numpy(data["images"][chosen]).permute(0, 3, 1, 2),
            data["captions"][chosen].tolist(),
        )
    latents: Tensor = vae.encode(images.float() / 127.5 - 1).latent_dist.mean
    return latents * vae.config.scaling_factor, captions
