from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import loadtest
from loadtest.figures import figures_of, growth_of, known_figures
from loadtest.outcomes import Outcome
from loadtest.samples import Sample
from loadtest.scenario import ScenarioRejected
from loadtest.slo import Slo, judge, load_slos
from tests.loadtest.recorded import DURATION_S, outcomes, samples

MIB = 2**20


def figures(
    changed: list[Outcome] | None = None, watched: list[Sample] | None = None, ok: bool = True
) -> dict[str, float]:
    audits = {"text": ok, "pictures": True}
    return figures_of(changed or outcomes(), watched or samples(), audits, duration_s=DURATION_S)


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
        ({"switch_ms": 60_000.0}, "switches"),
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
    growth = growth_of(leaking)["text"]
    assert growth.slope_mib_per_h == pytest.approx(10 * 3600, rel=0.01)
    filling = [replace(one, rss_bytes=one.rss_bytes + int(min(one.at_s, 20) * 100 * MIB)) for one in samples()]
    assert broken_by(watched=filling) == set()


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
