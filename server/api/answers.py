"""What a generation answers: its JSON forms, whole or as server-sent events."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable

from pydantic import BaseModel

from server.api.errors import TABLE, classify, error_body
from server.core.errors import Aborted
from server.core.requests import FinishReason, Receipt, RequestId, Usage
from server.engine.messages import Event, FailEvent, FinishEvent, TextEvent

log = logging.getLogger(__name__)


class UsageView(BaseModel):
    prompt_tokens: int
    completion_tokens: int


class AppliedView(BaseModel):
    name: str
    version: str
    scale: float


class ReceiptView(BaseModel):
    """What was really applied to produce the answer."""

    base: str
    adapters: list[AppliedView]
    fusion: str
    blend_key: str
    mode: str
    switch_ms: float
    queue_ms: float
    total_ms: float


class Answer(BaseModel):
    id: str
    text: str
    finish_reason: FinishReason
    usage: UsageView
    receipt: ReceiptView


async def whole_answer(request_id: RequestId, events: AsyncIterator[Event]) -> Answer:
    """Collects the events. Raises what a FailEvent carries."""
    pieces: list[str] = []
    async for event in events:
        match event:
            case TextEvent():
                pieces.append(event.text)
            case FailEvent():
                raise event.error
            case FinishEvent():
                return _answer(request_id, "".join(pieces), event)
    raise Aborted("the engine ended the request without an answer")


async def event_stream(
    request_id: RequestId, events: AsyncIterator[Event], on_end: Callable[[str], None]
) -> AsyncGenerator[bytes, None]:
    """Frames of server-sent events. An error after the first frame is a frame of its own, then the stream ends."""
    try:
        async for event in events:
            match event:
                case TextEvent():
                    yield _frame({"text": event.text})
                case FailEvent():
                    raise event.error
                case FinishEvent():
                    yield _frame(_answer(request_id, "", event).model_dump())
                    yield b"data: [DONE]\n\n"
                    on_end("ok")
                    return
        raise Aborted("the engine ended the request without an answer")
    except Exception as error:
        status = classify(error)
        if status is TABLE[Exception]:
            log.exception("a stream ended by an unexpected error")
        on_end(status.code)
        yield _frame(error_body(error))


def _answer(request_id: RequestId, text: str, event: FinishEvent) -> Answer:
    return Answer(
        id=request_id,
        text=text,
        finish_reason=event.finish_reason,
        usage=_usage_view(event.usage),
        receipt=_receipt_view(event.receipt),
    )


def _usage_view(usage: Usage) -> UsageView:
    return UsageView(prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens)


def _receipt_view(receipt: Receipt) -> ReceiptView:
    return ReceiptView(
        base=receipt.base,
        adapters=[AppliedView(name=one.name, version=one.version, scale=one.scale) for one in receipt.adapters],
        fusion=receipt.fusion,
        blend_key=receipt.blend_key,
        mode=receipt.mode,
        switch_ms=receipt.switch_ms,
        queue_ms=receipt.queue_ms,
        total_ms=receipt.total_ms,
    )


def _frame(value: object) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
