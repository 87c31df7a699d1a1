"""``POST /generate`` of a base that writes text: one prompt through one blend, as JSON or as server-sent events."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from server.api.auth import Key
from server.api.connection import while_connected
from server.api.dependencies import JsonOnly, ServicesDep, UntilAnswered
from server.api.foreign_fields import fields_of, route_without
from server.api.generation import started
from server.api.image_schemas import ImageBody
from server.api.sse import END_TEXT, event_response
from server.api.text_admission import admit_text
from server.api.text_answers import text_frames, whole_text
from server.api.text_schemas import TextBody
from server.api.text_views import TextAnswer

router = APIRouter(
    tags=["generate"],
    route_class=route_without(
        fields_of(ImageBody) - fields_of(TextBody), "is for a base that draws pictures; this one writes text"
    ),
)


EVENTS = (
    'Server-sent events, each `data:` and one JSON object: `{"text"}` as the text grows, and last an answer whose '
    f"`text` is empty, with `finish_reason`, `usage` and `receipt`, {END_TEXT} With `logprobs` each tells those of the "
    "tokens drawn since the one before it. With `n` above 1 each has the `index` of its answer, and every answer its "
    "own last event, whose `usage` counts the answers that have ended so far, the prompt once."
)
STREAM: dict[str, Any] = {
    "description": "The answer, or with `stream` its events.",
    "content": {"text/event-stream": {"schema": {"description": EVENTS}}},
}


@router.post("/generate", response_model=TextAnswer, responses={200: STREAM}, dependencies=[JsonOnly])
async def generate(
    body: TextBody, request: Request, services: ServicesDep, key: Key, until_answered: UntilAnswered
) -> Response:
    """Answers with a receipt of what was really applied; never with another blend than the one asked for."""
    asked = await admit_text(services, key, body, until_answered)
    events = await started(request, services, asked, until_answered)
    if body.stream:
        return event_response(request, text_frames(asked, events))
    answer = await while_connected(request, partial(whole_text, asked, events))
    return Response(answer.model_dump_json(exclude_none=True), media_type="application/json")
