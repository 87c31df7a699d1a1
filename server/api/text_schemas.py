"""The body of a request to a base that writes text."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from adapters_store.blend import STEPWISE_METHODS, DeltaMethod, Fusion
from server.api.schemas import FUSION_TEXT, SEEDS, Density, GenerationBody, Strict, check_option, form_of
from server.core.requests import RequestedMode

MAX_PROMPT_CHARS = 2_000_000
MAX_MESSAGES = 1000
MAX_STOPS = 16
MAX_STOP_CHARS = 256
MAX_TEMPERATURE = 10.0
MAX_TOP_K = 1_000_000
MAX_ANSWERS = 16
MAX_LOGPROBS = 20
MIN_REPETITION_PENALTY, MAX_REPETITION_PENALTY = 0.01, 10.0
DEFAULT_NEW_TOKENS = 128


def _not_stepwise(method: object) -> object:
    if method in STEPWISE_METHODS:
        raise ValueError("adapters take turns over denoising steps, and this base writes text, which has none")
    return method


class TextFusion(Strict):
    """How several adapters become one. ``density``: the share of its entries that ``ties`` keeps of each adapter."""

    method: Annotated[DeltaMethod, BeforeValidator(_not_stepwise)] = Field(default="sum", description=FUSION_TEXT)
    density: Density = None

    @model_validator(mode="after")
    def _options_of_the_method(self) -> Self:
        check_option("density", self.density, method=self.method, only_for="ties")
        return self

    @property
    def asked(self) -> Fusion:
        return Fusion(method=self.method, density=self.density)


class Message(Strict):
    role: Literal["system", "user", "assistant"]
    content: str = Field(max_length=MAX_PROMPT_CHARS)


class TextParameters(Strict):
    """``temperature`` 0 is greedy, ``top_k`` 0 keeps all. The server sets its own ceiling for ``max_new_tokens``."""

    max_new_tokens: int | None = Field(default=None, ge=1, description=f"By default {DEFAULT_NEW_TOKENS}.")
    temperature: float = Field(default=0.0, ge=0, le=MAX_TEMPERATURE, allow_inf_nan=False)
    top_p: float = Field(
        default=1.0,
        gt=0,
        le=1,
        allow_inf_nan=False,
        description="Draw from the likeliest tokens that together have this probability; 1 keeps all.",
    )
    top_k: int = Field(
        default=0, ge=0, le=MAX_TOP_K, description="Draw from this many of the likeliest tokens; 0 keeps all."
    )
    seed: int | None = Field(
        default=None,
        ge=0,
        lt=SEEDS,
        description="The same request with the same seed draws the same tokens; by default each draws anew. Of several "
        "answers the one with index i is drawn with seed + i.",
    )
    n: int = Field(
        default=1,
        ge=1,
        le=MAX_ANSWERS,
        description="So many answers to the one prompt, in `choices`. They are taken in together or not at all, and "
        "one that fails ends them all. At temperature 0 they are the same.",
    )
    logprobs: int | None = Field(
        default=None,
        ge=0,
        le=MAX_LOGPROBS,
        description="Tell the natural-log probability of each token of the answer, and of so many of the likeliest in "
        "its place: the model's own, before temperature, penalties and cuts.",
    )
    stop: StopTexts = Field(default_factory=list)
    repetition_penalty: float = Field(
        default=1.0,
        ge=MIN_REPETITION_PENALTY,
        le=MAX_REPETITION_PENALTY,
        allow_inf_nan=False,
        description="Above 1 makes tokens of the prompt and the answer less likely to come again; 1 is off.",
    )
    ignore_eos: bool = Field(default=False, description="Go on past the model's end-of-text token.")


StopText = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]
StopTexts = Annotated[
    Annotated[StopText, Tag("<text>")] | Annotated[list[StopText], Field(max_length=MAX_STOPS), Tag("<list>")],
    Discriminator(form_of, custom_error_type="form", custom_error_message="Input should be a text or a list of texts"),
]


MODE_TEXT = (
    "`fused`: every step of this request runs with its blend, and no other, in the weights, so that its numerics do "
    "not depend on what other requests run with. `auto` lets the server choose step by step: the request may run "
    "beside requests of other blends, each row with its own correction; the receipt then says `mixed`, and figures may "
    "differ from fused ones by rounding."
)


class TextBody(GenerationBody):
    """Exactly one of ``prompt`` (raw text) and ``messages`` (through the model's chat template)."""

    prompt: str | None = Field(default=None, min_length=1, max_length=MAX_PROMPT_CHARS)
    messages: list[Message] | None = Field(default=None, min_length=1, max_length=MAX_MESSAGES)
    fusion: TextFusion = TextFusion()
    parameters: TextParameters = TextParameters()
    mode: RequestedMode = Field(default="auto", description=MODE_TEXT)

    @model_validator(mode="after")
    def _one_prompt(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give exactly one of prompt and messages")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        stop = self.parameters.stop
        return (stop,) if isinstance(stop, str) else tuple(stop)
