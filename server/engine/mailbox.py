"""The events of one client's requests that it has not read yet."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from server.engine.messages import Event, ProgressEvent


class Mailbox:
    """Holds at most one event per new token of text, and of each image only the latest progress: a reader who is slow
    keeps one preview in memory, not all of them. Use it on one event loop."""

    def __init__(self) -> None:
        self._events: asyncio.Queue[tuple[int, Event | None]] = asyncio.Queue()  # None: see ``_progress``
        self._progress: dict[int, ProgressEvent] = {}

    def put(self, place: int, event: Event) -> None:
        if not isinstance(event, ProgressEvent):
            self._events.put_nowait((place, event))
            return
        unread = self._progress.get(place)
        if unread is None:
            self._events.put_nowait((place, None))
        elif event.preview is None:
            event = replace(event, preview=unread.preview)
        self._progress[place] = event

    async def get(self) -> tuple[int, Event]:
        """The next event, in the order in which they came, with its request's place."""
        place, event = await self._events.get()
        return place, self._progress.pop(place) if event is None else event
