"""A run of a minute as it is recorded: everything answered, memory flat."""

from __future__ import annotations

from loadtest.comparing import Comparison
from loadtest.outcomes import Action, Outcome
from loadtest.samples import Sample

DURATION_S = 60.0
OTHERS: tuple[Action, ...] = ("image", "upload", "hostile", "download", "move", "delete")


def outcomes() -> list[Outcome]:
    texts = [
        Outcome(
            action="text",
            ending="answered",
            due_s=float(at_s),
            sent_s=at_s + 0.001,
            total_s=0.5,
            first_text_s=0.1 + at_s / 1000,
            token_s=0.02,
            num_tokens=20,
            switch_ms=4.0 if at_s % 2 else 0.0,
            queue_ms=1.0,
            mode="fused",
        )
        for at_s in range(60)
    ]
    others = [
        Outcome(action=action, ending="answered", due_s=float(at_s), sent_s=float(at_s), total_s=0.2)
        for at_s, action in enumerate(OTHERS)
    ]
    return texts + others


def comparisons() -> list[Comparison]:
    figures = ("text_first_token_ms_p50", "text_first_token_ms_p99", "text_token_ms_p99", "request_switch_ms_p99")
    return [
        Comparison(figure=figure, client_ms=15.0, low_ms=10.0, high_ms=20.0, buckets_apart=apart)
        for apart, figure in zip((3, 0, 0, 1), figures, strict=True)
    ]


def samples() -> list[Sample]:
    return [
        Sample(
            at_s=float(at_s),
            server=server,
            rss_bytes=2**30,
            children_bytes=2**20,
            gauges={"adapter_resident/device": 3.0, "queue_depth": 1.0},
        )
        for at_s in range(0, 61, 2)
        for server in ("text", "pictures")
    ]
