"""How each family of pipelines encodes a caption and asks its denoiser: all that training has to know of them apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from adapters_store.errors import TrainingRefused

FLUX_GUIDANCE = 3.5  # what bases that were distilled for guidance are told while they train, as diffusers' recipe does


class Family(Protocol):
    def encode(self, captions: list[str]) -> dict[str, Tensor]:
        """What the denoiser is told of each caption, its rows in their order. Differentiable in the text encoders."""
        ...

    def predict(self, latents: Tensor, timesteps: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
        """The denoiser's answer, of the latents' shape (batch, channels, height, width)."""
        ...


def family_of(pipeline: Any) -> Family:
    """Raises TrainingRefused for a pipeline that this loss would not teach."""
    kind = _FAMILIES.get(type(pipeline).__name__)
    if kind is None:
        expected = f"one of {', '.join(_FAMILIES)}"
        raise TrainingRefused("model", expected=expected, got=f"{type(pipeline).__name__}, which has a loss of its own")
    if getattr(pipeline, "unet", None) is not None and pipeline.unet.config.time_cond_proj_dim is not None:
        expected = "the base before it was distilled: noise prediction would undo that"
        raise TrainingRefused("model", expected=expected, got="a U-Net that is told the guidance scale")
    return kind(pipeline)


class StableDiffusion:
    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline

    def encode(self, captions: list[str]) -> dict[str, Tensor]:
        states, _ = self.pipeline.encode_prompt(captions, self.pipeline.device, 1, do_classifier_free_guidance=False)
        return {"encoder_hidden_states": states}

    def predict(self, latents: Tensor, timesteps: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
        predicted: Tensor = self.pipeline.unet(latents, timesteps, **conditions).sample
        return predicted


class StableDiffusionXL:
    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline

    def encode(self, captions: list[str]) -> dict[str, Tensor]:
        states, _, pooled, _ = self.pipeline.encode_prompt(captions, do_classifier_free_guidance=False)
        if self.pipeline.config.force_zeros_for_empty_prompt:  # what guidance steers away from
            is_told = torch.tensor([bool(caption) for caption in captions], device=states.device)
            states, pooled = states * is_told[:, None, None], pooled * is_told[:, None]
        return {"encoder_hidden_states": states, "text_embeds": pooled}

    def predict(self, latents: Tensor, timesteps: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
        height, width = (side * self.pipeline.vae_scale_factor for side in latents.shape[-2:])
        sizes = torch.tensor([height, width, 0, 0, height, width], dtype=latents.dtype, device=latents.device)
        added = {"text_embeds": conditions["text_embeds"], "time_ids": sizes.expand(len(latents), -1)}
        states = conditions["encoder_hidden_states"]
        predicted: Tensor = self.pipeline.unet(
            latents, timesteps, encoder_hidden_states=states, added_cond_kwargs=added
        ).sample
        return predicted


class StableDiffusion3:
    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline

    def encode(self, captions: list[str]) -> dict[str, Tensor]:
        states, _, pooled, _ = self.pipeline.encode_prompt(captions, None, None, do_classifier_free_guidance=False)
        return {"encoder_hidden_states": states, "pooled_projections": pooled}

    def predict(self, latents: Tensor, timesteps: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
        predicted: Tensor = self.pipeline.transformer(latents, timestep=timesteps, **conditions).sample
        return predicted


class Flux:
    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline

    def encode(self, captions: list[str]) -> dict[str, Tensor]:
        states, pooled, _ = self.pipeline.encode_prompt(captions)
        return {"encoder_hidden_states": states, "pooled_projections": pooled}

    def predict(self, latents: Tensor, timesteps: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
        transformer = self.pipeline.transformer
        count, _, height, width = latents.shape
        guidance = None
        if transformer.config.guidance_embeds:
            guidance = torch.full((count,), FLUX_GUIDANCE, device=latents.device)
        texts = conditions["encoder_hidden_states"].shape[1]
        packed = transformer(
            self.pipeline._pack_latents(latents, *latents.shape),
            timestep=timesteps / 1000,
            guidance=guidance,
            txt_ids=torch.zeros(texts, 3, device=latents.device, dtype=latents.dtype),
            img_ids=self.pipeline._prepare_latent_image_ids(
                count, height // 2, width // 2, latents.device, latents.dtype
            ),
            **conditions,
        ).sample
        scale = self.pipeline.vae_scale_factor
        predicted: Tensor = self.pipeline._unpack_latents(packed, height * scale, width * scale, scale)
        return predicted


_FAMILIES: dict[str, Callable[[Any], Family]] = {
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionXLPipeline": StableDiffusionXL,
    "StableDiffusion3Pipeline": StableDiffusion3,
    "FluxPipeline": Flux,
}
