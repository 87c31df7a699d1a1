"""What is told to mean something changes the picture, and what is told to mean nothing does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel, StableDiffusionPipeline
from torch import Tensor

from server.runners.guidance import (
    default_guidance_scale,
    guidance_threshold,
    takes_guidance_scale,
    takes_negative_prompt,
)
from tests.server.runners.tiny_pipelines import tiny_pipeline

NEGATIVE = "a dog"


def distilled_sd() -> Any:
    """Its U-Net has guidance as an input, so no second prediction is made."""
    pipeline = tiny_pipeline("sd")
    pipeline.register_modules(unet=tiny_pipeline("lcm").unet)
    return pipeline


def guided_flux() -> Any:
    pipeline = tiny_pipeline("flux")
    torch.manual_seed(0)
    config = {name: value for name, value in pipeline.transformer.config.items() if not name.startswith("_")}
    transformer = FluxTransformer2DModel(**{**config, "guidance_embeds": True})
    pipeline.register_modules(transformer=transformer.eval())
    return pipeline


PIPELINES: dict[str, Callable[[], Any]] = {
    "sd": lambda: tiny_pipeline("sd"),
    "sdxl": lambda: tiny_pipeline("sdxl"),
    "sd3": lambda: tiny_pipeline("sd3"),
    "flux": lambda: tiny_pipeline("flux"),
    "lcm": lambda: tiny_pipeline("lcm"),
    "distilled sd": distilled_sd,
    "guided flux": guided_flux,
}


@pytest.mark.parametrize(
    ("name", "has_guidance", "has_negative"),
    [
        ("sd", True, True),
        ("sdxl", True, True),
        ("sd3", True, True),
        ("flux", False, False),
        ("lcm", True, False),
        ("distilled sd", True, False),
        ("guided flux", True, False),
    ],
)
def test_what_is_said_to_be_heard_changes_the_picture_and_nothing_else_does(
    *, name: str, has_guidance: bool, has_negative: bool
) -> None:
    """Flux without embedded guidance drew the same bytes for 1 and 30; negative prompts were ignored without one."""
    pipeline = PIPELINES[name]()
    denoiser = "unet" if hasattr(pipeline, "unet") else "transformer"
    is_changed = not torch.equal(draw(pipeline, guidance_scale=2.0), draw(pipeline, guidance_scale=30.0))
    assert takes_guidance_scale(pipeline, denoiser) == is_changed == has_guidance
    assert torch.equal(draw(pipeline), draw(pipeline, guidance_scale=default_guidance_scale(pipeline)))

    assert takes_negative_prompt(pipeline) == has_negative
    if name == "lcm":  # it knows no such parameter
        return
    assert is_heard(pipeline) == has_negative
    if has_negative:
        threshold = guidance_threshold(pipeline)
        assert threshold is not None
        assert not is_heard(pipeline, guidance_scale=threshold)
        assert is_heard(pipeline, guidance_scale=threshold + 0.5)


def test_a_true_cfg_scale_above_1_hears_a_negative_prompt_whatever_the_guidance() -> None:
    """QwenImage's is 4 by default; it was taken for a base without negative prompts."""

    class TrueGuidance(FluxPipeline):  # type: ignore[misc]
        def __call__(
            self, prompt: str, negative_prompt: str | None = None, true_cfg_scale: float = 4.0, **wishes: Any
        ) -> Any:
            return super().__call__(prompt, negative_prompt=negative_prompt, true_cfg_scale=true_cfg_scale, **wishes)

    pipeline = tiny_pipeline("flux")
    pipeline.__class__ = TrueGuidance
    assert is_heard(pipeline)
    assert takes_negative_prompt(pipeline)
    assert guidance_threshold(pipeline) is None


def test_a_pipeline_that_guides_from_0_on_has_its_own_threshold() -> None:
    """As Z-Image and Krea do."""

    class GuidesSooner(StableDiffusionPipeline):  # type: ignore[misc]
        @property
        def do_classifier_free_guidance(self) -> bool:
            return bool(self._guidance_scale > 0)

    pipeline = tiny_pipeline("sd")
    pipeline.__class__ = GuidesSooner
    assert guidance_threshold(pipeline) == 0.0
    assert is_heard(pipeline, guidance_scale=0.5)
    assert not is_heard(pipeline, guidance_scale=0.0)


def is_heard(pipeline: Any, **wishes: Any) -> bool:
    return not torch.equal(draw(pipeline, **wishes), draw(pipeline, negative_prompt=NEGATIVE, **wishes))


def draw(pipeline: Any, **wishes: Any) -> Tensor:
    """(1, 3, 32, 32)"""
    image: Tensor = pipeline(
        "a cat",
        num_inference_steps=1,
        height=32,
        width=32,
        output_type="pt",
        generator=torch.Generator().manual_seed(1),
        **wishes,
    ).images
    return image
