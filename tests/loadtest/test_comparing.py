from __future__ import annotations

from dataclasses import replace

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.exposition import generate_latest

from loadtest.comparing import Comparison, compare
from loadtest.outcomes import Outcome

TEXT = Outcome(action="text", ending="answered", due_s=0.0, sent_s=0.0, total_s=1.0, first_text_s=0.2, switch_ms=0.0)


def switches(counted_s: list[float], receipts_ms: list[float], **change: float) -> Comparison:
    registry = CollectorRegistry()
    histogram = Histogram("shira_request_switch_seconds", "", buckets=(0.01, 0.1, 1), registry=registry)
    histogram.observe(5)
    before = generate_latest(registry).decode()
    for value in counted_s:
        histogram.observe(value)
    outcomes = [replace(TEXT, switch_ms=value, **change) for value in receipts_ms]  # type: ignore[arg-type]
    compared = compare(outcomes, before, generate_latest(registry).decode())
    return next(one for one in compared if one.figure == "request_switch_ms_p99")


def test_what_receipts_tell_of_switches_is_what_the_server_counted_requests_without_one_too() -> None:
    zeros = [0.0] * 99
    assert switches([*zeros, 0.5], [*zeros, 500.0]).buckets_apart == 0
    assert switches([*zeros, 0.5], [500.0]).buckets_apart == 2, "zeros on one side only"
    assert switches([0.5] * 9, [50.0] * 9).buckets_apart == 1


def test_what_a_server_did_not_count_is_in_no_bucket() -> None:
    assert switches([], [500.0]).buckets_apart is None


def test_a_late_generator_is_not_held_against_the_server() -> None:
    registry = CollectorRegistry()
    Histogram("shira_time_to_first_token_seconds", "", buckets=(0.1, 0.25), registry=registry).observe(0.2)
    compared = compare([replace(TEXT, due_s=-60.0)], "", generate_latest(registry).decode())
    assert {one.figure: one.buckets_apart for one in compared}["text_first_token_ms_p99"] == 0
