"""Is the process alive, is it ready, what does it count."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

from server.api.dependencies import ServicesDep
from server.core.errors import Draining, EngineDied

router = APIRouter(tags=["health"])


class Health(BaseModel):
    status: Literal["ok"] = "ok"


@router.get("/livez")
async def livez(services: ServicesDep) -> Health:
    """200 while the process can work; otherwise restart it."""
    if not services.engine.is_alive:
        raise EngineDied("the engine thread has ended: restart the process")
    return Health()


@router.get("/readyz")
async def readyz(services: ServicesDep) -> Health:
    """200 while new requests are taken."""
    if services.engine.is_draining:  # whose end is no death
        raise Draining("the server is stopping")
    if not services.engine.is_alive:
        raise EngineDied("the engine thread has ended: restart the process")
    return Health()


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(services: ServicesDep) -> Response:
    """Prometheus text. Open when the server listens on loopback, otherwise any key will do."""
    return Response(await services.workers.scraping(services.metrics.render), media_type=CONTENT_TYPE_LATEST)
