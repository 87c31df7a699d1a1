"""An engine without a model: it answers by a script, so that the routes can be tested in milliseconds.

Asked for text it writes, asked for a picture it draws."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from adapters_store.adapter import Fingerprint, Version
from server.core.requests import (
    GenerationRequest,
    ImageRequest,
    ImageUsage,
    LikelyToken,
    Picture,
    Receipt,
    RequestId,
    TextRequest,
    TokenLogprob,
    Usage,
)
from server.core.steps import VerifyReport
from server.engine.messages import Event, FinishEvent, ImageEvent, ProgressEvent, TextEvent

FINGERPRINT = Fingerprint("sha256:" + "ab" * 32)
Step = Event | Exception | asyncio.Event  # an exception is raised, an asyncio.Event waited for


def finish(request: GenerationRequest) -> FinishEvent | ImageEvent:
    receipt = Receipt(
        base=FINGERPRINT,
        adapters=request.adapters,
        fusion=request.blend.fusion.method,
        blend_key=request.blend.key,
        mode="fused",
        switch_ms=0.5,
        queue_ms=1.0,
        total_ms=2.0,
    )
    if isinstance(request, ImageRequest):
        return ImageEvent(
            picture=drawn(request, request.max_new_tokens),
            finish_reason="stop",
            usage=ImageUsage(num_steps=request.max_new_tokens),
            receipt=receipt,
        )
    usage = Usage(prompt_tokens=request.num_prompt_tokens, completion_tokens=2)
    return FinishEvent(finish_reason="length", usage=usage, receipt=receipt)


def drawn(request: ImageRequest, num_steps: int) -> Picture:
    """One colour all over, which tells the seed and how far it is."""
    colour = bytes([(request.seed or 0) % 256, num_steps % 256, 0])
    return Picture(width=request.width, height=request.height, rgb=colour * (request.width * request.height))


@dataclass
class FakeEngine:
    """Without a script every text gets "Hello", " world" and its end, every image its steps. Remembers what it was
    asked.

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

    @property
    def texts(self) -> list[TextRequest]:
        return [request for request in self.requests if isinstance(request, TextRequest)]

    @property
    def images(self) -> list[ImageRequest]:
        return [request for request in self.requests if isinstance(request, ImageRequest)]

    async def generate(self, *requests: GenerationRequest) -> AsyncGenerator[tuple[int, Event], None]:
        self.requests += requests
        is_finished = False
        try:
            for step in _usual(requests[0]) if self.script is None else self.script:
                match step:
                    case Exception():
                        is_finished = True
                        raise step
                    case asyncio.Event():
                        self.waits.put_nowait(None)
                        await step.wait()
                    case _:
                        for place, request in enumerate(requests):
                            yield place, self._told(_of(request, step), request)
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
        num_top = request.sampling.num_logprobs if isinstance(request, TextRequest) else None
        if num_top is None or not self.tells_logprobs or not isinstance(event, TextEvent | FinishEvent):
            return event
        text = event.text if isinstance(event, TextEvent) else "<end>"
        top = tuple(LikelyToken(token=place, text=f"t{place}", logprob=-1.0 - place) for place in range(num_top))
        drawn = LikelyToken(token=len(text), text=text, logprob=-0.5)
        return replace(event, logprobs=(TokenLogprob(drawn=drawn, top=top),))


def _usual(request: GenerationRequest) -> Iterator[Step]:
    if not isinstance(request, ImageRequest):
        yield from (TextEvent(text="Hello"), TextEvent(text=" world"))
        return
    for step in range(1, request.max_new_tokens + 1):
        yield ProgressEvent(num_done=step, num_steps=request.max_new_tokens)


def _of(request: GenerationRequest, event: Event) -> Event:
    """With the preview that the request asked for."""
    if not isinstance(request, ImageRequest) or not isinstance(event, ProgressEvent) or not request.preview_every:
        return event
    is_due = event.num_done % request.preview_every == 0
    return replace(event, preview=drawn(request, event.num_done) if is_due else event.preview)


class WordCodec:
    """One token per word."""

    def encode(self, prompt: str) -> tuple[int, ...]:
        return tuple(len(word) for word in prompt.split())

    def encode_chat(self, messages: Sequence[dict[str, str]]) -> tuple[int, ...]:
        return tuple(len(message["content"]) for message in messages)


@dataclass(frozen=True)
class WordPrompts:
    """An encoder that reads so many words."""

    max_tokens: int = 8

    def num_tokens(self, prompt: str) -> int:
        return len(prompt.split())
