"""The course of every generation, whatever it generates: counted, taken in by the engine, its events awaited."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from functools import partial

from fastapi import Request

from server.api.connection import while_connected
from server.api.services import Services
from server.api.trace_attributes import of_answer, of_request
from server.api.tracing import ANSWERED, trace_of
from server.core.requests import GenerationRequest
from server.core.tracing import Phase
from server.engine.messages import Event, FailEvent, FinishEvent, ImageEvent

Placed = tuple[int, Event]  # an event, and the place of its request among those asked together
NO_ANSWER = "the engine ended the request without an answer"


async def started(
    request: Request, services: Services, asked: Sequence[GenerationRequest], until_answered: AsyncExitStack
) -> AsyncGenerator[Placed, None]:
    """The events, once there is a first: what fails before it is raised here, while the answer can still have a status
    of its own. Closing ``until_answered`` aborts what has not ended."""
    traced = _traced(request, services, asked)
    traffic = until_answered.enter_context(services.traffic.request([adapter.name for adapter in asked[0].adapters]))
    events = await until_answered.enter_async_context(aclosing(services.engine.generate(*traced)))
    first = await while_connected(request, partial(anext, events))
    if isinstance(first[1], FailEvent):
        raise first[1].error
    traffic.started()
    return _noted(request, asked, first, events)


def _traced(request: Request, services: Services, asked: Sequence[GenerationRequest]) -> Sequence[GenerationRequest]:
    """Admission ends here; the engine tells the trace what comes next."""
    trace, now = trace_of(request), services.now()
    if not trace.is_recorded:
        return asked
    trace.add(Phase(name="admission", started_s=trace.started_s, ended_s=now))
    trace.describe(of_request(asked, services.base.name))
    return [replace(one, trace=trace, admitted_s=now) for one in asked]


async def _noted(
    request: Request, asked: Sequence[GenerationRequest], first: Placed, rest: AsyncIterator[Placed]
) -> AsyncGenerator[Placed, None]:
    """All events. Tells the trace of the answers, and when the engine was done with the last of them."""
    ends: list[FinishEvent | ImageEvent] = []
    async for place, event in _chained(first, rest):
        if isinstance(event, FinishEvent | ImageEvent):
            ends.append(event)
            if len(ends) == len(asked):
                trace_of(request).describe(of_answer(ends))
                request.scope[ANSWERED] = asked[place].arrived_s + event.receipt.total_ms / 1e3
        yield place, event


async def _chained(first: Placed, rest: AsyncIterator[Placed]) -> AsyncGenerator[Placed, None]:
    yield first
    async for event in rest:
        yield event
