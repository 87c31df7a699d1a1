"""Counts every request once, by route template and outcome: ``ok``, ``redirect`` or the error's code."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.core.metrics import Metrics

OUTCOME = "shira.outcome"  # a scope key: set by whoever knows better than the status does


class Outcomes:
    """ASGI middleware, the outermost."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500

        async def send_noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_noting)
        finally:
            route = getattr(scope.get("route"), "path", "unmatched")
            outcome = scope.get(OUTCOME) or ("ok" if status < 400 else "internal_error")
            self._metrics.requests.labels(route, outcome).inc()
