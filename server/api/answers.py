"""From the engine's events to an answer: whole, or as server-sent events."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from server.api.answer_views import Answer, Choice, LogprobView, ReceiptView, UsageView
from server.api.errors import TABLE, classify, error_body
from server.core.errors import Aborted
from server.core.requests import GenerationRequest, TokenLogprob, Usage
from server.engine.messages import Event, FailEvent, FinishEvent, TextEvent

log = logging.getLogger(__name__)

Placed = tuple[int, Event]  # an event, and the place of its request among those asked together
NO_ANSWER = "the engine ended the request without an answer"


async def whole_answer(asked: Sequence[GenerationRequest], events: AsyncIterator[Placed]) -> Answer:
    """Collects the events. Raises what a FailEvent carries."""
    drafts = [_Draft() for _ in asked]
    async for place, event in events:
        if isinstance(event, FailEvent):
            raise event.error
        drafts[place].take(event)
    choices = [draft.choice(place, request) for place, (draft, request) in enumerate(zip(drafts, asked, strict=True))]
    first = choices[0]
    is_one = len(choices) == 1
    return Answer(
        id=asked[0].id,
        text=first.text,
        finish_reason=first.finish_reason,
        usage=UsageView.of([draft.usage for draft in drafts]),
        receipt=first.receipt,
        logprobs=first.logprobs if is_one else None,
        choices=None if is_one else choices,
    )


async def event_stream(
    asked: Sequence[GenerationRequest], events: AsyncIterator[Placed], on_end: Callable[[str], None]
) -> AsyncGenerator[bytes, None]:
    """Frames of server-sent events. An error after the first frame is a frame of its own, then the stream ends."""
    ended: list[Usage] = []
    try:
        async for place, event in events:
            match event:
                case TextEvent():
                    yield _frame(_told(asked, place, event) | {"text": event.text})
                case FailEvent():
                    raise event.error
                case FinishEvent():
                    ended.append(event.usage)
                    yield _frame(_told(asked, place, event) | _last(asked[0], event, ended))
        if len(ended) < len(asked):
            raise Aborted(NO_ANSWER)
        yield b"data: [DONE]\n\n"
        on_end("ok")
    except Exception as error:
        status = classify(error)
        if status is TABLE[Exception]:
            log.exception("a stream ended by an unexpected error")
        on_end(status.code)
        yield _frame(error_body(error))


@dataclass(slots=True)
class _Draft:
    """What has come of one answer."""

    pieces: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    end: FinishEvent | None = None

    def take(self, event: TextEvent | FinishEvent) -> None:
        self.logprobs += event.logprobs
        if isinstance(event, TextEvent):
            self.pieces.append(event.text)
        else:
            self.end = event

    @property
    def usage(self) -> Usage:
        return self._ended().usage

    def choice(self, place: int, request: GenerationRequest) -> Choice:
        end = self._ended()
        return Choice(
            index=place,
            text="".join(self.pieces),
            finish_reason=end.finish_reason,
            receipt=ReceiptView.of(end.receipt),
            logprobs=_logprobs(request, self.logprobs),
        )

    def _ended(self) -> FinishEvent:
        if self.end is None:
            raise Aborted(NO_ANSWER)
        return self.end


def _logprobs(request: GenerationRequest, told: Sequence[TokenLogprob]) -> list[LogprobView] | None:
    return None if request.sampling.num_logprobs is None else [LogprobView.of(one) for one in told]


def _told(asked: Sequence[GenerationRequest], place: int, event: TextEvent | FinishEvent) -> dict[str, Any]:
    """What every event of a stream tells: of which answer it is, if there are several, and its log-probabilities."""
    told: dict[str, Any] = {"index": place} if len(asked) > 1 else {}
    views = _logprobs(asked[place], event.logprobs)
    return told if views is None else told | {"logprobs": [view.model_dump(exclude_none=True) for view in views]}


def _last(first: GenerationRequest, event: FinishEvent, ended: Sequence[Usage]) -> dict[str, Any]:
    """The rest of an answer's last event; ``ended`` are the usages so far, its own included."""
    return {
        "id": first.id,
        "text": "",
        "finish_reason": event.finish_reason,
        "usage": UsageView.of(ended).model_dump(),
        "receipt": ReceiptView.of(event.receipt).model_dump(),
    }


def _frame(value: object) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
