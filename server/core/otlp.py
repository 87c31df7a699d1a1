"""Traces as OpenTelemetry's spans, sent by OTLP over HTTP. Needs the extra ``tracing``.

Requests only queue what they tell. One thread makes spans of it with the times that were told, and another sends them
in batches: a collector that is slow or gone costs spans, never a request.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from queue import Full, Queue
from threading import Thread
from weakref import WeakKeyDictionary

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from server import __version__
from server.core.tracing import Attributes, Phase, Shared

log = logging.getLogger(__name__)

SERVICE = "shira-server"
MAX_TOLD = 4096  # tellings that wait to become spans: two or three for each request
MAX_SPANS = 8192  # that wait to be sent; some 10 MB
BATCH_SPANS = 512
SEND_EVERY_MS = 1000
SEND_S = 5.0  # at most for one batch, retries included
CLOSE_S = 2.0  # at most, for what is left when the server stops


class OtlpTracing:
    """Satisfies ``core.tracing.Tracing``. ``ratio`` of the traces that begin here are recorded, and every one whose
    ``traceparent`` says that the caller's is."""

    def __init__(self, endpoint: str, *, ratio: float, attributes: Attributes | None = None) -> None:
        """``endpoint``: the collector's base URL, to which OTLP's path is added. ``attributes`` of every span."""
        self._sender = BatchSpanProcessor(
            _Sender(f"{endpoint.rstrip('/')}/v1/traces"),
            max_queue_size=MAX_SPANS,
            max_export_batch_size=BATCH_SPANS,
            schedule_delay_millis=SEND_EVERY_MS,
        )
        self._resource = Resource.create(
            {"service.name": SERVICE, "service.version": __version__, **(attributes or {})}
        )
        self._requests = self._tracer(ParentBased(TraceIdRatioBased(ratio)))
        self._shared = self._tracer(ALWAYS_ON)  # asked only for work that served a recorded request
        self._contexts: WeakKeyDictionary[Shared, SpanContext] = WeakKeyDictionary()
        self._told: Queue[tuple[OtlpTrace, Sequence[Phase]] | None] = Queue(MAX_TOLD)
        self._is_losing = False
        self._thread = Thread(target=self._make_spans, name="tracing", daemon=True)
        self._thread.start()

    def begin(self, name: str, headers: Mapping[str, str]) -> OtlpTrace:
        started_s = time.monotonic()
        epoch_ns = time.time_ns() - _ns(started_s)
        span = self._requests.start_span(
            name,
            context=TraceContextTextMapPropagator().extract(headers, context=Context()),
            kind=SpanKind.SERVER,
            start_time=epoch_ns + _ns(started_s),
        )
        return OtlpTrace(self, span, started_s=started_s, epoch_ns=epoch_ns)

    def tell(self, trace: OtlpTrace, phases: Sequence[Phase]) -> None:
        """Any thread; drops them if too many wait."""
        try:
            self._told.put_nowait((trace, phases))
        except Full:
            if not self._is_losing:
                log.warning("more is traced than becomes spans in time: some are lost; lower trace_ratio")
            self._is_losing = True

    def close(self) -> None:
        """Takes ``CLOSE_S`` at most, whatever the collector does; the threads are daemons."""
        closing = Thread(target=self._close, name="tracing-end", daemon=True)
        closing.start()
        closing.join(CLOSE_S)

    def _close(self) -> None:
        self._told.put(None)
        self._thread.join()
        self._sender.shutdown()  # type: ignore[no-untyped-call]

    def _tracer(self, sampler: Sampler) -> Tracer:
        provider = TracerProvider(resource=self._resource, sampler=sampler, shutdown_on_exit=False)
        provider.add_span_processor(self._sender)
        return provider.get_tracer("shira", __version__)

    # The thread that makes spans.

    def _make_spans(self) -> None:
        while (told := self._told.get()) is not None:
            trace, phases = told
            try:
                for phase in phases:
                    self._make(self._requests, phase, trace.context, trace.epoch_ns)
            except Exception:
                log.exception("spans could not be made")

    def _make(
        self, tracer: Tracer, phase: Phase, parent: Context, epoch_ns: int, links: Sequence[Link] = ()
    ) -> SpanContext:
        """The span of a phase and those of its parts. What it shares with others becomes a link."""
        if phase.shared is not None:
            links = [*links, Link(self._context_of(phase.shared, epoch_ns))]
        span = tracer.start_span(
            phase.name,
            context=parent,
            start_time=epoch_ns + _ns(phase.started_s),
            attributes=phase.attributes,
            links=links,
        )
        for moment in phase.moments:
            span.add_event(moment.name, moment.attributes, timestamp=epoch_ns + _ns(moment.at_s))
        for part in phase.parts:
            self._make(tracer, part, set_span_in_context(span, Context()), epoch_ns)
        span.end(epoch_ns + _ns(phase.ended_s))
        return span.get_span_context()

    def _context_of(self, shared: Shared, epoch_ns: int) -> SpanContext:
        """A trace of its own, made for the first request that tells of it, linked to all that it served."""
        context = self._contexts.get(shared)
        if context is None:
            links = [Link(trace.root) for trace in shared.served if isinstance(trace, OtlpTrace)]
            context = self._make(self._shared, shared.phase, Context(), epoch_ns, links)
            self._contexts[shared] = context
        return context


class OtlpTrace:
    """Satisfies ``core.tracing.RequestTrace``. ``epoch_ns`` turns the engine's clock into the wall's, as that was when
    the request came: a wall clock that is set meanwhile tears no trace apart."""

    def __init__(self, tracing: OtlpTracing, span: Span, *, started_s: float, epoch_ns: int) -> None:
        self._tracing = tracing
        self._span = span
        self.started_s = started_s
        self.epoch_ns = epoch_ns

    @property
    def root(self) -> SpanContext:
        return self._span.get_span_context()

    @property
    def context(self) -> Context:
        return set_span_in_context(self._span, Context())

    @property
    def is_recorded(self) -> bool:
        return self.root.trace_flags.sampled

    @property
    def id(self) -> str:
        return f"{self.root.trace_id:032x}"

    @property
    def response(self) -> str:
        return f"00-{self.id}-{self.root.span_id:016x}-{self.root.trace_flags:02x}"

    def add(self, *phases: Phase) -> None:
        if self.is_recorded:
            self._tracing.tell(self, phases)

    def describe(self, attributes: Attributes) -> None:
        self._span.set_attributes(attributes)

    def end(self, name: str, *, is_error: bool) -> None:
        self._span.update_name(name)
        if is_error:
            self._span.set_status(StatusCode.ERROR)
        self._span.end(self.epoch_ns + _ns(time.monotonic()))


class _Sender(SpanExporter):
    """Says once that the collector takes nothing, and once that it does again; the library says it for each batch."""

    def __init__(self, url: str) -> None:
        logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)
        self._url = url
        self._exporter = OTLPSpanExporter(url, timeout=SEND_S)
        self._is_failing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE
        with suppress(Exception):  # of the transport: whatever it is, these spans are lost
            result = self._exporter.export(spans)
        is_failing = result is not SpanExportResult.SUCCESS
        if is_failing and not self._is_failing:
            log.warning("traces cannot be sent to %s and are lost until they can", self._url)
        elif self._is_failing and not is_failing:
            log.info("traces are sent to %s again", self._url)
        self._is_failing = is_failing
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
