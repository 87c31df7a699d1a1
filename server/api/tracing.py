"""The trace of every request: begun where it comes in, ended behind its last byte."""

from __future__ import annotations

from time import monotonic

from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.outcomes import outcome_of, route_of
from server.core.log import trace_id
from server.core.tracing import Phase, RequestTrace, Tracing

TRACE = "shira.trace"  # scope keys
ANSWERED = "shira.answered_s"  # when the engine was done with the request, on its clock
UNTRACED_PATHS = frozenset({"/livez", "/readyz", "/metrics"})  # asked every few seconds, by nobody who reads traces


class Traces:
    """ASGI middleware, the outermost."""

    def __init__(self, app: ASGIApp, *, tracing: Tracing) -> None:
        self._app = app
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in UNTRACED_PATHS:
            await self._app(scope, receive, send)
            return
        status = 500

        async def send_noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if trace.response is not None:
                    MutableHeaders(scope=message)["traceresponse"] = trace.response
            await send(message)

        trace = scope[TRACE] = self._tracing.begin(scope["method"], Headers(scope=scope))
        token = trace_id.set(trace.id)
        try:
            await self._app(scope, receive, send_noting)
        finally:
            trace_id.reset(token)
            if ANSWERED in scope:
                trace.add(Phase(name="delivery", started_s=scope[ANSWERED], ended_s=monotonic()))
            _end(trace, scope, status)


def trace_of(request: Request) -> RequestTrace:
    trace: RequestTrace = request.scope[TRACE]
    return trace


def _end(trace: RequestTrace, scope: Scope, status: int) -> None:
    """By OpenTelemetry's conventions for HTTP; an error is what the server is to blame for, also amid a stream."""
    method, route = scope["method"], route_of(scope)
    outcome = outcome_of(scope, status)
    trace.describe(
        {
            "http.request.method": method,
            "http.route": route,
            "http.response.status_code": status,
            "url.scheme": scope.get("scheme", "http"),
            "shira.outcome": outcome,
        }
    )
    has_failed = outcome not in ("ok", "aborted")
    if has_failed:
        trace.describe({"error.type": outcome})
    trace.end(f"{method} {route}", is_error=has_failed and not 400 <= status < 500)
