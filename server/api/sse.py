"""Server-sent events: one JSON object each, then ``[DONE]``, or an error in the place of both."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from functools import partial

from fastapi import Request
from fastapi.responses import StreamingResponse

from server.api.errors import TABLE, classify, error_body
from server.api.outcomes import OUTCOME

log = logging.getLogger(__name__)

END_TEXT = (
    'then `data: [DONE]`. A failure after the first event is an event `{"error"}` of the form of every error, and the '
    "stream ends without `[DONE]`."
)


def event_response(request: Request, frames: AsyncIterator[bytes]) -> StreamingResponse:
    """Sends ``frames`` as they come. The outcome of the request is what their end is."""
    request.scope[OUTCOME] = "aborted"  # until the stream has come to its end
    return StreamingResponse(
        _with_end(frames, partial(request.scope.__setitem__, OUTCOME)),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


def frame(value: object) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


async def _with_end(frames: AsyncIterator[bytes], on_end: Callable[[str], None]) -> AsyncGenerator[bytes, None]:
    try:
        async for one in frames:
            yield one
        yield b"data: [DONE]\n\n"
        on_end("ok")
    except Exception as error:
        status = classify(error)
        if status is TABLE[Exception]:
            log.exception("a stream ended by an unexpected error")
        on_end(status.code)
        yield frame(error_body(error))
