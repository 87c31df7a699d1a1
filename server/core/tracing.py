"""What a request went through, for whoever traces it; every layer tells it in these words and knows no more.

Times are on the engine clock (seconds, monotonic). ``server.core.otlp`` turns them into OpenTelemetry's spans;
without it nothing is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from time import monotonic
from typing import Protocol

Attribute = str | bool | int | float | Sequence[str] | Sequence[float]
Attributes = Mapping[str, Attribute]


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    name: str
    at_s: float
    attributes: Attributes = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A stretch of a request's time. ``parts`` lie within it. ``shared``: the work that it waited for, which was done
    once for several requests and may have begun before this one came."""

    name: str
    started_s: float
    ended_s: float
    attributes: Attributes = field(default_factory=dict)
    moments: tuple[Moment, ...] = ()
    parts: tuple[Phase, ...] = ()
    shared: Shared | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class Shared:
    """Work done once, a switch or a load, and the requests that it was done for."""

    phase: Phase
    served: tuple[Trace, ...]


class Trace(Protocol):
    """Of one request. Any thread; never blocks, never raises."""

    @property
    def is_recorded(self) -> bool:
        """False if nothing that is told is kept: then it need not be told."""
        ...

    def add(self, *phases: Phase) -> None:
        """Also after ``RequestTrace.end``: the engine hears of an abort last."""
        ...


class RequestTrace(Trace, Protocol):
    """The same, for those who begin and end the request."""

    @property
    def started_s(self) -> float: ...

    @property
    def id(self) -> str | None:
        """Hexadecimal, as logs and tracing tools show it; None if nobody traces."""
        ...

    @property
    def response(self) -> str | None:
        """The header ``traceresponse`` (W3C Trace Context): ids and whether it is recorded; None if nobody traces."""
        ...

    def describe(self, attributes: Attributes) -> None:
        """Of the request as a whole."""
        ...

    def end(self, name: str, *, is_error: bool) -> None: ...


class Tracing(Protocol):
    def begin(self, name: str, headers: Mapping[str, str]) -> RequestTrace:
        """A request has come. ``headers``, by lower-case names, may say which trace it is part of."""
        ...

    def close(self) -> None:
        """Delivers what is left, for a few seconds at most."""
        ...


class Untraced:
    """The trace of a request that nobody traces."""

    is_recorded = False
    started_s = 0.0
    id: str | None = None
    response: str | None = None

    def add(self, *phases: Phase) -> None:
        pass

    def describe(self, attributes: Attributes) -> None:
        pass

    def end(self, name: str, *, is_error: bool) -> None:
        pass


UNTRACED = Untraced()


class NoTracing:
    def begin(self, name: str, headers: Mapping[str, str]) -> RequestTrace:
        return UNTRACED

    def close(self) -> None:
        pass


def can_trace() -> bool:
    """The extra ``tracing`` is installed."""
    try:
        return find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:
        return False


def open_tracing(endpoint: str | None, *, ratio: float) -> Tracing:
    """Nothing of OpenTelemetry is imported unless there is an ``endpoint``."""
    if endpoint is None:
        return NoTracing()
    from server.core.otlp import OtlpTracing

    return OtlpTracing(endpoint, ratio=ratio)


@contextmanager
def phase(trace: Trace, name: str) -> Iterator[None]:
    """Tells the time of the block, however it ends."""
    started_s = monotonic()
    try:
        yield
    finally:
        trace.add(Phase(name=name, started_s=started_s, ended_s=monotonic()))
