"""Who waits and who runs, as ``/metrics`` tells it: looked up when it is asked, also while a step hangs."""

from __future__ import annotations

from collections import Counter
from typing import Literal

from server.core.metrics import Metrics
from server.core.requests import GenerationRequest, RequestId
from server.engine.inbox import Inbox
from server.engine.ports import Clock
from server.engine.scheduler import Scheduler
from server.engine.sequence import Sequence

State = Literal["waiting", "running", "parked"]


class LiveRequests:
    """Reads what the engine thread owns, from other threads: figures of one scrape may be a step apart."""

    def __init__(self, metrics: Metrics, scheduler: Scheduler, inbox: Inbox, clock: Clock) -> None:
        self._metrics = metrics
        self._scheduler = scheduler
        self._inbox = inbox
        self._clock = clock

    def publish(self) -> None:
        live: dict[RequestId, tuple[GenerationRequest, State]] = {
            request.id: (request, "waiting") for request in self._inbox.requests()
        }
        live |= {sequence.id: (sequence.request, _state(sequence)) for sequence in self._scheduler.sequences}
        now = self._clock.now()
        states = Counter(state for _, state in live.values())
        tenants = Counter((request.tenant, state) for request, state in live.values())
        oldest: dict[str, float] = {}
        for request, state in live.values():
            if state == "waiting":
                oldest[request.tenant] = max(oldest.get(request.tenant, 0.0), now - request.arrived_s)
        metrics = self._metrics
        metrics.queue_depth.set(states["waiting"])
        metrics.requests_running.set(states["running"])
        metrics.requests_parked.set(states["parked"])
        metrics.oldest_wait_seconds.set(max(oldest.values(), default=0.0))
        metrics.tenant_requests.clear()
        metrics.tenant_oldest_wait_seconds.clear()
        for (tenant, state), num in tenants.items():
            metrics.tenant_requests.labels(tenant, state).set(num)
        for tenant, wait_s in oldest.items():
            metrics.tenant_oldest_wait_seconds.labels(tenant).set(wait_s)


def _state(sequence: Sequence) -> State:
    if sequence.started_s is None:
        return "waiting"
    return "running" if sequence.is_running else "parked"
