"""The body of a generation request: every field, its form and its stated limit. Nothing is coerced or clamped."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from adapters_store.alias import NAME_PATTERN
from adapters_store.blend import MAX_ABS_SCALE, MAX_ADAPTERS_PER_BLEND, DeltaMethod
from server.core.requests import RequestedMode

MAX_PROMPT_CHARS = 2_000_000
MAX_MESSAGES = 1000
MAX_STOPS = 16
MAX_STOP_CHARS = 256
MAX_TEMPERATURE = 10.0
MAX_TOP_K = 1_000_000
SEEDS = 2**63
MAX_ANSWERS = 16
MAX_LOGPROBS = 20
MIN_REPETITION_PENALTY, MAX_REPETITION_PENALTY = 0.01, 10.0
DEFAULT_NEW_TOKENS = 128

AdapterName = Annotated[str, Field(pattern=f"^{NAME_PATTERN}$", description="The name of an uploaded adapter.")]
VersionText = Annotated[str, Field(pattern="^sha256:[0-9a-f]{64}$", description="The version of an adapter.")]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class AdapterRef(Strict):
    """One adapter of a blend. Without ``version``, the one its name points at when the request is admitted."""

    name: AdapterName
    scale: float = Field(default=1.0, ge=-MAX_ABS_SCALE, le=MAX_ABS_SCALE, allow_inf_nan=False)
    version: VersionText | None = None


def _form(value: object) -> str | None:
    """Which form a value has, so that a message speaks of that one alone. Angle brackets: no name of a field."""
    if isinstance(value, str):
        return "<text>"
    if isinstance(value, list):
        return "<list>"
    return "<object>" if isinstance(value, dict | BaseModel) else None


_NAME = Annotated[AdapterName, Tag("<text>")]
_REF = Annotated[AdapterRef, Tag("<object>")]
OneAdapter = Annotated[
    _NAME | _REF,
    Discriminator(_form, custom_error_type="form", custom_error_message="Input should be a name or an object"),
]
AdapterList = Annotated[list[OneAdapter], Field(max_length=MAX_ADAPTERS_PER_BLEND)]
Adapters = Annotated[
    _NAME | _REF | Annotated[AdapterList, Tag("<list>")],
    Discriminator(_form, custom_error_type="form", custom_error_message="Input should be a name, an object or a list"),
]


FUSION_TEXT = (
    "`sum`: the scaled deltas added. `mean`: their sum over the sum of the scales. `ram`: the same, position by "
    "position, over the adapters that touch it. `ties`: each trimmed to `density`, then the mean of those that have "
    "the sign of the sum."
)


class FusionOptions(Strict):
    """How several adapters become one. ``density``: the share of its entries that ``ties`` keeps of each adapter."""

    method: DeltaMethod = Field(default="sum", description=FUSION_TEXT)
    density: float | None = Field(
        default=None,
        gt=0,
        le=1,
        allow_inf_nan=False,
        description="For `ties` alone: the share of its largest entries that each adapter keeps; by default all.",
    )

    @model_validator(mode="after")
    def _density_is_for_ties(self) -> Self:
        if self.density is not None and self.method != "ties":
            raise ValueError(f"density has no meaning for the method {self.method}, only for ties")
        return self


class Message(Strict):
    role: Literal["system", "user", "assistant"]
    content: str = Field(max_length=MAX_PROMPT_CHARS)


class Parameters(Strict):
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
    Discriminator(_form, custom_error_type="form", custom_error_message="Input should be a text or a list of texts"),
]


MODE_TEXT = (
    "`fused`: every step of this request runs with its blend, and no other, in the weights, so that its numerics do "
    "not depend on what other requests run with. `auto` lets the server choose step by step: the request may run "
    "beside requests of other blends, each row with its own correction; the receipt then says `mixed`, and figures may "
    "differ from fused ones by rounding."
)


class GenerateBody(Strict):
    """Exactly one of ``prompt`` (raw text) and ``messages`` (through the model's chat template)."""

    prompt: str | None = Field(default=None, min_length=1, max_length=MAX_PROMPT_CHARS)
    messages: list[Message] | None = Field(default=None, min_length=1, max_length=MAX_MESSAGES)
    adapter: Adapters | None = Field(default=None, description="Absent or an empty list: the base.")
    fusion: FusionOptions = FusionOptions()
    parameters: Parameters = Parameters()
    mode: RequestedMode = Field(default="auto", description=MODE_TEXT)
    stream: bool = False
    deadline_ms: int | None = Field(default=None, ge=1, description="From arrival to the end of the answer.")

    @model_validator(mode="after")
    def _one_prompt(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give exactly one of prompt and messages")
        return self

    @property
    def adapter_refs(self) -> list[AdapterRef]:
        given = self.adapter if isinstance(self.adapter, list) else [] if self.adapter is None else [self.adapter]
        return [AdapterRef(name=item) if isinstance(item, str) else item for item in given]

    @property
    def stops(self) -> tuple[str, ...]:
        stop = self.parameters.stop
        return (stop,) if isinstance(stop, str) else tuple(stop)
