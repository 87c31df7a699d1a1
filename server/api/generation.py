"""The course of every generation, whatever it generates: counted, taken in by the engine, its events awaited."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing
from functools import partial

from fastapi import Request

from server.api.connection import while_connected
from server.api.services import Services
from server.core.requests import GenerationRequest
from server.engine.messages import Event, FailEvent

Placed = tuple[int, Event]  # an event, and the place of its request among those asked together
NO_ANSWER = "the engine ended the request without an answer"


async def started(
    request: Request, services: Services, asked: Sequence[GenerationRequest], until_answered: AsyncExitStack
) -> AsyncGenerator[Placed, None]:
    """The events, once there is a first: what fails before it is raised here, while the answer can still have a status
    of its own. Closing ``until_answered`` aborts what has not ended."""
    traffic = until_answered.enter_context(services.traffic.request([adapter.name for adapter in asked[0].adapters]))
    events = await until_answered.enter_async_context(aclosing(services.engine.generate(*asked)))
    first = await while_connected(request, partial(anext, events))
    if isinstance(first[1], FailEvent):
        raise first[1].error
    traffic.started()
    return _chained(first, events)


async def _chained(first: Placed, rest: AsyncIterator[Placed]) -> AsyncGenerator[Placed, None]:
    yield first
    async for event in rest:
        yield event
