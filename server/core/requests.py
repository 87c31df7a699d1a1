"""What one request asks for and what it was given: the nouns every layer of the server shares. No torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NewType

from server.core.tracing import UNTRACED, Trace

if TYPE_CHECKING:
    from adapters_store.adapter import Fingerprint, Version
    from adapters_store.blend import Blend, BlendKey, FusionMethod

RequestId = NewType("RequestId", str)
Mode = Literal["fused", "mixed"]
RequestedMode = Literal["auto", "fused"]
FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is drawn. ``temperature`` 0 is greedy; ``top_k`` 0 and ``top_p`` 1 cut nothing;
    ``seed`` None draws a fresh one. ``num_logprobs``: how many of the likeliest tokens are told beside each drawn one;
    None tells nothing."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int | None = None
    num_logprobs: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LikelyToken:
    """A token of the vocabulary with its natural-log probability before temperature, penalties and cuts."""

    token: int
    text: str
    logprob: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """The drawn token, and the likeliest ones in its place, likeliest first."""

    drawn: LikelyToken
    top: tuple[LikelyToken, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedAdapter:
    """An adapter as one request names it, resolved to a version at admission."""

    name: str
    version: Version
    scale: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest(ABC):
    """A request after validation, names resolved: a ``TextRequest`` or an ``ImageRequest``. Never changes again.

    ``deadline_s`` is on the engine clock (``Clock.now``), None for no deadline. ``arrived_s`` likewise.

    The scheduler counts in tokens: those of a text, or the denoising steps of an image. ``max_new_tokens`` is how many
    of them there will be at most; ``token_cost`` what one of them weighs in fair shares, against a token of text or a
    step of an image of the base's own size. ``admitted_s``, on the engine clock, is where its ``trace`` goes on in the
    engine."""

    id: RequestId
    tenant: str
    client: str  # who is served fairly against others: one per API key
    weight: float  # this client's share against others
    blend: Blend
    adapters: tuple[AppliedAdapter, ...]
    mode: RequestedMode
    arrived_s: float
    deadline_s: float | None
    max_new_tokens: int
    token_cost: float = 1.0
    trace: Trace = field(default=UNTRACED, compare=False)
    admitted_s: float = 0.0

    @property
    def deadline_ms(self) -> int:
        """From arrival, as it was asked for; 0 for none."""
        return 0 if self.deadline_s is None else round((self.deadline_s - self.arrived_s) * 1e3)

    @property
    @abstractmethod
    def num_prompt_tokens(self) -> int: ...

    @property
    @abstractmethod
    def can_end_early(self) -> bool:
        """With fewer than ``max_new_tokens``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRequest(GenerationRequest):
    """The prompt is tokens."""

    prompt_tokens: tuple[int, ...]
    sampling: Sampling
    stop: tuple[str, ...]
    ignore_eos: bool

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.prompt_tokens)

    @property
    def can_end_early(self) -> bool:
        return bool(self.stop) or not self.ignore_eos


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRequest(GenerationRequest):
    """One image in ``max_new_tokens`` denoising steps. ``height`` and ``width`` in pixels; ``guidance_scale`` and
    ``scheduler`` None: the pipeline's own; ``preview_every``: denoising steps from preview to preview, 0 for none. A
    step that runs several adapters weighs as much as several."""

    prompt: str
    negative_prompt: str | None
    height: int
    width: int
    guidance_scale: float | None
    scheduler: str | None
    seed: int
    preview_every: int

    @property
    def num_prompt_tokens(self) -> int:
        """Reading the prompt is part of the first step."""
        return 1

    @property
    def can_end_early(self) -> bool:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Of a text."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageUsage:
    """Of an image: the denoising steps that ran."""

    num_steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """Pixels, row by row from the top, three bytes each: red, green, blue."""

    width: int
    height: int
    rgb: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What was really applied to produce an answer. ``switch_ms`` is the time spent on switches made for this
    request's batch while it ran, ``queue_ms`` from arrival to its first step, ``total_ms`` from arrival to the end."""

    base: Fingerprint
    adapters: tuple[AppliedAdapter, ...]
    fusion: FusionMethod
    blend_key: BlendKey
    mode: Mode
    switch_ms: float
    queue_ms: float
    total_ms: float
