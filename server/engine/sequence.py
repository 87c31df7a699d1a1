"""The state of one request while the engine has it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from server.core.requests import FinishReason, GenerationRequest, Mode, Receipt, RequestId
from server.core.steps import New
from server.engine.messages import EventSink

if TYPE_CHECKING:
    from adapters_store.adapter import Fingerprint
    from server.engine.course import Course


@dataclass(slots=True, kw_only=True, eq=False)
class Sequence(ABC):
    """Engine thread only. Times are on the engine clock, steps are counted by the scheduler; a denoising step of an
    image counts as a token.

    It waits, runs, and may be parked: then it waits again and keeps its tokens, but has no KV. ``since`` is the step
    of its last token, or in which it became the first of its client that waits for its blend; None before that. It is
    *owed* a token from the moment that took too long until it has it."""

    request: GenerationRequest
    sink: EventSink
    order: int = 0  # of arrival
    num_tokens: int = 0  # new ones so far
    num_cached: int = 0  # while it runs: of prompt and new tokens, those that have KV
    since: int | None = None
    owed_since: int | None = None
    started_step: int | None = None  # in which it last began to run; None while it waits
    is_charged: bool = False  # for its prompt
    is_mixed: bool = False  # some of it was computed beside another blend
    switch_s: float = 0.0
    num_steps: int = 0  # that it had a share in
    num_prefill_steps: int = 0  # until its first token
    course: Course | None = None  # if it is traced
    started_s: float | None = None  # its first step began
    first_token_s: float | None = None

    @property
    @abstractmethod
    def new(self) -> New:
        """What the runner is told."""

    @abstractmethod
    def advance(self, result: Any, now: float) -> FinishReason | None:
        """Takes in what a step gave, of the kind that the runner makes of ``new``; sends what became final by it; says
        why if this was the last."""

    @abstractmethod
    def finish(self, reason: FinishReason, held_text: str, receipt: Receipt) -> None:
        """Sends the end, and before it ``held_text``, the text that the runner still held back."""

    @property
    def id(self) -> RequestId:
        return self.request.id

    @property
    def must_be_fused(self) -> bool:
        """It runs only while its blend is in the weights."""
        return self.request.mode == "fused"

    @property
    def is_running(self) -> bool:
        return self.started_step is not None

    @property
    def is_owed(self) -> bool:
        return self.owed_since is not None

    @property
    def num_known(self) -> int:
        """Tokens of prompt and answer so far."""
        return self.request.num_prompt_tokens + self.num_tokens

    @property
    def num_todo(self) -> int:
        """Known tokens without KV, at least one: a step that covers the last one makes the next."""
        return self.num_known - self.num_cached

    @property
    def max_length(self) -> int:
        return self.request.num_prompt_tokens + self.request.max_new_tokens

    @property
    def deadline_s(self) -> float:
        """Infinite if the request has none."""
        return math.inf if self.request.deadline_s is None else self.request.deadline_s

    def count(self, now: float) -> None:
        """One more token."""
        self.num_tokens += 1
        if self.first_token_s is None:
            self.first_token_s, self.num_prefill_steps = now, self.num_steps

    def queue_s(self, now: float) -> float:
        """From arrival to its first step; to ``now`` while it has not begun."""
        return (now if self.started_s is None else self.started_s) - self.request.arrived_s

    def receipt(self, *, base: Fingerprint, now: float) -> Receipt:
        """The caller has seen at every step that this request's blend was in the weights or beside them."""
        mode: Mode = "mixed" if self.is_mixed else "fused"
        request = self.request
        return Receipt(
            base=base,
            adapters=request.adapters,
            fusion=request.blend.fusion.method,
            blend_key=request.blend.key,
            mode=mode,
            switch_ms=self.switch_s * 1e3,
            queue_ms=self.queue_s(now) * 1e3,
            total_ms=(now - request.arrived_s) * 1e3,
        )
