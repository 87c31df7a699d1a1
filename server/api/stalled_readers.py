"""A client that takes nothing of its answer for long counts as gone, so that its adapters can be let go."""

from __future__ import annotations

import asyncio
import logging

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.outcomes import OUTCOME

log = logging.getLogger(__name__)

MAX_STALL_S = 60.0  # until a piece of an answer finds room in the connection's buffers
LOOKS = 4  # so many in that time


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
            sending_since_s = loop.time()
            await send(message)
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
