"""The pipelines themselves are the oracle: training asks the denoiser exactly as they do when they draw."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from adapters_store.errors import TrainingRefused
from adapters_store.tools.pictures.families import family_of
from tests.server.runners.tiny_pipelines import Family, tiny_pipeline

PROMPT = "a red cat"
SIZE = 32


def asked_while_drawing(pipeline: Any, denoiser: Any) -> tuple[Tensor, Tensor, Tensor]:
    """(latents, timestep, answer) of the denoiser in the one step of a picture."""
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def remember(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any], answer: Any) -> None:
        latents = args[0] if args else kwargs["hidden_states"]
        timestep = args[1] if len(args) > 1 else kwargs["timestep"]
        seen.append((latents.clone(), timestep.clone(), answer[0].clone()))

    hook = denoiser.register_forward_hook(remember, with_kwargs=True)
    pipeline(PROMPT, num_inference_steps=1, guidance_scale=1.0, height=SIZE, width=SIZE, output_type="latent")
    hook.remove()
    assert len(seen) == 1
    return seen[0]


@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3"])
def test_the_denoiser_is_asked_as_the_pipeline_asks_it(name: Family) -> None:
    pipeline = tiny_pipeline(name)
    latents, timestep, answer = asked_while_drawing(pipeline, getattr(pipeline, "unet", None) or pipeline.transformer)
    family = family_of(pipeline)
    assert torch.equal(family.predict(latents, timestep.expand(1), family.encode([PROMPT])), answer)


def test_flux_is_asked_as_its_pipeline_asks_it() -> None:
    pipeline = tiny_pipeline("flux")
    packed, timestep, answer = asked_while_drawing(pipeline, pipeline.transformer)
    latents, expected = (
        pipeline._unpack_latents(tokens, SIZE, SIZE, pipeline.vae_scale_factor) for tokens in (packed, answer)
    )
    family = family_of(pipeline)
    assert torch.equal(family.predict(latents, timestep * 1000, family.encode([PROMPT])), expected)


def test_rows_of_a_batch_have_their_own_captions() -> None:
    family = family_of(tiny_pipeline("sdxl"))
    both, second = family.encode(["a cat", "a dog"]), family.encode(["a dog"])
    for field, rows in both.items():
        torch.testing.assert_close(rows[1:], second[field])
        assert not torch.allclose(rows[0], rows[1])


def test_the_empty_caption_of_sdxl_is_what_guidance_steers_away_from() -> None:
    pipeline = tiny_pipeline("sdxl")
    _, negative, _, negative_pooled = pipeline.encode_prompt(PROMPT, do_classifier_free_guidance=True)
    found = family_of(pipeline).encode([PROMPT, ""])
    assert torch.equal(found["encoder_hidden_states"][1:], negative)
    assert torch.equal(found["text_embeds"][1:], negative_pooled)
    assert found["text_embeds"][0].any()


def test_a_base_that_is_told_the_guidance_scale_was_distilled_and_is_refused() -> None:
    pipeline = tiny_pipeline("sd")
    pipeline.unet.register_to_config(time_cond_proj_dim=8)
    with pytest.raises(TrainingRefused, match="before it was distilled"):
        family_of(pipeline)
