"""``POST /generate`` of a base that draws: one prompt through one blend, as JSON, as the picture itself, or as
server-sent events."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from server.api.accept import preferred
from server.api.auth import Key
from server.api.connection import while_connected
from server.api.dependencies import JsonOnly, ServicesDep, UntilAnswered, close
from server.api.errors import ErrorAnswer, NotAcceptable
from server.api.foreign_fields import fields_of, route_without
from server.api.generation import started
from server.api.image_admission import admit_images
from server.api.image_answers import image_frames, json_answer, png, whole_images
from server.api.image_schemas import ImageBody
from server.api.image_views import ImageAnswer
from server.api.receipt_view import ReceiptView
from server.api.sse import END_TEXT, event_response
from server.api.text_schemas import TextBody

router = APIRouter(
    tags=["generate"],
    route_class=route_without(
        fields_of(TextBody) - fields_of(ImageBody), "is for a base that writes text; this one draws pictures"
    ),
)

JSON, PNG, EVENTS = "application/json", "image/png", "text/event-stream"
EVENTS_TEXT = (
    'Server-sent events, each `data:` and one JSON object: `{"step", "num_steps"}` as the denoising steps run, with a '
    '`preview` of the form `{"b64", "media_type"}` after each so many of them as `previews` asks for, and last an '
    f"answer with the picture in `images`, `finish_reason`, `usage` and `receipt`, {END_TEXT} A reader who is slow "
    "finds only the latest of several steps, with the latest preview. With `num_images` above 1 each event has the "
    "`index` of its picture, and every picture its own last event, whose `usage` counts those that have ended so far."
)
PNG_TEXT = (
    "With `Accept: image/png`: the bytes of the one picture. The header `X-Shira-Receipt` is its receipt as JSON, "
    "`X-Shira-Seed` the seed that draws it again."
)
ANSWERS: dict[str, Any] = {
    "description": "The pictures, or with `stream` how they come to be.",
    "content": {
        EVENTS: {"schema": {"description": EVENTS_TEXT}},
        PNG: {"schema": {"type": "string", "format": "binary", "description": PNG_TEXT}},
    },
}


@router.post(
    "/generate",
    response_model=ImageAnswer,
    responses={200: ANSWERS, 406: {"model": ErrorAnswer}},
    dependencies=[JsonOnly],
)
async def generate(
    body: ImageBody, request: Request, services: ServicesDep, key: Key, until_answered: UntilAnswered
) -> Response:
    """Answers with a receipt of what was really applied; never with another blend than the one asked for."""
    media_type = _media_type(body, request)
    asked = await admit_images(services, key, body, until_answered)
    events = await started(request, services, asked, until_answered)
    if body.stream:
        return event_response(request, image_frames(services.workers, asked, events, partial(close, until_answered)))
    ends = await while_connected(request, partial(whole_images, asked, events))
    await close(until_answered)  # who is slow to take megabytes holds no adapter
    if media_type == PNG:
        receipt = ReceiptView.of(ends[0].receipt).model_dump_json()
        headers = {"X-Shira-Receipt": receipt, "X-Shira-Seed": str(asked[0].seed)}
        return Response(await services.workers.encoding(png, ends[0].picture), media_type=PNG, headers=headers)
    return Response(await json_answer(services.workers, asked, ends), media_type=JSON)


def _media_type(body: ImageBody, request: Request) -> str:
    """What the answer will be. Raises NotAcceptable. A stream is one of events also for who asks for JSON."""
    offers = (EVENTS, JSON, PNG) if body.stream else (JSON, PNG)
    chosen = preferred(",".join(request.headers.getlist("accept")), offers)
    if chosen is None:
        raise NotAcceptable(f"the header Accept: expected one of {', '.join(offers)}")
    if chosen == PNG and body.stream:
        raise NotAcceptable(f"{PNG} is no stream: leave out stream, or accept {EVENTS}")
    if chosen == PNG and body.parameters.num_images > 1:
        raise NotAcceptable(f"{PNG} holds one picture, and num_images is {body.parameters.num_images}: accept {JSON}")
    return chosen
