"""An engine without a model: it answers by a script, so that the routes can be tested in milliseconds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from adapters_store.adapter import Fingerprint, Version
from server.core.requests import GenerationRequest, LikelyToken, Receipt, RequestId, TokenLogprob, Usage
from server.core.steps import VerifyReport
from server.engine.messages import Event, FailEvent, FinishEvent, TextEvent

FINGERPRINT = Fingerprint("sha256:" + "ab" * 32)
Step = Event | Exception | asyncio.Event  # an exception is raised, an asyncio.Event waited for


def finish(request: GenerationRequest) -> FinishEvent:
    return FinishEvent(
        finish_reason="length",
        usage=Usage(prompt_tokens=len(request.prompt_tokens), completion_tokens=2),
        receipt=Receipt(
            base=FINGERPRINT,
            adapters=request.adapters,
            fusion=request.blend.fusion.method,
            blend_key=request.blend.key,
            mode="fused",
            switch_ms=0.5,
            queue_ms=1.0,
            total_ms=2.0,
        ),
    )


@dataclass
class FakeEngine:
    """Without a script every request gets "Hello", " world" and its end. Remembers what it was asked.

    Every text counts as one token, and the end as the end-of-text token, where log-probabilities are asked for."""

    script: Sequence[Step] | None = None
    is_alive: bool = True
    is_draining: bool = False
    audit_ok: bool = True
    tells_logprobs: bool = True
    requests: list[GenerationRequest] = field(default_factory=list)
    aborted: list[RequestId] = field(default_factory=list)
    forgotten: list[Version] = field(default_factory=list)
    waits: asyncio.Queue[None] = field(default_factory=asyncio.Queue)  # one item whenever it begins to wait
    ended: asyncio.Event = field(default_factory=asyncio.Event)  # set whenever a request ends, however it does

    async def generate(self, *requests: GenerationRequest) -> AsyncGenerator[tuple[int, Event], None]:
        self.requests += requests
        is_finished = False
        default: Sequence[Step] = (TextEvent(text="Hello"), TextEvent(text=" world"))
        try:
            for step in default if self.script is None else self.script:
                match step:
                    case Exception():
                        is_finished = True
                        raise step
                    case asyncio.Event():
                        self.waits.put_nowait(None)
                        await step.wait()
                    case _:
                        for place, request in enumerate(requests):
                            yield place, self._told(step, request)
            is_finished = True
            for place, request in enumerate(requests):
                yield place, self._told(finish(request), request)
        finally:
            if not is_finished:
                self.aborted += [request.id for request in requests]
            self.ended.set()

    async def verify(self) -> VerifyReport:
        got = FINGERPRINT if self.audit_ok else "sha256:" + "00" * 32
        mismatched = () if self.audit_ok else ("layers.0.weight",)
        return VerifyReport(ok=self.audit_ok, digest=got, expected=FINGERPRINT, num_bytes=1024, mismatched=mismatched)

    async def inspect(self) -> dict[str, Any]:
        return {"active": [], "staged": []}

    async def forget(self, version: Version) -> None:
        self.forgotten.append(version)

    def _told(self, event: Event, request: GenerationRequest) -> Event:
        num_top = request.sampling.num_logprobs
        if num_top is None or not self.tells_logprobs or isinstance(event, FailEvent):
            return event
        text = event.text if isinstance(event, TextEvent) else "<end>"
        top = tuple(LikelyToken(token=place, text=f"t{place}", logprob=-1.0 - place) for place in range(num_top))
        drawn = LikelyToken(token=len(text), text=text, logprob=-0.5)
        return replace(event, logprobs=(TokenLogprob(drawn=drawn, top=top),))


class WordCodec:
    """One token per word."""

    def encode(self, prompt: str) -> tuple[int, ...]:
        return tuple(len(word) for word in prompt.split())

    def encode_chat(self, messages: Sequence[dict[str, str]]) -> tuple[int, ...]:
        return tuple(len(message["content"]) for message in messages)
