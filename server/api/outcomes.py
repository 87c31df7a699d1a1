"""Counts every request once and times it, by route template and outcome: ``ok`` or the error's code."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.core.metrics import Metrics, Verdict

GENERATIONS = frozenset({"/generate"})
OUTCOME = "shira.outcome"  # a scope key: set by whoever knows better than the status does


class Outcomes:
    """ASGI middleware, around all that answers. ``judge`` tells what the outcome of a generation says of us."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, judge: Callable[[str], Verdict]) -> None:
        self._app = app
        self._metrics = metrics
        self._judge = judge

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, started = 500, perf_counter()

        async def send_noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_noting)
        finally:
            route, outcome = route_of(scope), outcome_of(scope, status)
            self._metrics.requests.labels(route, outcome).inc()
            if route in GENERATIONS:
                self._metrics.generations.labels(self._judge(outcome)).inc()
            self._metrics.request_seconds.labels(route).observe(perf_counter() - started)


def route_of(scope: Scope) -> str:
    """The template of the route that was found; ``unmatched`` before that, or if there is none."""
    return getattr(scope.get("route"), "path", "unmatched")


def outcome_of(scope: Scope, status: int) -> str:
    """Once the request has ended, with this status."""
    return scope.get(OUTCOME) or ("ok" if status < 400 else "internal_error")
