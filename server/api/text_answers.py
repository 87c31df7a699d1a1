"""From the engine's events to the answer to a text request: whole, or as frames of server-sent events."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from server.api.generation import NO_ANSWER, Placed
from server.api.receipt_view import ReceiptView
from server.api.sse import frame
from server.api.text_views import Choice, LogprobView, TextAnswer, TextUsage
from server.core.errors import Aborted
from server.core.requests import TextRequest, TokenLogprob, Usage
from server.engine.messages import FailEvent, FinishEvent, TextEvent


async def whole_text(asked: Sequence[TextRequest], events: AsyncIterator[Placed]) -> TextAnswer:
    """Collects the events. Raises what a FailEvent carries."""
    drafts = [_Draft() for _ in asked]
    async for place, event in events:
        if isinstance(event, FailEvent):
            raise event.error
        if isinstance(event, TextEvent | FinishEvent):
            drafts[place].take(event)
    choices = [draft.choice(place, request) for place, (draft, request) in enumerate(zip(drafts, asked, strict=True))]
    first = choices[0]
    is_one = len(choices) == 1
    return TextAnswer(
        id=asked[0].id,
        text=first.text,
        finish_reason=first.finish_reason,
        usage=TextUsage.of([draft.usage for draft in drafts]),
        receipt=first.receipt,
        logprobs=first.logprobs if is_one else None,
        choices=None if is_one else choices,
    )


async def text_frames(asked: Sequence[TextRequest], events: AsyncIterator[Placed]) -> AsyncGenerator[bytes, None]:
    """One for each event. Raises what a FailEvent carries."""
    ended: list[Usage] = []
    async for place, event in events:
        match event:
            case TextEvent():
                yield frame(_told(asked, place, event) | {"text": event.text})
            case FinishEvent():
                ended.append(event.usage)
                yield frame(_told(asked, place, event) | _last(asked[0], event, ended))
            case FailEvent():
                raise event.error
    if len(ended) < len(asked):
        raise Aborted(NO_ANSWER)


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

    def choice(self, place: int, request: TextRequest) -> Choice:
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


def _logprobs(request: TextRequest, told: Sequence[TokenLogprob]) -> list[LogprobView] | None:
    return None if request.sampling.num_logprobs is None else [LogprobView.of(one) for one in told]


def _told(asked: Sequence[TextRequest], place: int, event: TextEvent | FinishEvent) -> dict[str, Any]:
    """What every event of a stream tells: of which answer it is, if there are several, and its log-probabilities."""
    told: dict[str, Any] = {"index": place} if len(asked) > 1 else {}
    views = _logprobs(asked[place], event.logprobs)
    return told if views is None else told | {"logprobs": [view.model_dump(exclude_none=True) for view in views]}


def _last(first: TextRequest, event: FinishEvent, ended: Sequence[Usage]) -> dict[str, Any]:
    """The rest of an answer's last event; ``ended`` are the usages so far, its own included."""
    return {
        "id": first.id,
        "text": "",
        "finish_reason": event.finish_reason,
        "usage": TextUsage.of(ended).model_dump(),
        "receipt": ReceiptView.of(event.receipt).model_dump(),
    }
