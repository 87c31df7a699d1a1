from __future__ import annotations

import pytest

from loadtest.capacity import MAX_PROBES, PRECISION, Probe, broken_by, find_capacity
from loadtest.session import Session
from loadtest.slo import Slo, judge


def probed(figures: dict[str, float], failures: list[str] | None = None) -> tuple[str, ...]:
    slos = (Slo(name="lost", figure="num_lost", at_most=0), Slo(name="uploads", figure="upload_ms_p99", at_most=1))
    return broken_by(
        Session(
            trace=[],
            duration_s=1,
            outcomes=[],
            samples=[],
            audits={},
            figures=figures,
            verdicts=judge(slos, figures),
            comparisons=[],
            failures=failures or [],
        )
    )


def test_a_probe_is_held_by_what_it_measured_and_one_that_measured_nothing_is_not() -> None:
    assert probed({"availability_percent": 100, "num_lost": 0}) == (), "uploads are too seldom for every probe"
    assert len(probed({"availability_percent": 100, "num_lost": 1})) == 1
    assert probed({"availability_percent": 100, "num_lost": 0}, ["no server"]) == ("no server",)
    assert probed({"num_lost": 0}) == ("nothing was asked",)


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
