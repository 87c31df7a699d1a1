"""The HTTP server's end: requests that outlast the drain are answered like all others, not cut off."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import uvicorn


class DrainingServer(uvicorn.Server):
    """Begins ``drain`` as soon as no more connections are taken, beside uvicorn's own wait for those that are open.

    uvicorn must wait longer than the drain takes: whom it cancels gets a bare 500, or the end of the connection."""

    def __init__(self, config: uvicorn.Config, drain: Callable[[], Coroutine[Any, Any, None]]) -> None:
        super().__init__(config)
        self._drain = drain

    def leave(self) -> None:
        """As a signal would make it. Any thread."""
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        draining = asyncio.create_task(self._drain())
        await super().shutdown(sockets)
        draining.cancel()  # done by now, unless the exit is forced
