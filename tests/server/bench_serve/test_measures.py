from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.bench_serve.counters import by_label, growth, parse_counters
from server.bench_serve.load import Answered, Finished, Load
from server.bench_serve.measures import measure, median_over_rounds, percentile
from server.bench_serve.workload import Arrival
from server.core.metrics import Metrics


def answered(
    adapter: str | None, *, first_text_s: float, total_s: float, num_tokens: int = 11, key: int = 0
) -> Answered:
    return Answered(
        arrival=Arrival(
            at_s=None, key=key, adapter=adapter, prompt=" a", num_prompt_tokens=1, num_new_tokens=num_tokens
        ),
        finished=Finished(
            adapter=adapter,
            num_prompt_tokens=1,
            num_tokens=num_tokens,
            mode="mixed" if adapter else "fused",
            queue_ms=first_text_s * 500,
        ),
        first_text_s=first_text_s,
        total_s=total_s,
        longest_gap_s=0.5,
    )


LOAD = Load(
    wall_s=4.0,
    answered=(
        answered("a", first_text_s=1.0, total_s=2.0),
        answered("a", first_text_s=2.0, total_s=4.0, key=1),
        answered(None, first_text_s=0.5, total_s=1.0),
        answered("b", first_text_s=0.1, total_s=0.1, num_tokens=1),
    ),
    failures={"504 deadline": 2},
    num_refusals=3,
    client_cpu_s=0.034,
)


def test_figures_are_what_their_names_say() -> None:
    figures = measure(LOAD, {}).figures
    assert figures["tokens_per_s"] == 34 / 4
    assert figures["num_answered"] == 4
    assert figures["num_failed"] == 2
    assert figures["num_refusals"] == 3
    assert figures["ttft_ms_p50"] == 500
    assert figures["ttft_ms_p99"] == 2000
    assert figures["token_ms_p50"] == 100  # 1 s over the 10 tokens after the first; one token has no such time
    assert figures["token_ms_p99"] == 200
    assert figures["client_cpu_us_per_token"] == pytest.approx(1000)


def test_the_worst_wait_is_told_for_every_adapter() -> None:
    measured = measure(LOAD, {})
    assert measured.worst_wait_ms == {"a": 1000, "base": 250, "b": 50}
    assert measured.figures["worst_wait_ms"] == 1000


def test_the_worst_wait_is_told_in_steps_of_the_server() -> None:
    counters = {
        "shira_step_seconds_count{mode=fused,phase=decode}": 30.0,
        "shira_step_seconds_count{mode=mixed,phase=decode}": 10.0,
        "shira_step_seconds_sum{mode=fused,phase=decode}": 0.5,
        "shira_step_seconds_sum{mode=mixed,phase=decode}": 0.3,
    }
    assert measure(LOAD, counters).figures["worst_wait_steps"] == pytest.approx(1000 / 20)


def test_without_receipts_the_wait_is_the_time_to_the_first_text() -> None:
    finished = Finished(adapter="a", num_prompt_tokens=1, num_tokens=1)
    assert measure(replace(LOAD, answered=(replace(LOAD.answered[1], finished=finished),)), {}).worst_wait_ms == {
        "a": 2000
    }


def test_modes_and_keys_have_their_shares() -> None:
    measured = measure(LOAD, {})
    assert measured.mode_shares == {"fused": 0.25, "mixed": 0.75}
    assert measured.tokens_per_s_of_key == {0: 23 / 4, 1: 11 / 4}


def test_a_run_without_an_answer_has_no_percentiles() -> None:
    figures = measure(replace(LOAD, answered=()), {}).figures
    assert figures["tokens_per_s"] == 0
    assert "ttft_ms_p50" not in figures
    assert "worst_wait_ms" not in figures


def test_over_rounds_figures_are_medians_troubles_sums_and_waits_the_worst() -> None:
    rounds = [measure(replace(LOAD, wall_s=wall_s), {}) for wall_s in (1.0, 2.0, 34.0)]
    figures = median_over_rounds(rounds)
    assert figures["tokens_per_s"] == 17
    assert figures["num_failed"] == 6
    assert figures["num_refusals"] == 9
    assert figures["worst_wait_ms"] == 1000


@given(values=st.lists(st.floats(0, 1e6), min_size=1), percent=st.sampled_from([50, 95, 99, 100]))
def test_a_percentile_is_the_least_value_that_so_many_do_not_exceed(values: list[float], percent: int) -> None:
    value = percentile(values, percent)
    assert value in values
    needed = len(values) * percent / 100
    assert sum(other <= value for other in values) >= needed
    assert sum(other < value for other in values) < needed


def test_what_grew_is_read_from_the_metrics_of_a_server() -> None:
    metrics = Metrics()
    metrics.switches.labels(kind="fuse").inc(2)
    metrics.tier_hits.labels(tier="host").inc()
    before = parse_counters(metrics.render().decode())
    metrics.switches.labels(kind="fuse").inc(3)
    metrics.switches.labels(kind="overwrite").inc()
    metrics.step_seconds.labels(mode="fused", phase="decode").observe(0.5)
    metrics.queue_depth.set(9)
    grown = growth(before, parse_counters(metrics.render().decode()))
    assert by_label(grown, "shira_switches_total", "kind") == {"fuse": 3, "overwrite": 1}
    assert by_label(grown, "shira_step_seconds_count", "phase") == {"decode": 1}
    assert by_label(grown, "shira_step_seconds_sum", "mode") == {"fused": 0.5}
    assert set(grown) == {
        "shira_switches_total{kind=fuse}",
        "shira_switches_total{kind=overwrite}",
        "shira_step_seconds_count{mode=fused,phase=decode}",
        "shira_step_seconds_sum{mode=fused,phase=decode}",
    }
