"""What one request asks for and what it was given: the nouns every layer of the server shares. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NewType

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
class GenerationRequest:
    """A text request after validation: names are resolved, the prompt is tokens. Never changes again.

    ``deadline_s`` is on the engine clock (``Clock.now``), None for no deadline. ``arrived_s`` likewise.
    """

    id: RequestId
    tenant: str
    client: str  # who is served fairly against others: one per API key
    weight: float  # this client's share against others
    prompt_tokens: tuple[int, ...]
    blend: Blend
    adapters: tuple[AppliedAdapter, ...]
    sampling: Sampling
    max_new_tokens: int
    stop: tuple[str, ...]
    ignore_eos: bool
    mode: RequestedMode
    arrived_s: float
    deadline_s: float | None

    @property
    def deadline_ms(self) -> int:
        """From arrival, as it was asked for; 0 for none."""
        return 0 if self.deadline_s is None else round((self.deadline_s - self.arrived_s) * 1e3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int


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
