"""The asyncio side of the engine thread: with ``delivery`` the only file that knows both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from server.core.errors import DeadlineExceeded, DeadlineUnreachable, Draining, EngineDied, QueueFull
from server.core.requests import GenerationRequest
from server.core.steps import VerifyReport
from server.engine.delivery import Delivery
from server.engine.loop import EngineThread
from server.engine.mailbox import Mailbox
from server.engine.messages import (
    Abort,
    Command,
    Drain,
    Event,
    FailEvent,
    Forget,
    Inspect,
    ProgressEvent,
    Submit,
    TextEvent,
    Verify,
)
from server.engine.ports import Clock

if TYPE_CHECKING:
    from adapters_store.adapter import Version

T = TypeVar("T")

REFUSALS = (QueueFull, Draining, DeadlineUnreachable)


class EngineClient:
    """Use it on one event loop."""

    def __init__(self, engine: EngineThread, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock
        self._is_draining = False
        self._delivery: Delivery | None = None

    @property
    def is_alive(self) -> bool:
        return self._engine.is_alive

    @property
    def is_draining(self) -> bool:
        return self._is_draining

    async def generate(self, *requests: GenerationRequest) -> AsyncGenerator[tuple[int, Event], None]:
        """The events of requests that are taken together or not at all, each with its request's place among them.

        Every request ends with a FinishEvent or an ImageEvent, or the first FailEvent ends them all. Closing the
        iterator early aborts what has not ended. All have the same deadline. Raises QueueFull, Draining,
        DeadlineUnreachable or EngineDied instead of a first event."""
        events = Mailbox()
        send = self._own_delivery().send
        sinks = tuple(partial(send, partial(events.put, place)) for place in range(len(requests)))
        self._submit(Submit(requests=requests, sinks=sinks))
        unended = set(range(len(requests)))
        is_first = True
        try:
            while unended:
                place, event = await self._next(events, requests[0])
                if not isinstance(event, TextEvent | ProgressEvent):
                    unended.discard(place)
                if isinstance(event, FailEvent) and isinstance(event.error, REFUSALS) and is_first:
                    raise event.error
                is_first = False
                yield place, event
                if isinstance(event, FailEvent):
                    return
        finally:
            for place in unended:
                self._engine.post(Abort(request_id=requests[place].id))

    async def _next(self, events: Mailbox, first: GenerationRequest) -> tuple[int, Event]:
        """The next event, or the end at the deadline: inside a long step the engine cannot tell it in time."""
        if first.deadline_s is None:
            return await events.get()
        try:
            async with asyncio.timeout(max(0.0, first.deadline_s - self._clock.now())):
                return await events.get()
        except TimeoutError:
            self._engine.post(Abort(request_id=first.id))
            return 0, FailEvent(error=DeadlineExceeded(deadline_ms=first.deadline_ms))

    async def verify(self) -> VerifyReport:
        done: Future[VerifyReport] = Future()
        return await self._ask(Verify(done=done), done)

    async def inspect(self) -> dict[str, Any]:
        done: Future[dict[str, Any]] = Future()
        return await self._ask(Inspect(done=done), done)

    async def forget(self, version: Version) -> None:
        """Returns when the engine holds nothing of this version; requests that use it finish first. A drained engine
        holds nothing."""
        done: Future[None] = Future()
        is_posted = self._engine.post(Forget(version=version, done=done))
        await asyncio.wrap_future(done if is_posted else self._engine.ended)

    async def drain(self, timeout_s: float) -> None:
        """Refuses new requests, lets accepted ones finish for up to ``timeout_s``, then stops the thread."""
        self._is_draining = True
        done: Future[None] = Future()
        if self._engine.post(Drain(deadline_s=self._clock.now() + timeout_s, done=done)):
            await asyncio.wrap_future(done)

    def _own_delivery(self) -> Delivery:
        loop = asyncio.get_running_loop()
        if self._delivery is None or self._delivery.loop is not loop:
            self._delivery = Delivery(loop)
        return self._delivery

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
            raise Draining("the server is stopping") if self._is_draining else EngineDied("the engine has stopped")
        return await asyncio.wrap_future(done)
