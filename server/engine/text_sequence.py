"""A text on its way: tokens come in, text that is final goes out."""

from __future__ import annotations

from dataclasses import dataclass, field

from server.core.requests import FinishReason, Receipt, TextRequest, TokenLogprob, Usage
from server.core.steps import NewSequence, StepToken
from server.engine.messages import FinishEvent, TextEvent
from server.engine.sequence import Sequence
from server.engine.stopping import StopGate


@dataclass(slots=True, kw_only=True, eq=False)
class TextSequence(Sequence):
    request: TextRequest
    logprobs: list[TokenLogprob] = field(default_factory=list)  # of tokens whose text is held back
    gate: StopGate = field(init=False)

    def __post_init__(self) -> None:
        self.gate = StopGate(self.request.stop)

    @property
    def new(self) -> NewSequence:
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

    def advance(self, result: StepToken, now: float) -> FinishReason | None:
        self.count(now)
        if result.logprob is not None:
            self.logprobs.append(result.logprob)
        self._send(self.gate.push(result.text))
        if self.gate.is_stopped or (result.is_eos and not self.request.ignore_eos):
            return "stop"
        return "length" if self.num_tokens >= self.request.max_new_tokens else None

    def finish(self, reason: FinishReason, held_text: str, receipt: Receipt) -> None:
        """A stop string may still be in the text that was held back."""
        self._send(self.gate.push(held_text))
        self._send(self.gate.finish())
        if self.gate.is_stopped:
            reason = "stop"
        logprobs = self._take_logprobs()
        self.sink(FinishEvent(finish_reason=reason, usage=self.usage, receipt=receipt, logprobs=logprobs))

    @property
    def usage(self) -> Usage:
        return Usage(prompt_tokens=self.request.num_prompt_tokens, completion_tokens=self.num_tokens)

    def _send(self, text: str) -> None:
        if text:
            self.sink(TextEvent(text=text, logprobs=self._take_logprobs()))

    def _take_logprobs(self) -> tuple[TokenLogprob, ...]:
        taken = tuple(self.logprobs)
        self.logprobs.clear()
        return taken
