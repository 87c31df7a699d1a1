"""An image that stops at every call of the denoiser is the image that diffusers makes in one go."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Sequence
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from adapters_store.adapter import Version
from adapters_store.blend import Blend, BlendMember
from server.core.errors import RequestRejected
from server.core.requests import ImageRequest, Picture
from server.runners import denoiser_calls
from server.runners.denoiser_calls import Failed, predict
from server.runners.drawing import Drawing
from server.runners.previews import can_preview, preview
from tests.server.runners.picture_rig import NUM_STEPS, SIZE, image_request, pixels
from tests.server.runners.tiny_pipelines import FAMILIES, Family, tiny_pipeline

MANY = 64
PIXEL = Picture(width=1, height=1, rgb=b"rgb")


def test_an_image_is_bit_for_bit_what_diffusers_draws_in_one_go(family: Family) -> None:
    [picture] = draw(family, [request(seed=1)])

    assert pixels(picture).tobytes() == of_diffusers(family, seed=1).tobytes()


def test_an_image_does_not_notice_others_that_run_between_its_steps(family: Family) -> None:
    many = draw(family, [request(seed=seed) for seed in (1, 2, 3)], max_together=1)

    assert [picture.rgb for picture in many] == [draw(family, [request(seed=seed)])[0].rgb for seed in (1, 2, 3)]


def test_images_that_share_a_forward_differ_by_rounding_alone(family: Family) -> None:
    many = draw(family, [request(seed=seed) for seed in (1, 2, 3)], max_together=MANY)

    for seed, picture in zip((1, 2, 3), many, strict=True):
        assert np.abs(pixels(picture).astype(int) - of_diffusers(family, seed=seed)).max() <= 1


def test_images_at_different_steps_share_a_forward(family: Family) -> None:
    pipeline = the_pipeline(family)
    ahead, behind = (new_drawing(family, request(seed=seed)) for seed in (1, 2))
    forwards: list[int] = []

    def denoiser(*args: Any, **kwargs: Any) -> Any:
        forwards.append(1)
        return denoiser_of(pipeline)(*args, **kwargs)

    with torch.inference_mode():
        ahead.start()
        ahead.resume(*predict(denoiser, [call_of(ahead)], MANY))
        behind.start()
        run([ahead, behind], denoiser)

    assert len(forwards) == 1 + NUM_STEPS
    for seed, drawing in ((1, ahead), (2, behind)):
        assert drawing.picture is not None
        assert np.abs(pixels(drawing.picture).astype(int) - of_diffusers(family, seed=seed)).max() <= 1


def test_progress_is_counted_and_previews_come_as_often_as_asked(family: Family) -> None:
    drawing = new_drawing(family, request(seed=1, preview_every=2))
    told = []
    with torch.inference_mode():
        drawing.start()
        while drawing.call is not None:
            drawing.resume(*predict(denoiser_of(the_pipeline(family)), [drawing.call], MANY))
            told.append((drawing.num_done, drawing.num_steps, drawing.preview is not None))

    assert told == [(1, 3, False), (2, 3, True), (3, 3, False)]


def test_one_that_is_given_up_does_not_touch_the_others(family: Family) -> None:
    staying, leaving, unstarted = (new_drawing(family, request(seed=seed)) for seed in (1, 2, 3))
    with torch.inference_mode():
        staying.start()
        leaving.start()
        leaving.close()
        unstarted.close()
        run([staying], denoiser_of(the_pipeline(family)))

    assert staying.picture is not None
    assert pixels(staying.picture).tobytes() == of_diffusers(family, seed=1).tobytes()


def test_an_image_that_turns_into_no_numbers_is_an_error_not_a_black_square() -> None:
    drawing = new_drawing("sd", request(seed=1))
    with torch.inference_mode():
        drawing.start()
        with pytest.raises(ValueError, match="no numbers"):
            run([drawing], lambda *args, **kwargs: (args[0] * torch.nan,))


def test_no_numbers_under_adapters_are_for_whoever_asked_for_them() -> None:
    """It was told as a failure of the server, though scales are the client's."""
    member = BlendMember(version=Version("sha256:" + "0" * 64), scale=100.0)
    drawing = new_drawing("sd", image_request(blend=Blend(members=(member,))))
    with torch.inference_mode():
        drawing.start()
        with pytest.raises(RequestRejected, match="no numbers") as refusal:
            run([drawing], lambda *args, **kwargs: (args[0] * torch.nan,))
    assert refusal.value.param == "adapter"


def test_a_preview_that_fails_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    def failing(*_: Any) -> Picture:
        raise RuntimeError("no such layout of latents")

    pipeline = the_pipeline("sd")
    drawing = Drawing(pipeline, "unet", request(seed=1, preview_every=1), copy.deepcopy(pipeline.scheduler), failing)
    with torch.inference_mode():
        drawing.start()
        run([drawing], denoiser_of(pipeline))

    assert drawing.picture is not None
    assert drawing.preview is None
    assert "a preview failed" in caplog.text


def test_a_picture_that_was_made_without_the_denoiser_is_an_error() -> None:
    class Delegating:
        scheduler = unet = None

        def __call__(self, prompt: str, **_: Any) -> Any:
            return SimpleNamespace(images=[np.zeros((8, 8, 3))])

    drawing = Drawing(Delegating(), "unet", request(seed=1), the_scheduler("sd"), lambda *_: PIXEL)
    with pytest.raises(RuntimeError, match="without its denoiser"):
        drawing.start()


def test_a_picture_that_a_safety_checker_flags_is_refused() -> None:
    class Flagging:
        scheduler = None

        def unet(self) -> None:
            """Says nothing."""

        def __call__(self, prompt: str, **_: Any) -> Any:
            self.unet()
            return SimpleNamespace(images=[np.zeros((8, 8, 3))], nsfw_content_detected=[True])

    drawing = Drawing(Flagging(), "unet", request(seed=1), the_scheduler("sd"), lambda *_: PIXEL)
    drawing.start()
    with pytest.raises(RequestRejected, match="safety checker"):
        drawing.resume(None)


def test_a_failed_forward_keeps_none_of_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its traceback held the activations until the cyclic collector ran: the next forward had no room either."""
    made: list[weakref.ref[torch.Tensor]] = []

    def running_out(*_: Any, **__: Any) -> Any:
        activations = torch.zeros(10)
        made.append(weakref.ref(activations))
        raise MemoryError("no room")

    monkeypatch.setattr(denoiser_calls.log, "disabled", True)  # pytest keeps what is logged, frames and all
    drawing = new_drawing("sd", request(seed=1))
    gc.disable()
    try:
        with torch.inference_mode():
            drawing.start()
            [answer] = predict(running_out, [call_of(drawing)], MANY)
            drawing.close()
        assert isinstance(answer, Failed)
        assert made[0]() is None
    finally:
        gc.enable()


def test_images_whose_shared_forward_fails_are_drawn_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them ended, though each had room alone."""
    made: list[weakref.ref[torch.Tensor]] = []

    def short_of_memory(latents: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        assert all(activations() is None for activations in made)
        if latents.shape[0] > 2:  # rows of one image under guidance
            activations = torch.zeros(10)
            made.append(weakref.ref(activations))
            raise MemoryError("no room")
        return the_pipeline("sd").unet(latents, *args, **kwargs)

    monkeypatch.setattr(denoiser_calls.log, "disabled", True)  # pytest keeps what is logged, frames and all
    drawings = [new_drawing("sd", request(seed=seed)) for seed in (1, 2, 3)]
    gc.disable()
    try:
        with torch.inference_mode():
            for drawing in drawings:
                drawing.start()
            run(drawings, short_of_memory)
    finally:
        gc.enable()

    assert len(made) == NUM_STEPS
    for seed, drawing in zip((1, 2, 3), drawings, strict=True):
        assert drawing.picture is not None
        assert pixels(drawing.picture).tobytes() == of_diffusers("sd", seed=seed).tobytes()


def test_of_a_shared_forward_that_fails_only_those_that_fail_alone_have_no_answer() -> None:
    drawings = [new_drawing("sd", request(seed=seed)) for seed in (1, 2, 3)]
    with torch.inference_mode():
        for drawing in drawings:
            drawing.start()
        calls = [call_of(drawing) for drawing in drawings]

        def spoilt(latents: torch.Tensor, *_: Any, **__: Any) -> Any:
            if any(torch.equal(row, calls[1].args[0][0]) for row in latents):
                raise ValueError("spoilt")
            return (latents,)

        answers = predict(spoilt, calls, MANY)
        for drawing in drawings:
            drawing.close()
    assert [isinstance(answer, Failed) for answer in answers] == [False, True, False]


def test_a_pipeline_that_does_not_tell_how_many_steps_it_runs_is_believed_to_run_those_asked_for() -> None:
    """PRX calls back after each step but has no such number: every image of it failed after the first."""

    class TellsNoNumber(StableDiffusionPipeline):  # type: ignore[misc]
        @property
        def num_timesteps(self) -> int:
            raise AttributeError("num_timesteps")

    pipeline = copy.copy(the_pipeline("sd"))
    pipeline.__class__ = TellsNoNumber
    drawing = Drawing(pipeline, "unet", request(seed=1), copy.deepcopy(pipeline.scheduler), partial(preview, pipeline))
    with torch.inference_mode():
        drawing.start()
        run([drawing], pipeline.unet)

    assert drawing.picture is not None
    assert (drawing.num_done, drawing.num_steps) == (NUM_STEPS, NUM_STEPS)


def test_a_pipeline_that_shows_nobody_its_latents_has_no_previews() -> None:
    """PixArt's was offered: previews were asked for, and none came."""

    class ShowsNothing(StableDiffusionPipeline):  # type: ignore[misc]
        def __call__(self, prompt: str) -> None:
            """Takes no callback."""

    pipeline = copy.copy(the_pipeline("sd"))
    pipeline.__class__ = ShowsNothing
    assert not can_preview(pipeline)


def test_every_family_can_show_a_preview_of_at_most_a_few_pixels(family: Family) -> None:
    assert can_preview(the_pipeline(family))


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    name: Family = request.param
    return name


@cache
def the_pipeline(family: Family) -> Any:
    return tiny_pipeline(family)


def the_scheduler(family: Family) -> Any:
    return copy.deepcopy(the_pipeline(family).scheduler)


def denoiser_of(pipeline: Any) -> Any:
    return getattr(pipeline, "unet", None) or pipeline.transformer


def request(*, seed: int, preview_every: int = 0) -> ImageRequest:
    return image_request(f"r{seed}", seed=seed, preview_every=preview_every)


def new_drawing(family: Family, asked: ImageRequest) -> Drawing:
    pipeline = the_pipeline(family)
    name = "unet" if hasattr(pipeline, "unet") else "transformer"
    return Drawing(pipeline, name, asked, the_scheduler(family), partial(preview, pipeline))


def draw(family: Family, asked: Sequence[ImageRequest], max_together: int = MANY) -> list[Picture]:
    drawings = [new_drawing(family, one) for one in asked]
    with torch.inference_mode():
        for drawing in drawings:
            drawing.start()
        run(drawings, denoiser_of(the_pipeline(family)), max_together)
    return [drawing.picture for drawing in drawings if drawing.picture is not None]


def run(drawings: Sequence[Drawing], denoiser: Any, max_together: int = MANY) -> None:
    while calling := [drawing for drawing in drawings if drawing.call is not None]:
        answers = predict(denoiser, [call_of(drawing) for drawing in calling], max_together)
        for drawing, answer in zip(calling, answers, strict=True):
            drawing.resume(answer)


def call_of(drawing: Drawing) -> Any:
    assert drawing.call is not None
    return drawing.call


def of_diffusers(family: Family, *, seed: int) -> np.ndarray[Any, Any]:
    pipeline = copy.copy(the_pipeline(family))
    vars(pipeline)["scheduler"] = copy.deepcopy(pipeline.scheduler)
    generator = torch.Generator().manual_seed(seed)
    made = pipeline(
        "a red apple", height=SIZE, width=SIZE, num_inference_steps=NUM_STEPS, generator=generator, output_type="np"
    )
    return np.asarray((made.images[0] * 255).round().astype(np.uint8))
