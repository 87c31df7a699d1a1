"""``POST /generate``: one prompt through one blend, as JSON or as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from server.api.admission import admit
from server.api.answer_views import Answer
from server.api.answers import Placed, event_stream, whole_answer
from server.api.auth import Key
from server.api.connection import while_connected
from server.api.dependencies import JsonOnly, ServicesDep, UntilAnswered
from server.api.outcomes import OUTCOME
from server.api.schemas import GenerateBody
from server.engine.messages import FailEvent

router = APIRouter(tags=["generate"])


EVENTS = (
    'Server-sent events, each `data:` and one JSON object: `{"text"}` as the text grows, and last an answer whose '
    "`text` is empty, with `finish_reason`, `usage` and `receipt`, then `data: [DONE]`. With `logprobs` each tells "
    "those of the tokens drawn since the one before it. With `n` above 1 each has the `index` of its answer, and every "
    "answer its own last event, whose `usage` counts the answers that have ended so far, the prompt once. A failure "
    'after the first event is an event `{"error"}` of the form of every error, and the stream ends without `[DONE]`.'
)
STREAM: dict[str, Any] = {
    "description": "The answer, or with `stream` its events.",
    "content": {"text/event-stream": {"schema": {"type": "string", "description": EVENTS}}},
}


@router.post("/generate", response_model=Answer, responses={200: STREAM}, dependencies=[JsonOnly])
async def generate(
    body: GenerateBody, request: Request, services: ServicesDep, key: Key, until_answered: UntilAnswered
) -> Response:
    """Answers with a receipt of what was really applied; never with another blend than the one asked for."""
    asked = await admit(services, key, body, until_answered)
    traffic = until_answered.enter_context(services.traffic.request([adapter.name for adapter in asked[0].adapters]))
    events = await until_answered.enter_async_context(aclosing(services.engine.generate(*asked)))
    first = await while_connected(request, partial(anext, events))
    traffic.started()
    if not body.stream:
        answer = await while_connected(request, partial(whole_answer, asked, _chained(first, events)))
        return Response(answer.model_dump_json(exclude_none=True), media_type="application/json")
    if isinstance(first[1], FailEvent):
        raise first[1].error
    request.scope[OUTCOME] = "aborted"  # until the stream has come to its end
    on_end = partial(request.scope.__setitem__, OUTCOME)
    return StreamingResponse(
        event_stream(asked, _chained(first, events), on_end),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


async def _chained(first: Placed, rest: AsyncIterator[Placed]) -> AsyncGenerator[Placed, None]:
    yield first
    async for event in rest:
        yield event
