"""Every Prometheus instrument of the server, once. Units in the names, bounded labels.

An instance owns its registry, so that two servers in one process (tests) do not share counts.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

SWITCH_BUCKETS_S = (
    50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip
WAIT_BUCKETS_S = (1e-3, 5e-3, 10e-3, 25e-3, 50e-3, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Metrics:
    """Instruments as attributes; observe them directly. Thread-safe (prometheus_client locks each one)."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.switch_seconds = Histogram(
            "shira_switch_seconds",
            "Time of each phase of a switch.",
            ["phase", "tier"],
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
            "From arrival to the first token.",
            buckets=WAIT_BUCKETS_S,
            registry=registry,
        )
        self.time_per_output_token_seconds = Histogram(
            "shira_time_per_output_token_seconds",
            "Mean time between tokens after the first, per request.",
            buckets=WAIT_BUCKETS_S,
            registry=registry,
        )
        self.requests = Counter(
            "shira_requests_total", "Requests by route and outcome.", ["route", "outcome"], registry=registry
        )
        self.tokens = Counter("shira_tokens_total", "Tokens, prompt and completion.", ["kind"], registry=registry)
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
        self.adapter_resident = Gauge(
            "shira_adapter_resident", "Adapters resident on a tier.", ["tier"], registry=registry
        )
        self.tier_bytes = Gauge("shira_tier_bytes", "Bytes held on a tier.", ["tier"], registry=registry)
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
        self.lora_requests_info = Gauge(
            "shira_lora_requests_info",
            "For gateways that route by adapter; value is a Unix time.",
            ["max_lora", "running_lora_adapters", "waiting_lora_adapters"],
            registry=registry,
        )

    def render(self) -> bytes:
        """The text exposition format of Prometheus."""
        text: bytes = generate_latest(self.registry)
        return text
