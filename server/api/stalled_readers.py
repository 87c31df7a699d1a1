"""A client that takes nothing of its answer for long counts as gone, so that its adapters can be let go."""

from __future__ import annotations

import logging

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.outcomes import OUTCOME

log = logging.getLogger(__name__)

MAX_STALL_S = 60.0  # until the next piece of an answer finds room in the connection's buffers


class ReaderStalled(Exception):
    """Never leaves the middleware."""


class StalledReaders:
    """ASGI middleware. Nobody waits longer than this inside ``send``."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_in_time(message: Message) -> None:
            with anyio.move_on_after(MAX_STALL_S) as wait:
                await send(message)
            if wait.cancelled_caught:
                raise ReaderStalled

        try:
            await self._app(scope, receive, send_in_time)
        except ReaderStalled:
            scope[OUTCOME] = "aborted"
            log.info("%s: the client took nothing of its answer for %g s", scope["path"][:200], MAX_STALL_S)
