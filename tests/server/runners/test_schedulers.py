from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from server.core.errors import RequestRejected
from server.runners.schedulers import DEFAULT, SCHEDULERS, make_scheduler, scheduler_names
from tests.server.runners.tiny_pipelines import SIZE, tiny_pipeline

pytestmark = pytest.mark.filterwarnings("ignore")  # those of diffusers

NOISE_SCHEDULERS = sorted(SCHEDULERS.keys() - {"flow_euler", "lcm"})


@pytest.fixture(scope="module")
def sd() -> Any:
    return tiny_pipeline("sd")


def draw(pipeline: Any, scheduler: Any) -> Tensor:
    pipeline.scheduler = scheduler
    generator = torch.Generator().manual_seed(2)
    image: Tensor = pipeline(
        "a dog", num_inference_steps=4, height=SIZE, width=SIZE, output_type="pt", generator=generator
    ).images
    return image


def test_each_name_that_is_offered_draws_and_no_two_draw_the_same(sd: Any) -> None:
    assert sorted(scheduler_names(sd)) == sorted([DEFAULT, *NOISE_SCHEDULERS])
    images = {name: draw(sd, make_scheduler(sd, name)) for name in NOISE_SCHEDULERS}
    assert all(bool(image.isfinite().all()) for image in images.values())
    names = list(images)
    same = [(a, b) for a in names for b in names if a < b and torch.equal(images[a], images[b])]
    assert same == []


@pytest.mark.parametrize(("family", "names"), [("sd3", {"flow_euler"}), ("flux", {"flow_euler"}), ("lcm", {"lcm"})])
def test_only_what_fits_the_base_is_offered(family: Any, names: set[str]) -> None:
    assert set(scheduler_names(tiny_pipeline(family))) == {DEFAULT, *names}


@pytest.mark.parametrize("name", [DEFAULT, *NOISE_SCHEDULERS])
def test_a_scheduler_has_the_bases_schedule_and_a_state_of_its_own(sd: Any, name: str) -> None:
    first, second = make_scheduler(sd, name), make_scheduler(sd, name)
    first.set_timesteps(5)
    second.set_timesteps(7)
    assert first is not second
    assert first is not sd.scheduler
    assert len(first.timesteps) < len(second.timesteps)
    assert first.config.beta_end == sd.scheduler.config.beta_end
    assert torch.equal(first.betas, sd.scheduler.betas)


def test_the_default_is_the_pipelines_own_class() -> None:
    pipeline = tiny_pipeline("flux")
    made = make_scheduler(pipeline)
    assert type(made) is type(pipeline.scheduler)
    assert made.config == pipeline.scheduler.config


@pytest.mark.parametrize("name", ["", "euler2", "EulerDiscreteScheduler", "flow_euler", "x" * 1000])
def test_an_unknown_name_is_refused_with_those_that_are_known(sd: Any, name: str) -> None:
    with pytest.raises(RequestRejected, match="expected one of default, ddim"):
        make_scheduler(sd, name)
