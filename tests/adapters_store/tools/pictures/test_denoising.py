from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from adapters_store.tools.pictures.denoising import DenoisingLoss, mean_denoising_loss
from adapters_store.tools.pictures.draws import Draws, EncodedPictures
from adapters_store.tools.pictures.families import family_of
from adapters_store.tools.pictures.noising import noising_of
from tests.server.runners.tiny_pipelines import tiny_pipeline

CAPTIONS = ["", "a cat", "a dog"]


@pytest.fixture(scope="module")
def pipeline() -> Any:
    return tiny_pipeline("sd")


def loss_of(pipeline: Any, *, trains_text: bool = False) -> DenoisingLoss:
    components = nn.ModuleDict({"unet": pipeline.unet, "text_encoder": pipeline.text_encoder})
    noising = noising_of(pipeline.scheduler, snr_gamma=None)
    return DenoisingLoss(components, family_of(pipeline), noising, CAPTIONS, trains_text=trains_text)


def some_draws(count: int) -> Draws:
    latents = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return Draws(EncodedPictures(latents=latents, captions=torch.tensor([1, 2])), count, seed=0)


def batch(count: int = 4, **changed: Tensor) -> dict[str, Tensor]:
    draws = some_draws(count)
    collated: dict[str, Tensor] = default_collate([draws[number] for number in range(count)])
    return collated | changed


@torch.no_grad()
def test_the_loss_is_the_mean_of_the_squared_errors_each_with_its_weight(pipeline: Any) -> None:
    model = loss_of(pipeline)
    rows = [model(**{field: tensor[row : row + 1] for field, tensor in batch().items()})["loss"] for row in range(4)]
    weights = torch.tensor([1.0, 0.5, 0.0, 2.0])
    torch.testing.assert_close(model(**batch(weight=weights))["loss"], (torch.stack(rows) * weights).mean())


@torch.no_grad()
def test_captions_are_encoded_once_or_every_time_with_the_same_result_and_they_matter(pipeline: Any) -> None:
    once, every_time = loss_of(pipeline)(**batch()), loss_of(pipeline, trains_text=True)(**batch())
    torch.testing.assert_close(once, every_time)
    untold = loss_of(pipeline)(**batch(caption=torch.zeros(4, dtype=torch.int64)))
    assert not torch.allclose(untold["loss"], once["loss"], rtol=1e-6)


def test_what_is_measured_does_not_depend_on_the_batch_size(pipeline: Any) -> None:
    model, draws = loss_of(pipeline), some_draws(7)
    assert mean_denoising_loss(model, draws, batch_size=7) == pytest.approx(
        mean_denoising_loss(model, draws, batch_size=3), rel=1e-5
    )


def test_its_parameters_have_the_names_of_the_base(pipeline: Any) -> None:
    names = dict(loss_of(pipeline).named_parameters())
    assert "unet.down_blocks.0.resnets.0.conv1.weight" in names
    assert {name.partition(".")[0] for name in names} == {"unet", "text_encoder"}
