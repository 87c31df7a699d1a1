from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from diffusers.training_utils import compute_snr
from torch import Tensor

from adapters_store.errors import TrainingRefused
from adapters_store.tools.pictures.noising import PREDICTIONS, Noised, noising_of

LATENTS, NOISE = torch.randn(2, 6, 4, 5, 5, generator=torch.Generator().manual_seed(0)).unbind()
FRACTIONS = torch.tensor([0.0, 0.2, 0.4, 0.6, 0.8, 0.9999])


def noised(scheduler: Any, *, snr_gamma: float | None = None) -> Noised:
    return noising_of(scheduler, snr_gamma=snr_gamma).noised(LATENTS, NOISE, FRACTIONS)


def clean(scheduler: DDPMScheduler, shown: Noised) -> Tensor:
    """What DDPM makes of a denoiser that answers rightly."""
    rows = zip(shown.target, shown.timesteps, shown.latents, strict=True)
    return torch.stack([scheduler.step(*row).pred_original_sample for row in rows])


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("kind", [DDIMScheduler, EulerDiscreteScheduler])
def test_a_denoiser_that_answers_rightly_gives_the_picture_back(prediction: str, kind: Any) -> None:
    scheduler = kind(prediction_type=prediction)
    ddpm = DDPMScheduler.from_config(scheduler.config, clip_sample=False, prediction_type=prediction)
    shown = noised(scheduler)
    assert shown.timesteps.tolist() == [0, 200, 400, 600, 800, 999]
    torch.testing.assert_close(clean(ddpm, shown), LATENTS, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_min_snr_weighs_errors_of_the_clean_picture_alike_whatever_is_predicted(prediction: str) -> None:
    scheduler = DDPMScheduler(prediction_type=prediction)
    shown = noised(scheduler, snr_gamma=5.0)
    snr = compute_snr(scheduler, shown.timesteps)
    wrong = Noised(latents=shown.latents, timesteps=shown.timesteps, target=shown.target + 1e-3, weight=shown.weight)
    plain = DDPMScheduler.from_config(scheduler.config, clip_sample=False)
    of_clean = (clean(plain, wrong) - clean(plain, shown)).square().mean(dim=(1, 2, 3)) / 1e-6
    late = slice(1, None)  # at timestep 0 the difference drowns in fp32
    torch.testing.assert_close((shown.weight / of_clean)[late], snr.clamp(max=5.0)[late], rtol=0.05, atol=0)


def test_flow_matching_goes_straight_from_the_picture_to_the_noise() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    shown = noised(scheduler)
    sigmas = shown.timesteps[:, None, None, None] / scheduler.config.num_train_timesteps
    torch.testing.assert_close(shown.latents, (1 - sigmas) * LATENTS + sigmas * NOISE)
    torch.testing.assert_close(shown.latents - sigmas * shown.target, LATENTS, atol=1e-5, rtol=1e-5)
    assert shown.timesteps[0] == scheduler.config.num_train_timesteps


def test_flow_matching_draws_middle_timesteps_most() -> None:
    fractions = torch.arange(1000) / 1000
    noising = noising_of(FlowMatchEulerDiscreteScheduler(), snr_gamma=None)
    timesteps = noising.noised(torch.zeros(1000, 1, 1, 1), torch.zeros(1000, 1, 1, 1), fractions).timesteps
    middle = ((timesteps > 250) & (timesteps < 750)).float().mean()
    assert 0.7 < float(middle) < 0.75  # P(|normal| < ln 3)


def test_other_processes_are_refused() -> None:
    with pytest.raises(TrainingRefused, match=r"model: .* got EDMEulerScheduler"):
        noising_of(EDMEulerScheduler(), snr_gamma=None)
    with pytest.raises(TrainingRefused, match="snr_gamma: expected none for flow matching"):
        noising_of(FlowMatchEulerDiscreteScheduler(), snr_gamma=5.0)
