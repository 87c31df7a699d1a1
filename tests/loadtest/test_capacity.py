from __future__ import annotations

import pytest

from loadtest.capacity import MAX_PROBES, PRECISION, Probe, find_capacity


@pytest.mark.parametrize("limit", [0.1, 1.9, 2.0, 7.3, 40.0])
def test_the_rate_found_holds_and_one_just_above_it_does_not(limit: float) -> None:
    found, probes = find_capacity(
        lambda rate: Probe(rate_per_s=rate, broken=("slow",) if rate > limit else ()), start_per_s=2
    )
    assert found <= limit < found * PRECISION
    assert max(one.rate_per_s for one in probes if not one.broken) == found
    assert len(probes) <= MAX_PROBES


def test_where_nothing_holds_there_is_no_capacity() -> None:
    found, probes = find_capacity(lambda rate: Probe(rate_per_s=rate, broken=("slow",)), start_per_s=2)
    assert found == 0
    assert len(probes) == MAX_PROBES
