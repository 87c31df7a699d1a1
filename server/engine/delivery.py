"""How events cross from the engine thread to the event loop: many at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from server.engine.messages import Event

Deliver = Callable[[Event], None]


class Delivery:
    """Wakes the event loop once for all events that were sent before it got round to them, as those of one step are:
    a wake-up per token costs more than the token's share of a small step."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._sent: deque[tuple[Deliver, Event]] = deque()
        self._is_due = False

    def send(self, deliver: Deliver, event: Event) -> None:
        """``deliver`` will be called with the event on the loop, in order. Any one thread."""
        self._sent.append((deliver, event))
        if not self._is_due:
            self._is_due = True
            with suppress(RuntimeError):  # the event loop has closed: nobody waits any more
                self.loop.call_soon_threadsafe(self._deliver_all)

    def _deliver_all(self) -> None:
        self._is_due = False  # before looking: what is sent from now on asks for a call of its own
        while self._sent:
            deliver, event = self._sent.popleft()
            deliver(event)
