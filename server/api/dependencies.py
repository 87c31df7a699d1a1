"""What routes ask for by type: the services, and a stack that is closed after the last byte of the answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Annotated

import anyio
from fastapi import Depends, Request

from server.api.errors import UnsupportedMediaType
from server.api.services import Services


async def get_services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


async def until_answered() -> AsyncIterator[AsyncExitStack]:
    """Closed when the response has been sent, was refused or lost its reader; also for streams that never began."""
    stack = AsyncExitStack()
    try:
        yield stack
    finally:
        await close(stack)


async def close(stack: AsyncExitStack) -> None:
    """To its end, whoever is cancelled meanwhile. A second time does nothing."""
    with anyio.CancelScope(shield=True):
        await stack.aclose()


ServicesDep = Annotated[Services, Depends(get_services)]
UntilAnswered = Annotated[AsyncExitStack, Depends(until_answered)]


async def json_only(request: Request) -> None:
    got = request.headers.get("content-type", "")
    if got.partition(";")[0].strip().lower() != "application/json":
        raise UnsupportedMediaType(expected="application/json", got=got)


JsonOnly = Depends(json_only)
