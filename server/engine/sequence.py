"""The state of one request while the engine has it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from server.core.requests import FinishReason, GenerationRequest, Mode, Receipt, RequestId, Usage
from server.core.steps import NewSequence, StepToken
from server.engine.messages import EventSink, FinishEvent, TextEvent
from server.engine.stopping import StopGate

if TYPE_CHECKING:
    from adapters_store.adapter import Fingerprint


@dataclass(slots=True, kw_only=True, eq=False)
class Sequence:
    """Engine thread only. Times are on the engine clock."""

    request: GenerationRequest
    sink: EventSink
    num_tokens: int = 0  # sampled so far
    switch_s: float = 0.0
    started_s: float | None = None  # its first step began
    first_token_s: float | None = None
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
            prompt_tokens=request.prompt_tokens,
            sampling=request.sampling,
            max_new_tokens=request.max_new_tokens,
        )

    @property
    def deadline_s(self) -> float:
        """Infinite if the request has none."""
        return math.inf if self.request.deadline_s is None else self.request.deadline_s

    def advance(self, token: StepToken, now: float) -> FinishReason | None:
        """Takes one token in; sends what text became final; says why if this was the last token."""
        self.num_tokens += 1
        if self.first_token_s is None:
            self.first_token_s = now
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
        self.sink(FinishEvent(finish_reason=reason, usage=self.usage, receipt=receipt))

    @property
    def usage(self) -> Usage:
        return Usage(prompt_tokens=len(self.request.prompt_tokens), completion_tokens=self.num_tokens)

    def queue_s(self, now: float) -> float:
        """From arrival to its first step; to ``now`` while it has not begun."""
        return (now if self.started_s is None else self.started_s) - self.request.arrived_s

    def receipt(self, *, base: Fingerprint, mode: Mode, now: float) -> Receipt:
        """The caller has seen at every step that this request's blend was the active one."""
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
            self.sink(TextEvent(text=text))
