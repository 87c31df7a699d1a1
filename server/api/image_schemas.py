"""The body of a request to a base that draws pictures. Ceilings that the server or its base sets are checked when the
request is admitted."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from adapters_store.blend import MAX_EVERY, DeltaMethod, Fusion, StepwiseMethod
from server.api.schemas import FUSION_TEXT, SEEDS, Density, GenerationBody, Strict, check_option
from server.core.requests import RequestedMode

MAX_PROMPT_CHARS = 4096  # text encoders read some hundred tokens at most: what is longer need see no tokenizer
MAX_SCHEDULER_CHARS = 100
MAX_GUIDANCE_SCALE = 100.0


class ImageFusion(Strict):
    """How several adapters work together. ``every`` is for ``switch``, ``density`` for ``ties``."""

    method: Literal[DeltaMethod, StepwiseMethod] = Field(
        default="sum",
        description=f"{FUSION_TEXT} `switch`: one adapter alone for `every` denoising steps, then the next, in the "
        "order of `adapter`, in a cycle. `composite`: the guided noise of each adapter alone, averaged in every step, "
        "which costs as many steps as there are adapters.",
    )
    density: Density = None
    every: int | None = Field(
        default=None,
        ge=1,
        le=MAX_EVERY,
        description="For `switch` alone: denoising steps until the next adapter's turn; by default 1. Each adapter "
        "must have a turn in the steps that there are.",
    )

    @model_validator(mode="after")
    def _options_of_the_method(self) -> Self:
        check_option("density", self.density, method=self.method, only_for="ties")
        check_option("every", self.every, method=self.method, only_for="switch")
        return self

    @property
    def asked(self) -> Fusion:
        return Fusion(method=self.method, density=self.density, every=self.every)


Side = Annotated[
    int | None,
    Field(
        ge=1,
        description="Pixels; by default the base's own. The server sets a ceiling, and the base what it is a multiple "
        "of.",
    ),
]


class ImageParameters(Strict):
    """What is absent is as the base's pipeline has it."""

    num_inference_steps: int | None = Field(
        default=None, ge=1, description="Denoising steps; the server sets a ceiling."
    )
    guidance_scale: float | None = Field(
        default=None,
        ge=0,
        le=MAX_GUIDANCE_SCALE,
        allow_inf_nan=False,
        description="How far each step is pushed from the negative prompt towards the prompt.",
    )
    height: Side = None
    width: Side = None
    num_images: int = Field(
        default=1,
        ge=1,
        description="So many pictures of the one prompt. They are taken in together or not at all, and one that fails "
        "ends them all. The server sets a ceiling.",
    )
    negative_prompt: str | None = Field(
        default=None,
        max_length=MAX_PROMPT_CHARS,
        description="Where the base has guidance by a second prediction, and only with a `guidance_scale` that has one "
        "made: above 1 for most bases.",
    )
    seed: int | None = Field(
        default=None,
        ge=0,
        lt=SEEDS,
        description="The same request with the same seed draws the same picture. Image i is drawn with seed + i, "
        "counted from 0 and past the highest seed from 0 again. By default one is drawn, and told in the answer.",
    )
    scheduler: str | None = Field(
        default=None,
        max_length=MAX_SCHEDULER_CHARS,
        description="Who turns predicted noise into the next step's latents; the refusal of one that this base does "
        "not have lists those that it has.",
    )
    previews: int | None = Field(
        default=None,
        ge=1,
        description="With `stream`: show the picture as it is after each so many denoising steps. A slow reader gets "
        "the latest alone.",
    )


class ImageBody(GenerationBody):
    """A ``prompt`` to draw. ``parameters.previews`` are for ``stream`` alone."""

    prompt: str = Field(min_length=1, max_length=MAX_PROMPT_CHARS)
    fusion: ImageFusion = ImageFusion()
    parameters: ImageParameters = ImageParameters()
    mode: RequestedMode = Field(
        default="auto",
        description="Both mean that every step runs with its blend, and no other, in the weights.",
    )
