"""What a denoiser is shown and what it should answer, by the kind of process its scheduler says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.training_utils import compute_snr
from torch import Tensor

from adapters_store.errors import TrainingRefused

PREDICTIONS = ("epsilon", "v_prediction", "sample")
TINY_SNR = 1e-8  # schedules that end in nothing but noise have a ratio of 0 there


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Noised:
    """``timesteps`` and ``weight``, of the squared error, are (batch,)."""

    latents: Tensor
    timesteps: Tensor
    target: Tensor
    weight: Tensor


class Noising(Protocol):
    def noised(self, latents: Tensor, noise: Tensor, fraction: Tensor) -> Noised:
        """``fraction`` (batch,), uniform in [0, 1), stands for the timestep."""
        ...


def noising_of(scheduler: Any, *, snr_gamma: float | None) -> Noising:
    """Raises TrainingRefused for a scheduler that belongs to neither process."""
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        if snr_gamma is not None:
            raise TrainingRefused("snr_gamma", expected="none for flow matching", got=str(snr_gamma))
        return FlowMatching(scheduler)
    prediction = scheduler.config.get("prediction_type", "epsilon")
    if not hasattr(scheduler, "alphas_cumprod") or prediction not in PREDICTIONS:
        raise TrainingRefused(
            "model",
            expected=f"a scheduler of noise levels that predicts one of {', '.join(PREDICTIONS)}, or flow matching",
            got=f"{type(scheduler).__name__} that predicts {prediction}",
        )
    return Diffusion(DDPMScheduler.from_config(scheduler.config), prediction, snr_gamma)


class Diffusion:
    """DDPM's noise levels, whatever scheduler samples with them. With ``snr_gamma`` errors are weighed by
    min(SNR, γ) in terms of the clean latents (Min-SNR, arXiv 2303.09556, section 3.4)."""

    def __init__(self, scheduler: Any, prediction: str, snr_gamma: float | None) -> None:
        self.scheduler = scheduler
        self.prediction = prediction
        self.snr_gamma = snr_gamma

    def noised(self, latents: Tensor, noise: Tensor, fraction: Tensor) -> Noised:
        timesteps = (fraction * self.scheduler.config.num_train_timesteps).long()
        match self.prediction:
            case "epsilon":
                target = noise
            case "v_prediction":
                target = self.scheduler.get_velocity(latents, noise, timesteps)
            case _:
                target = latents
        return Noised(
            latents=self.scheduler.add_noise(latents, noise, timesteps),
            timesteps=timesteps,
            target=target,
            weight=self._weight(timesteps),
        )

    def _weight(self, timesteps: Tensor) -> Tensor:
        if self.snr_gamma is None:
            return torch.ones_like(timesteps, dtype=torch.float32)
        snr: Tensor = compute_snr(self.scheduler, timesteps)
        clamped = snr.clamp(max=self.snr_gamma)
        match self.prediction:
            case "epsilon":
                return clamped / snr.clamp(min=TINY_SNR)
            case "v_prediction":
                return clamped / (snr + 1)
            case _:
                return clamped


class FlowMatching:
    """Stable Diffusion 3's recipe (arXiv 2403.03206, section 3.1): straight paths, timesteps from a logit-normal
    distribution, every error with the same weight."""

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = FlowMatchEulerDiscreteScheduler.from_config(scheduler.config)

    def noised(self, latents: Tensor, noise: Tensor, fraction: Tensor) -> Noised:
        last = len(self.scheduler.timesteps) - 1
        share = torch.special.ndtri(fraction.double()).sigmoid()  # (batch,)
        levels = (share * self.scheduler.config.num_train_timesteps).long().clamp(max=last).cpu()
        timesteps = self.scheduler.timesteps[levels].to(latents.device)
        sigmas = self.scheduler.sigmas[levels].to(latents.device)[:, None, None, None]
        return Noised(
            latents=(1 - sigmas) * latents + sigmas * noise,
            timesteps=timesteps,
            target=noise - latents,
            weight=torch.ones_like(fraction),
        )
