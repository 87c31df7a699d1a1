from __future__ import annotations

import statistics
from collections import Counter
from itertools import pairwise
from random import Random

import pytest

from loadtest.arrivals import along_the_curve, gamma_arrivals, place
from loadtest.drawing import draw_trace
from loadtest.scenario import Rate
from loadtest.trace import ImageRow, TextRow, UploadRow
from server.bench_serve.workload import adapter_name, zipf_weights
from tests.loadtest.scenarios import IMAGE, TEXT, scenario


@pytest.mark.parametrize("cv", [0.5, 1.0, 2.0])
def test_gaps_have_the_mean_and_the_coefficient_of_variation_asked_for(cv: float) -> None:
    times = list(gamma_arrivals(Random(1), rate_per_s=5, cv=cv, duration_s=4000))
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert len(times) / 4000 == pytest.approx(5, rel=0.05)
    assert statistics.stdev(gaps) / statistics.fmean(gaps) == pytest.approx(cv, rel=0.05)


def test_a_bursty_process_that_sends_little_still_has_its_mean_rate() -> None:
    counts = [len(list(gamma_arrivals(Random(seed), rate_per_s=0.01, cv=3, duration_s=100))) for seed in range(4000)]
    assert statistics.fmean(counts) == pytest.approx(1, rel=0.1)  # begun with the run it would be 5


def test_a_day_keeps_the_mean_and_peaks_in_its_middle_at_what_is_asked() -> None:
    curve = along_the_curve(Rate(mean_per_s=1, curve="day", peak=1.2), 1000)
    times = [place(at_s, curve, 1000) for at_s in range(1000)]
    assert times == sorted(times)
    assert times[0] == 0
    assert times[-1] == pytest.approx(1000, rel=0.01)
    in_middle, at_begin = (sum(low <= at_s < low + 100 for at_s in times) for low in (450, 0))
    assert in_middle == pytest.approx(120, abs=2)
    assert at_begin == pytest.approx(81, abs=2)


def test_a_flat_curve_changes_nothing() -> None:
    curve = along_the_curve(Rate(mean_per_s=1), 50)
    assert [place(at_s, curve, 50) for at_s in (0, 12.5, 49.9)] == pytest.approx([0, 12.5, 49.9])


def test_adapters_are_asked_for_by_zipfs_law_and_the_base_as_often_as_stated() -> None:
    trace = draw_trace(scenario(text=TEXT | {"base_share": 0.5, "alpha": 1.5}))
    assert len(trace) == pytest.approx(10_000, rel=0.05)
    asked = Counter(row.adapters for row in trace if isinstance(row, TextRow))
    assert asked[()] / len(trace) == pytest.approx(0.5, abs=0.02)
    weights = zipf_weights(4, 1.5)
    for number, weight in enumerate(weights):
        share = asked[(adapter_name(number),)] / (len(trace) - asked[()])
        assert share == pytest.approx(weight / sum(weights), abs=0.02)


def test_each_kind_comes_as_often_as_its_share() -> None:
    forms = {"native": 1, "hostile": 1, "move": 2}
    mixed = scenario(
        mix={"text": 2, "image": 1, "upload": 1},
        image=IMAGE,
        text=TEXT | {"num_moving": 1},
        upload={"forms": forms},
    )
    trace = draw_trace(mixed)
    kinds = Counter(row.kind for row in trace)
    assert {kind: count / len(trace) for kind, count in kinds.items()} == pytest.approx(
        {"text": 0.5, "image": 0.25, "upload": 0.25}, abs=0.03
    )
    uploads = [row for row in trace if isinstance(row, UploadRow)]
    assert sum(row.form == "move" for row in uploads) / len(uploads) == pytest.approx(0.5, abs=0.05)
    assert {row.name for row in uploads if row.form == "move"} == {adapter_name(0)}
    lives = [row.name for row in uploads if row.form != "move"]
    assert len(set(lives)) == len(lives)


def test_blends_name_two_different_adapters_and_lengths_keep_their_bounds() -> None:
    rows = [row for row in draw_trace(scenario(text=TEXT | {"blend_share": 0.3})) if isinstance(row, TextRow)]
    blends = [row for row in rows if len(row.adapters) > 1]
    assert len(blends) / len(rows) == pytest.approx(0.3, abs=0.03)
    assert all(len(set(row.adapters)) == 2 and row.scale == 0.5 for row in blends)
    assert {row.prompt_tokens for row in rows} == {row.output_tokens for row in rows} == set(range(4, 9))


def test_the_same_seed_draws_the_same_trace_and_another_one_another() -> None:
    image = scenario(mix={"image": 1}, image=IMAGE)
    assert draw_trace(image) == draw_trace(image)
    assert draw_trace(image) != draw_trace(image.changed(seed=1))
    assert all(isinstance(row, ImageRow) for row in draw_trace(image))
