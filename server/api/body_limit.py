"""Refuses bodies that are too large or that stop arriving, before and while they are read, whatever reads them."""

from __future__ import annotations

import anyio
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.errors import BodyTooLarge, answer_error
from server.core.errors import RequestRejected

MAX_JSON_BYTES = 4 * 1024**2
MAX_SILENCE_S = 60.0  # between two pieces of a body
UPLOAD_ROUTE = ("POST", "/adapters")


class BodyLimit:
    """ASGI middleware. The announced length is checked at once, the real one as it arrives."""

    def __init__(self, app: ASGIApp, *, max_upload_bytes: int) -> None:
        self._app = app
        self._max_upload_bytes = max_upload_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_upload = (scope["method"], scope["path"]) == UPLOAD_ROUTE
        limit_bytes = self._max_upload_bytes if is_upload else min(MAX_JSON_BYTES, self._max_upload_bytes)
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if not announced.isdigit():
            await answer_error(RequestRejected("the header Content-Length is not a number"), scope, receive, send)
        elif int(announced) > limit_bytes:
            await answer_error(BodyTooLarge(limit_bytes=limit_bytes), scope, receive, send)
        else:
            await self._app(scope, _counting(receive, limit_bytes), send)


def _counting(receive: Receive, limit_bytes: int) -> Receive:
    """The same messages; raises BodyTooLarge or a 408 from inside whoever reads the body."""
    num_bytes = 0
    is_complete = False

    async def receive_counted() -> Message:
        nonlocal num_bytes, is_complete
        if is_complete:
            return await receive()
        with anyio.move_on_after(MAX_SILENCE_S) as silence:
            message = await receive()
        if silence.cancelled_caught:
            raise HTTPException(408, f"no piece of the body arrived for {MAX_SILENCE_S:g} s")
        num_bytes += len(message.get("body", b""))
        is_complete = not message.get("more_body", False)
        if num_bytes > limit_bytes:
            raise BodyTooLarge(limit_bytes=limit_bytes)
        return message

    return receive_counted
