"""The state of one request while the engine has it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from server.core.requests import FinishReason, GenerationRequest, Mode, Receipt, RequestId, TokenLogprob, Usage
from server.core.steps import NewSequence, StepToken
from server.engine.messages import EventSink, FinishEvent, TextEvent
from server.engine.stopping import StopGate

if TYPE_CHECKING:
    from adapters_store.adapter import Fingerprint


@dataclass(slots=True, kw_only=True, eq=False)
class Sequence:
    """Engine thread only. Times are on the engine clock, steps are counted by the scheduler.

    It waits, runs, and may be parked: then it waits again and keeps its tokens, but has no KV. ``since`` is the step
    of its last token, or in which it became the first of its client that waits for its blend; None before that. It is
    *owed* a token from the moment that took too long until it has it."""

    request: GenerationRequest
    sink: EventSink
    order: int = 0  # of arrival
    num_tokens: int = 0  # sampled so far
    num_cached: int = 0  # while it runs: of prompt and sampled tokens, those that have KV
    since: int | None = None
    owed_since: int | None = None
    started_step: int | None = None  # in which it last began to run; None while it waits
    is_charged: bool = False  # for its prompt
    is_mixed: bool = False  # some of it was computed beside another blend
    switch_s: float = 0.0
    started_s: float | None = None  # its first step began
    first_token_s: float | None = None
    logprobs: list[TokenLogprob] = field(default_factory=list)  # of tokens whose text is held back
    gate: StopGate = field(init=False)

    def __post_init__(self) -> None:
        self.gate = StopGate(self.request.stop)

    @property
    def id(self) -> RequestId:
        return self.request.id

    @property
    def new(self) -> NewSequence:
        """What the runner is told."""
        request = self.request
        return NewSequence(
            id=request.id,
            tenant=request.tenant,
            blend=request.blend,
            prompt_tokens=request.prompt_tokens,
            sampling=request.sampling,
            max_new_tokens=request.max_new_tokens,
            must_be_fused=self.must_be_fused,
        )

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
        return len(self.request.prompt_tokens) + self.num_tokens

    @property
    def num_todo(self) -> int:
        """Known tokens without KV, at least one: a step that covers the last one samples the next."""
        return self.num_known - self.num_cached

    @property
    def max_length(self) -> int:
        return len(self.request.prompt_tokens) + self.request.max_new_tokens

    @property
    def deadline_s(self) -> float:
        """Infinite if the request has none."""
        return math.inf if self.request.deadline_s is None else self.request.deadline_s

    def advance(self, token: StepToken, now: float) -> FinishReason | None:
        """Takes one token in; sends what text became final; says why if this was the last token."""
        self.num_tokens += 1
        if self.first_token_s is None:
            self.first_token_s = now
        if token.logprob is not None:
            self.logprobs.append(token.logprob)
        self._send(self.gate.push(token.text))
        if self.gate.is_stopped or (token.is_eos and not self.request.ignore_eos):
            return "stop"
        return "length" if self.num_tokens >= self.request.max_new_tokens else None

    def finish(self, reason: FinishReason, held_text: str, receipt: Receipt) -> None:
        """Sends the text that was held back (a stop string may still be in it), then the end."""
        self._send(self.gate.push(held_text))
        self._send(self.gate.finish())
        if self.gate.is_stopped:
            reason = "stop"
        logprobs = self._take_logprobs()
        self.sink(FinishEvent(finish_reason=reason, usage=self.usage, receipt=receipt, logprobs=logprobs))

    @property
    def usage(self) -> Usage:
        return Usage(prompt_tokens=len(self.request.prompt_tokens), completion_tokens=self.num_tokens)

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

    def _send(self, text: str) -> None:
        if text:
            self.sink(TextEvent(text=text, logprobs=self._take_logprobs()))

    def _take_logprobs(self) -> tuple[TokenLogprob, ...]:
        taken = tuple(self.logprobs)
        self.logprobs.clear()
        return taken
