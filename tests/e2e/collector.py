"""A collector of traces: takes what a server sends by OTLP over HTTP, and tells it as trees."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage

SERVER_KIND, ERROR = 2, 2  # of the protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """``children`` in the order of their beginnings; ids are hexadecimal."""

    trace_id: str
    id: str
    parent_id: str
    name: str
    kind: int
    started_ns: int
    ended_ns: int
    attributes: dict[str, Any]
    events: list[str]
    links: list[tuple[str, str]]
    is_error: bool
    children: list[Span] = field(default_factory=list)

    @property
    def ms(self) -> float:
        return (self.ended_ns - self.started_ns) / 1e6

    def __iter__(self) -> Iterator[Span]:
        """This one and all below it."""
        yield self
        for child in self.children:
            yield from child

    def child(self, name: str) -> Span:
        [found] = [child for child in self.children if child.name == name]
        return found

    def names(self) -> list[str]:
        return [child.name for child in self.children]

    def drawn(self, depth: int = 0) -> str:
        line = f"{'  ' * depth}{self.name}  {self.ms:.1f} ms  {self.attributes or ''}\n"
        return line + "".join(child.drawn(depth + 1) for child in self.children)


class Collector:
    """``status`` is what it answers; ``delay_s`` before that."""

    def __init__(self) -> None:
        self.status = 200
        self.delay = threading.Event()
        self.delay_s = 0.0
        self.num_batches = 0
        self._bodies: list[bytes] = []
        self._lock = threading.Lock()

    def take(self, body: bytes) -> None:
        with self._lock:
            self._bodies.append(body)

    @property
    def raw(self) -> bytes:
        """Everything that was ever sent."""
        return b"".join(self._bodies)

    def spans(self) -> list[Span]:
        found = []
        for body in list(self._bodies):
            request = ExportTraceServiceRequest.FromString(body)
            for of_resource in request.resource_spans:
                for of_scope in of_resource.scope_spans:
                    found += [_span(message) for message in of_scope.spans]
        return sorted(found, key=lambda span: span.started_ns)

    def roots(self) -> list[Span]:
        """Spans whose parent was not sent, each with the tree below it."""
        spans = self.spans()
        by_id = {span.id: span for span in spans}
        for span in spans:
            if span.parent_id in by_id:
                by_id[span.parent_id].children.append(span)
        return [span for span in spans if span.parent_id not in by_id]

    def trace(self, trace_id: str) -> Span:
        [root] = [root for root in self.roots() if root.trace_id == trace_id]
        return root


@contextmanager
def collector() -> Iterator[tuple[Collector, str]]:
    """And the URL it listens on."""
    own = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            own.delay.wait(own.delay_s)
            own.num_batches += 1
            if own.status == 200 and self.path == "/v1/traces":
                own.take(gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body)
            self.send_response(own.status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's own name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield own, f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            own.delay.set()
            server.shutdown()
            thread.join()


def _span(message: SpanMessage) -> Span:
    return Span(
        trace_id=message.trace_id.hex(),
        id=message.span_id.hex(),
        parent_id=message.parent_span_id.hex(),
        name=message.name,
        kind=message.kind,
        started_ns=message.start_time_unix_nano,
        ended_ns=message.end_time_unix_nano,
        attributes={pair.key: _value(pair.value) for pair in message.attributes},
        events=[event.name for event in message.events],
        links=[(link.trace_id.hex(), link.span_id.hex()) for link in message.links],
        is_error=message.status.code == ERROR,
    )


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return None if kind is None else getattr(value, kind)
