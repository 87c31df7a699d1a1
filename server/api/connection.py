"""Work that is worth doing only while somebody waits for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
from fastapi import Request

from server.core.errors import Aborted

T = TypeVar("T")


async def while_connected(request: Request, work: Callable[[], Awaitable[T]]) -> T:
    """The result of ``work``, or Aborted: the work is cancelled when the client goes away. The body must be read."""
    results: list[T] = []
    errors: list[Exception] = []

    async def cancel_when_gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(cancel_when_gone)
        try:
            results.append(await work())
        except Exception as error:  # kept as it is, not wrapped into the task group's own
            errors.append(error)
        group.cancel_scope.cancel()
    if errors:
        raise errors[0]
    if not results:
        raise Aborted("the client went away")
    return results[0]
