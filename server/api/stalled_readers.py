"""A client that takes nothing of its answer for long counts as gone, so that its adapters can be let go."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.outcomes import OUTCOME

log = logging.getLogger(__name__)

MAX_STALL_S = 60.0  # until a piece of an answer finds room in the connection's buffers
LOOKS = 4  # so many in that time
PIECE_BYTES = 64 * 1024  # of an answer: of a large one, a slow reader takes something in time, if not all of it


class StalledReaders:
    """ASGI middleware. It looks now and then: a timer for each piece would cost more than sending it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        loop = asyncio.get_running_loop()
        sending_since_s: float | None = None

        async def send_noting(message: Message) -> None:
            nonlocal sending_since_s
            for piece in _pieces(message):
                sending_since_s = loop.time()
                await send(piece)
            sending_since_s = None

        async def watch() -> None:
            while sending_since_s is None or loop.time() - sending_since_s < MAX_STALL_S:  # noqa: ASYNC110 - it looks
                await asyncio.sleep(MAX_STALL_S / LOOKS)
            answering.cancel()

        with anyio.CancelScope() as answering:
            watching = asyncio.create_task(watch())
            try:
                await self._app(scope, receive, send_noting)
            finally:
                watching.cancel()
        if answering.cancelled_caught:
            scope[OUTCOME] = "aborted"
            log.info("%s: the client took nothing of its answer for %g s", scope["path"][:200], MAX_STALL_S)


def _pieces(message: Message) -> Iterator[Message]:
    """The same as several messages, where it is a large part of a body."""
    body = message.get("body", b"")
    if len(body) <= PIECE_BYTES:
        yield message
        return
    for start in range(0, len(body), PIECE_BYTES):
        is_last = start + PIECE_BYTES >= len(body)
        has_more = message.get("more_body", False) or not is_last
        yield {**message, "body": body[start : start + PIECE_BYTES], "more_body": has_more}
