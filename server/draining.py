"""The HTTP server's end: who was accepted is answered, and who comes meanwhile is told."""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any

import uvicorn

LOOK_S = 0.1  # how often a second Ctrl-C is looked for


class DrainingServer(uvicorn.Server):
    """Told to stop, it begins ``drain`` and goes on listening until that is done, so that new requests and ``/readyz``
    get their 503. Only then come uvicorn's own steps: no more connections, the last bytes of those that are open.

    ``config.timeout_graceful_shutdown`` (s) bounds both together; it must be longer than the drain: whom uvicorn
    cancels gets a bare 500, or the end of the connection."""

    def __init__(self, config: uvicorn.Config, drain: Callable[[], Coroutine[Any, Any, None]]) -> None:
        super().__init__(config)
        self._drain = drain

    def leave(self) -> None:
        """As a signal would make it. Any thread."""
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        deadline_s = monotonic() + (self.config.timeout_graceful_shutdown or 0)
        draining = asyncio.create_task(self._drain())
        while not draining.done() and not self.force_exit and monotonic() < deadline_s:
            await asyncio.wait({draining}, timeout=LOOK_S)
        self.config.timeout_graceful_shutdown = max(1, math.ceil(deadline_s - monotonic()))
        await super().shutdown(sockets)
        draining.cancel()  # done by now, unless the exit is forced
