"""What an image looks like on the way: its latents, as they are after a step, through the pipeline's own decoder."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from server.core.requests import Picture

MAX_SIDE = 32  # latents; larger ones are averaged down first, so that a preview costs little beside a step


def can_preview(pipeline: Any) -> bool:
    """Whether this pipeline shows its latents, and ``preview`` knows how they become pixels."""
    if "callback_on_step_end" not in inspect.signature(type(pipeline).__call__).parameters:
        return False
    vae = getattr(pipeline, "vae", None)
    return isinstance(vae, nn.Module) and hasattr(vae, "decode") and hasattr(vae.config, "scaling_factor")


@torch.inference_mode()
def preview(pipeline: Any, latents: Tensor, height: int, width: int) -> Picture:
    """Of one image's latents: (1, channels, h, w), or packed into tokens as Flux does."""
    if latents.dim() == 3:
        latents = pipeline._unpack_latents(latents, height, width, pipeline.vae_scale_factor)
    config = pipeline.vae.config
    latents = _shrink(latents.float() / config.scaling_factor + (getattr(config, "shift_factor", None) or 0.0))
    decoded = pipeline.vae.decode(latents.to(pipeline.vae.dtype), return_dict=False)[0][0]
    pixels = ((decoded.float().nan_to_num() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)  # (3, h, w)
    rgb = pixels.permute(1, 2, 0).contiguous().cpu().numpy().tobytes()
    return Picture(width=pixels.shape[2], height=pixels.shape[1], rgb=rgb)


def _shrink(latents: Tensor) -> Tensor:
    side = max(latents.shape[-2:])
    if side <= MAX_SIDE:
        return latents
    height, width = (max(1, round(length * MAX_SIDE / side)) for length in latents.shape[-2:])
    return nn.functional.adaptive_avg_pool2d(latents, (height, width))
