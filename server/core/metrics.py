"""Every Prometheus instrument of the server, once. Units in the names, bounded labels.

An instance owns its registry, so that two servers in one process (tests) do not share counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from threading import Lock
from typing import Literal, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.exposition import generate_latest

Verdict = Literal["ok", "failed", "refused", "client"]

# A bucket ends at most 1.9 times where it begins, so that a quantile read from them is no further off than that.
SWITCH_BUCKETS_S = (
    50e-6, 63e-6, 100e-6, 160e-6, 250e-6, 400e-6, 630e-6, 1e-3, 1.6e-3, 2.5e-3, 4e-3, 6.3e-3, 10e-3, 16e-3, 25e-3,
    40e-3, 63e-3, 0.1, 0.16, 0.25, 0.4, 0.63, 1.0, 1.6, 2.5, 4.0, 6.3, 10.0, 16.0, 30.0,
)  # fmt: skip
FIRST_TOKEN_OBJECTIVE_S = 2.5  # a bound of the buckets below; the objective's alerts and dashboards count by it
WAIT_BUCKETS_S = (
    1e-3, 1.6e-3, 2.5e-3, 4e-3, 6.3e-3, 10e-3, 16e-3, 25e-3, 40e-3, 63e-3, 0.1, 0.16, 0.25, 0.4, 0.63, 1.0, 1.6, 2.5,
    4.0, 6.3, 10.0, 16.0, 25.0, 40.0, 63.0, 100.0, 160.0, 250.0, 400.0, 600.0,
)  # fmt: skip


class Metrics:
    """Instruments as attributes; observe them directly. Thread-safe (prometheus_client locks each one).

    Series whose labels are known start at 0: the first failure of a kind is an increase that a rate can see."""

    def __init__(self) -> None:  # noqa: PLR0915 a statement for each
        registry = self.registry = _new_registry()
        self._refreshes: list[Callable[[], None]] = []
        self._rendering = Lock()
        self.build = Info("shira_build", "What runs here: the version, the base, how it is kept.", registry=registry)
        self.ready = Gauge("shira_ready", "1 while new requests are taken, as /readyz tells.", registry=registry)
        self.switch_seconds = Histogram(
            "shira_switch_seconds",
            "Time of each phase of a switch.",
            ["phase", "tier"],
            buckets=SWITCH_BUCKETS_S,
            registry=registry,
        )
        self.request_switch_seconds = Histogram(
            "shira_request_switch_seconds",
            "Time spent on switches while a request ran, per request, as its receipt tells.",
            buckets=SWITCH_BUCKETS_S,
            registry=registry,
        )
        self.switches = Counter("shira_switches_total", "Switches by kind.", ["kind"], registry=registry)
        self.step_seconds = Histogram(
            "shira_step_seconds",
            "Time of one model step.",
            ["mode", "phase"],
            buckets=WAIT_BUCKETS_S,
            registry=registry,
        )
        self.queue_seconds = Histogram(
            "shira_queue_seconds", "From arrival to the first step.", buckets=WAIT_BUCKETS_S, registry=registry
        )
        self.time_to_first_token_seconds = Histogram(
            "shira_time_to_first_token_seconds",
            "From arrival to the first token of a text, when it is made; of one that failed or was given up before, "
            f"the time until then, if that was more than {FIRST_TOKEN_OBJECTIVE_S:g} s.",
            buckets=WAIT_BUCKETS_S,
            registry=registry,
        )
        self.time_per_output_token_seconds = Histogram(
            "shira_time_per_output_token_seconds",
            "Mean time between tokens after the first, per request.",
            buckets=WAIT_BUCKETS_S,
            registry=registry,
        )
        self.image_seconds = Histogram(
            "shira_image_seconds",
            "From arrival to the finished image.",
            buckets=WAIT_BUCKETS_S,
            registry=registry,
        )
        self.requests = Counter(
            "shira_requests_total", "Requests by route and outcome.", ["route", "outcome"], registry=registry
        )
        self.generations = Counter(
            "shira_generations_total",
            "Requests for texts or images: answered, failed by our fault, refused (429, or 503 while it stops), or "
            "ended by the client's.",
            ["verdict"],
            registry=registry,
        )
        self.request_seconds = Histogram(
            "shira_request_seconds",
            "From the head of a request to the end of its answer, streams included.",
            ["route"],
            buckets=WAIT_BUCKETS_S,
            registry=registry,
        )
        self.tokens = Counter(
            "shira_tokens_total",
            "Tokens: of prompts as they begin to run, of completions as they are drawn, also of those that never end.",
            ["kind"],
            registry=registry,
        )
        self.prefix_tokens = Counter(
            "shira_prefix_tokens_reused_total", "Prompt tokens whose KV was found in memory.", registry=registry
        )
        self.rows = Counter(
            "shira_rows_total", "Sequences run in a step, by how: in the weights or mixed.", ["mode"], registry=registry
        )
        self.parked = Counter(
            "shira_parked_total",
            "Sequences that gave up their KV for a while: to memory, to one that waited too long, to others' bytes.",
            ["reason"],
            registry=registry,
        )
        self.deadline_refusals = Counter(
            "shira_deadline_refusals_total", "Requests refused because their deadline could not be met.",
            registry=registry,
        )  # fmt: skip
        self.images = Counter("shira_images_total", "Images generated.", registry=registry)
        self.queue_depth = Gauge(
            "shira_queue_depth", "Requests accepted that have not run their first step.", registry=registry
        )
        self.queue_limit = Gauge(
            "shira_queue_limit", "Requests that may wait; beyond it new ones get 429.", registry=registry
        )
        self.requests_running = Gauge(
            "shira_requests_running", "Sequences that have begun and hold a place in the batch.", registry=registry
        )
        self.requests_parked = Gauge(
            "shira_requests_parked", "Sequences that have begun and wait to go on.", registry=registry
        )
        self.oldest_wait_seconds = Gauge(
            "shira_oldest_wait_seconds", "How long the oldest request in the queue has waited; 0 without one.",
            registry=registry,
        )  # fmt: skip
        self.tenant_requests = Gauge(
            "shira_tenant_requests",
            "Live requests of each tenant that has any: waiting, running or parked.",
            ["tenant", "state"],
            registry=registry,
        )
        self.tenant_oldest_wait_seconds = Gauge(
            "shira_tenant_oldest_wait_seconds",
            "How long the oldest request in the queue of each tenant that has any has waited.",
            ["tenant"],
            registry=registry,
        )
        self.kv_bytes = Gauge("shira_kv_bytes", "KV memory in use by sequences.", registry=registry)
        self.kv_budget_bytes = Gauge(
            "shira_kv_budget_bytes", "KV memory there is; 0 for a base that draws.", registry=registry
        )
        self.adapter_resident = Gauge(
            "shira_adapter_resident", "Adapters resident on a tier.", ["tier"], registry=registry
        )
        self.tier_bytes = Gauge("shira_tier_bytes", "Bytes held on a tier.", ["tier"], registry=registry)
        self.tier_budget_bytes = Gauge(
            "shira_tier_budget_bytes", "Bytes a tier may hold; of Redis: adapter values.", ["tier"], registry=registry
        )
        self.tier_hits = Counter("shira_tier_hits_total", "Lookups a tier answered.", ["tier"], registry=registry)
        self.tier_misses = Counter(
            "shira_tier_misses_total", "Lookups a tier could not answer.", ["tier"], registry=registry
        )
        self.tier_evictions = Counter(
            "shira_tier_evictions_total", "Entries evicted from a tier.", ["tier"], registry=registry
        )
        self.index_sets = Gauge("shira_index_sets", "Distinct index sets on a tier.", ["tier"], registry=registry)
        self.index_set_bytes_shared = Gauge(
            "shira_index_set_bytes_shared", "Bytes saved on the host by adapters that share an index set.",
            registry=registry,
        )  # fmt: skip
        self.uploads = Counter("shira_uploads_total", "Adapter uploads by outcome.", ["outcome"], registry=registry)
        self.redis_up = Gauge("shira_redis_up", "1 while the Redis link works, else 0.", registry=registry)
        self.data_free_bytes = Gauge(
            "shira_data_free_bytes", "Bytes free to us where the data directory lies.", registry=registry
        )
        self.data_size_bytes = Gauge(
            "shira_data_size_bytes", "Size of the file system where the data directory lies.", registry=registry
        )
        self.memory_limit_bytes = Gauge(
            "shira_memory_limit_bytes", "Memory this process may take: its cgroup's limit, else the machine's memory.",
            registry=registry,
        )  # fmt: skip
        self.memory_used_bytes = Gauge(
            "shira_memory_used_bytes",
            "What counts against that limit: the working set of the cgroup that has it, else our resident memory.",
            registry=registry,
        )
        self.base_integrity_failures = Counter(
            "shira_base_integrity_failures_total",
            "Audits that found the base changed. Must stay 0.",
            registry=registry,
        )
        self.base_verified = Gauge(
            "shira_base_verified_timestamp_seconds",
            "Unix time of the last audit that found the base intact; 0 before the first.",
            registry=registry,
        )
        self.base_changed = Gauge(
            "shira_base_changed_timestamp_seconds",
            "Unix time of the last audit that found the base changed, by this process or one before it; 0: none did.",
            registry=registry,
        )
        self.audit_interval_seconds = Gauge(
            "shira_audit_interval_seconds", "How often the base is audited; 0: only when asked.", registry=registry
        )
        self.lora_requests_info = Gauge(
            "shira_lora_requests_info",
            "For gateways that route by adapter; value is a Unix time.",
            ["max_lora", "running_lora_adapters", "waiting_lora_adapters"],
            registry=registry,
        )

        self._start_at_zero()

    def expect(self, *, routes: Iterable[str], faults: Iterable[str]) -> None:
        """Requests of these routes, and uploads, may end in one of these outcomes: counted from 0."""
        faults = sorted(faults)
        for route in sorted(routes):
            for outcome in ("ok", *faults):
                self.requests.labels(route, outcome)
        for fault in faults:
            self.uploads.labels(fault)

    def at_scrape(self, refresh: Callable[[], None]) -> None:
        """``refresh`` sets what is cheaper to look up when asked for than to keep. Called on any thread, but never
        twice at a time."""
        self._refreshes.append(refresh)

    def render(self) -> bytes:
        """The text exposition format of Prometheus. May block on the disk."""
        with self._rendering:
            for refresh in self._refreshes:
                refresh()
            text: bytes = generate_latest(self.registry)
            return text

    def _start_at_zero(self) -> None:
        for verdict in get_args(Verdict):
            self.generations.labels(verdict)
        for kind in ("fuse", "restore", "exchange", "overwrite"):
            self.switches.labels(kind)
        for tier in ("device", "host", "redis", "disk"):
            self.tier_hits.labels(tier)
            self.tier_misses.labels(tier)
        for tier in ("device", "host"):
            self.tier_evictions.labels(tier)
        for phase, tier in (("total", "device"), ("total", "host"), ("fetch", "disk"), ("fetch", "redis")):
            self.switch_seconds.labels(phase, tier)
        for outcome in ("created", "unchanged"):
            self.uploads.labels(outcome)
        for reason in ("memory", "turn", "bytes"):
            self.parked.labels(reason)


def _new_registry() -> CollectorRegistry:
    """With what every Python process tells."""
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    return registry
