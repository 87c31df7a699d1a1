"""How high the frequencies are that an adapter adds to the prediction: what CMLoRA orders adapters by.

A proxy: the change that an adapter makes to the denoiser's answer on noised latents of real pictures, and how much of
its energy is in the upper half of the frequencies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from adapters_store.adapter import Version
from adapters_store.blend import BASE, Blend, BlendMember
from examples.emoji.measure.painter import Painter

STEPS = (900, 600, 300, 100)  # of 1,000, from noise to picture
NUM_LATENTS = 32


def frequency_report(
    painter: Painter, versions: Mapping[str, Version], latents: Tensor, captions: list[str]
) -> Iterator[dict[str, Any]]:
    """For each adapter, at each step: ``change``, the mean square of what it changes against the mean square of the
    base's answer, and ``high_share``, between 0 and 1; white noise has three quarters.

    latents (n, channels, height, width) as the denoiser knows them."""
    before = {step: _answer(painter, BASE, latents, captions, step) for step in STEPS}
    for name, version in versions.items():
        blend = Blend(members=(BlendMember(version=version, scale=1.0),))
        for step in STEPS:
            change = _answer(painter, blend, latents, captions, step) - before[step]
            yield {
                "adapter": name,
                "step": step,
                "change": round(float(change.square().mean() / before[step].square().mean()), 4),
                "high_share": round(high_share(change), 4),
            }


def high_share(change: Tensor) -> float:
    """Of the energy of (n, channels, height, width), constants left out: what is not in the lower half of the
    frequencies along both sides."""
    height, width = change.shape[-2:]
    energy = torch.fft.fft2(change.float()).abs().square().sum((0, 1))
    energy[0, 0] = 0
    rows, columns = torch.fft.fftfreq(height).abs()[:, None], torch.fft.fftfreq(width).abs()[None]
    is_low = (rows < 0.25) & (columns < 0.25)
    return float(energy[~is_low].sum() / energy.sum())


@torch.inference_mode()
def _answer(painter: Painter, blend: Blend, latents: Tensor, captions: list[str], step: int) -> Tensor:
    painter.stack.execution.activate(blend)
    pipeline = painter.stack.loaded.pipeline
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(step))
    steps = torch.full((len(latents),), step)
    text, _ = pipeline.encode_prompt(captions, "cpu", 1, do_classifier_free_guidance=False)
    answer: Tensor = pipeline.unet(pipeline.scheduler.add_noise(latents, noise, steps), steps, text).sample
    return answer
