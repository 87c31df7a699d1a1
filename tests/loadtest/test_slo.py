from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

import loadtest
from loadtest.figures import figures_of, known_figures
from loadtest.memory import growth_of
from loadtest.outcomes import Outcome
from loadtest.samples import Sample
from loadtest.scenario import ScenarioRejected
from loadtest.slo import Slo, judge, load_slos
from tests.loadtest.recorded import DURATION_S, comparisons, outcomes, samples

MIB = 2**20


def figures(
    changed: list[Outcome] | None = None, watched: list[Sample] | None = None, ok: bool = True
) -> dict[str, float]:
    audits = {"text": ok, "pictures": True}
    return figures_of(changed or outcomes(), watched or samples(), audits, comparisons(), duration_s=DURATION_S)


def test_a_run_has_every_figure_that_an_objective_may_name() -> None:
    assert figures().keys() == known_figures()


@pytest.mark.parametrize("figure", sorted(known_figures()))
def test_an_objective_on_any_figure_holds_up_to_its_bound_and_breaks_beyond_it(figure: str) -> None:
    value = figures()[figure]
    beyond = max(abs(value) * 1e-3, 1e-3)
    assert judge((Slo(name="x", figure=figure, at_most=value),), figures())[0].is_met
    assert judge((Slo(name="x", figure=figure, at_least=value),), figures())[0].is_met
    assert not judge((Slo(name="x", figure=figure, at_most=value - beyond),), figures())[0].is_met
    assert not judge((Slo(name="x", figure=figure, at_least=value + beyond),), figures())[0].is_met


def broken_by(changed: list[Outcome] | None = None, watched: list[Sample] | None = None, ok: bool = True) -> set[str]:
    """Names of the shipped objectives that a run breaks."""
    slos = load_slos(Path(loadtest.__file__).parent / "slo" / "default.toml")
    return {verdict.slo.name for verdict in judge(slos, figures(changed, watched, ok)) if not verdict.is_met}


def test_a_good_run_breaks_nothing() -> None:
    assert broken_by() == set()


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"ending": "wrong"}, "no wrong answer"),
        ({"ending": "lost"}, "no lost request"),
        ({"first_text_s": 60.0}, "first token, 99 of 100 streams"),
        ({"token_s": 60.0}, "time per output token"),
        ({"switch_ms": 60_000.0}, "all switches of a request together"),
        ({"sent_s": 60.0}, "the generator keeps its times"),
        ({"sent_s": 60.0}, "first token, 99 of 100 streams"),
    ],
)
def test_one_bad_text_breaks_its_objective(change: dict[str, object], name: str) -> None:
    first, *others = outcomes()
    assert first.action == "text"
    assert name in broken_by([replace(first, **change), *others])  # type: ignore[arg-type]


@pytest.mark.parametrize(("action", "name"), [("image", "pictures"), ("upload", "uploads")])
def test_slow_ones_of_the_other_kinds_break_theirs(action: str, name: str) -> None:
    slow = [replace(one, total_s=60.0) if one.action == action else one for one in outcomes()]
    assert broken_by(slow) == {name}


def test_refusals_cost_availability_and_clients_that_leave_do_not() -> None:
    refused = [replace(one, ending="refused") if one.action == "move" else one for one in outcomes()]
    assert broken_by(refused) == {"availability"}
    left = [replace(one, ending="left") if one.action == "move" else one for one in outcomes()]
    assert broken_by(left) == set()


def test_a_base_that_changed_breaks_its_objective() -> None:
    assert broken_by(ok=False) == {"the base is intact"}


def test_memory_that_grows_breaks_its_objective_and_that_of_the_beginning_does_not_count() -> None:
    leaking = [replace(one, rss_bytes=one.rss_bytes + int(one.at_s * 10 * MIB)) for one in samples()]
    assert broken_by(watched=leaking) == {"memory"}
    growth = growth_of(leaking, ["text"], duration_s=DURATION_S)["text"]
    assert growth.slope_mib_per_h == pytest.approx(10 * 3600, rel=0.05)
    filling = [replace(one, rss_bytes=one.rss_bytes + int(min(one.at_s, 15) * 100 * MIB)) for one in samples()]
    assert broken_by(watched=filling) == set()


@pytest.mark.parametrize("leak_mib_per_s", [0, 1])
def test_memory_that_follows_a_days_rate_neither_looks_like_a_leak_nor_hides_one(leak_mib_per_s: int) -> None:
    def held(at_s: float) -> int:
        return int((1000 - 300 * math.cos(2 * math.pi * at_s / DURATION_S) + leak_mib_per_s * at_s) * MIB)

    day = [
        Sample(at_s=at_s / 10, server="s", rss_bytes=held(at_s / 10), children_bytes=0, gauges={})
        for at_s in range(601)
    ]
    growth = growth_of(day, ["s"], duration_s=DURATION_S)["s"]
    assert growth.slope_mib_per_h / 3600 == pytest.approx(leak_mib_per_s, abs=0.2)


@pytest.mark.parametrize(("start_s", "end_s"), [(0, 50), (10, 60), (0, 0)])
def test_memory_that_was_not_watched_throughout_breaks_its_objective(start_s: float, end_s: float) -> None:
    cut = [one for one in samples() if one.server == "text" or start_s <= one.at_s <= end_s]
    assert broken_by(watched=cut) == {"memory"}
    assert broken_by(watched=[one for one in samples() if one.server == "text"]) == {"memory"}
    assert broken_by(watched=[one for one in samples() if not 20 <= one.at_s <= 30]) == {"memory"}


@pytest.mark.parametrize("apart", [2, None])
def test_a_server_that_counts_otherwise_than_its_clients_breaks_its_objective(apart: int | None) -> None:
    *others, switches = comparisons()
    changed = [*others, replace(switches, buckets_apart=apart)]
    got = figures_of(outcomes(), samples(), {}, changed, duration_s=DURATION_S)
    slo = Slo(name="x", figure="p99_buckets_apart", at_most=1)
    assert not judge((slo,), got)[0].is_met


def test_what_was_not_measured_breaks_its_objective() -> None:
    assert broken_by([one for one in outcomes() if one.action != "upload"]) == {"uploads"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[[slo]]\nname = "x"\nfigure = "speed"\nat_most = 1', "figure: expected one of"),
        ('[[slo]]\nname = "x"\nfigure = "num_lost"', "slo.0: expected either at_most or at_least, got both or none"),
        ('[[slo]]\nname = "x"\nfigure = "num_lost"\nat_most = 1\nat_least = 1', "got both or none"),
        ("", "slo: expected a value, got none"),
    ],
)
def test_wrong_objectives_are_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "slo.toml"
    path.write_text(text)
    with pytest.raises(ScenarioRejected) as refused:
        load_slos(path)
    assert says in str(refused.value)
