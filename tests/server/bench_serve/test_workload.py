from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.bench_serve.workload import Arrival, Lengths, WorkloadSpec, adapter_name, draw

WORDS = [" the", " quick", " fox"]
CLOSED = WorkloadSpec(num_requests=4000, concurrency=8, num_adapters=16)


def adapters_of(spec: WorkloadSpec, seed: int = 0) -> list[str | None]:
    return [arrival.adapter for arrival in draw(spec, seed=seed, words=WORDS)]


def shares(spec: WorkloadSpec) -> list[float]:
    """By number of the adapter."""
    counts = Counter(adapters_of(spec))
    return [counts[adapter_name(number)] / spec.num_requests for number in range(spec.num_adapters)]


def test_the_same_seed_gives_the_same_requests_and_another_one_others() -> None:
    spec = replace(CLOSED, prompt_tokens=Lengths(low=4, high=40), key_shares=(0.5, 0.5))
    assert draw(spec, seed=1, words=WORDS) == draw(spec, seed=1, words=WORDS)
    assert draw(spec, seed=1, words=WORDS) != draw(spec, seed=2, words=WORDS)


def test_more_adapters_leave_prompts_lengths_and_keys_as_they_were() -> None:
    def without_adapter(arrival: Arrival) -> Arrival:
        return replace(arrival, adapter=None)

    spec = replace(CLOSED, prompt_tokens=Lengths(low=4, high=40), key_shares=(0.5, 0.5))
    base = draw(replace(spec, num_adapters=0), seed=1, words=WORDS)
    assert base == [without_adapter(arrival) for arrival in draw(spec, seed=1, words=WORDS)]


def test_zipf_asks_for_the_nth_adapter_an_nth_as_often_as_for_the_first() -> None:
    harmonic = sum(1 / rank for rank in range(1, 17))
    for rank, share in enumerate(shares(CLOSED), start=1):
        assert share == pytest.approx(1 / rank / harmonic, abs=0.02)


def test_uniform_asks_for_all_alike() -> None:
    assert shares(replace(CLOSED, popularity="uniform")) == pytest.approx([1 / 16] * 16, abs=0.02)


def test_round_robin_goes_through_all_in_turn() -> None:
    asked = adapters_of(replace(CLOSED, popularity="round-robin"))
    assert asked[:17] == [adapter_name(number) for number in [*range(16), 0]]


def test_a_burst_is_one_adapter_so_many_times_in_a_row() -> None:
    asked = adapters_of(replace(CLOSED, popularity="bursts", burst_length=5))
    runs = [len(list(run)) for _, run in groupby(asked)]
    assert {length % 5 for length in runs} == {0}
    assert len(runs) > 500


def test_open_loop_arrives_in_order_at_the_rate_asked_for() -> None:
    spec = replace(CLOSED, concurrency=None, rate_per_s=20.0)
    times = [arrival.at_s for arrival in draw(spec, seed=0, words=WORDS)]
    assert times == sorted(times, key=lambda at_s: at_s or 0.0)
    assert times[-1] == pytest.approx(4000 / 20.0, rel=0.1)


def test_an_open_burst_arrives_all_at_one_moment_and_the_rate_holds() -> None:
    spec = replace(CLOSED, concurrency=None, rate_per_s=20.0, popularity="bursts", burst_length=8)
    arrivals = draw(spec, seed=0, words=WORDS)
    for at in range(0, 4000, 8):
        assert len({(arrival.at_s, arrival.adapter) for arrival in arrivals[at : at + 8]}) == 1
    assert len({arrival.at_s for arrival in arrivals}) == 500
    assert arrivals[-1].at_s == pytest.approx(4000 / 20.0, rel=0.15)


def test_the_base_gets_its_share_and_keys_theirs() -> None:
    arrivals = draw(replace(CLOSED, base_share=0.25, key_shares=(3, 1)), seed=0, words=WORDS)
    assert sum(arrival.adapter is None for arrival in arrivals) / 4000 == pytest.approx(0.25, abs=0.03)
    assert sum(arrival.key for arrival in arrivals) / 4000 == pytest.approx(0.25, abs=0.03)


@given(low=st.integers(1, 300), extra=st.integers(0, 300), seed=st.integers(0, 100))
def test_lengths_stay_in_their_range_and_the_prompt_has_as_many_words(low: int, extra: int, seed: int) -> None:
    lengths = Lengths(low=low, high=low + extra)
    spec = replace(CLOSED, num_requests=20, prompt_tokens=lengths, new_tokens=lengths)
    for arrival in draw(spec, seed=seed, words=WORDS):
        assert lengths.low <= arrival.num_prompt_tokens <= lengths.high
        assert lengths.low <= arrival.num_new_tokens <= lengths.high
        assert arrival.prompt.count(" ") == arrival.num_prompt_tokens


def test_half_of_the_lengths_lie_below_the_geometric_middle() -> None:
    arrivals = draw(replace(CLOSED, new_tokens=Lengths(low=10, high=1000)), seed=0, words=WORDS)
    assert sum(arrival.num_new_tokens <= 100 for arrival in arrivals) / 4000 == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    "wrong",
    [
        {"concurrency": None},
        {"rate_per_s": 1.0},
        {"concurrency": 0},
        {"num_requests": 0},
        {"key_shares": ()},
        {"key_shares": (1.0, 0.0)},
        {"base_share": 1.5},
        {"burst_length": 0},
    ],
)
def test_a_workload_that_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        replace(CLOSED, **wrong)  # type: ignore[arg-type]
