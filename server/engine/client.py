"""The asyncio side of the engine thread: the only file that knows both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from server.core.errors import DeadlineExceeded, Draining, EngineDied, QueueFull
from server.core.requests import GenerationRequest
from server.core.steps import VerifyReport
from server.engine.loop import EngineThread
from server.engine.messages import Abort, Command, Drain, Event, FailEvent, Forget, Inspect, Submit, TextEvent, Verify
from server.engine.ports import Clock

if TYPE_CHECKING:
    from adapters_store.adapter import Version

T = TypeVar("T")


class EngineClient:
    """Use it on one event loop."""

    def __init__(self, engine: EngineThread, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock
        self._is_draining = False

    @property
    def is_alive(self) -> bool:
        return self._engine.is_alive

    @property
    def is_draining(self) -> bool:
        return self._is_draining

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        """The request's events, a FinishEvent or FailEvent last. Closing the iterator early aborts the request.

        Raises QueueFull, Draining or EngineDied instead of a first event."""
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[Event] = asyncio.Queue()  # holds at most one event per new token

        def sink(event: Event) -> None:
            with suppress(RuntimeError):  # the event loop has closed: nobody waits any more
                loop.call_soon_threadsafe(events.put_nowait, event)

        self._submit(Submit(request=request, sink=sink))
        is_over = False
        try:
            event = await self._next(events, request)
            if isinstance(event, FailEvent) and isinstance(event.error, QueueFull | Draining):
                is_over = True
                raise event.error
            while True:
                is_over = not isinstance(event, TextEvent)
                yield event
                if is_over:
                    return
                event = await self._next(events, request)
        finally:
            if not is_over:
                self._engine.post(Abort(request_id=request.id))

    async def _next(self, events: asyncio.Queue[Event], request: GenerationRequest) -> Event:
        """The next event, or the end at the deadline: inside a long step the engine cannot tell it in time."""
        if request.deadline_s is None:
            return await events.get()
        try:
            async with asyncio.timeout(max(0.0, request.deadline_s - self._clock.now())):
                return await events.get()
        except TimeoutError:
            self._engine.post(Abort(request_id=request.id))
            return FailEvent(error=DeadlineExceeded(deadline_ms=request.deadline_ms))

    async def verify(self) -> VerifyReport:
        done: Future[VerifyReport] = Future()
        return await self._ask(Verify(done=done), done)

    async def inspect(self) -> dict[str, Any]:
        done: Future[dict[str, Any]] = Future()
        return await self._ask(Inspect(done=done), done)

    async def forget(self, version: Version) -> None:
        """Returns when the engine holds nothing of this version; requests that use it finish first."""
        done: Future[None] = Future()
        await self._ask(Forget(version=version, done=done), done)

    async def drain(self, timeout_s: float) -> None:
        """Refuses new requests, lets accepted ones finish for up to ``timeout_s``, then stops the thread."""
        self._is_draining = True
        done: Future[None] = Future()
        if self._engine.post(Drain(deadline_s=self._clock.now() + timeout_s, done=done)):
            await asyncio.wrap_future(done)

    def _submit(self, command: Submit) -> None:
        if self._is_draining:
            raise Draining("the server is stopping")
        if self._engine.post(command):
            return
        if not self._engine.is_alive:
            raise EngineDied("the engine has stopped")
        raise QueueFull(limit=self._engine.limits.max_queue, retry_after_s=self._engine.retry_after_s())

    async def _ask(self, command: Command, done: Future[T]) -> T:
        if not self._engine.post(command):
            raise EngineDied("the engine has stopped")
        return await asyncio.wrap_future(done)
