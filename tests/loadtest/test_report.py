from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from loadtest.capacity_file import read_capacity, write_capacity
from loadtest.comparing import Comparison, compare
from loadtest.figures import figures_of
from loadtest.outcomes import Outcome, write_outcomes
from loadtest.record import Record, record_of
from loadtest.report import as_markdown, main
from loadtest.run import as_replayed
from loadtest.run_files import OUTCOMES, RECORD, SAMPLES, TRACE
from loadtest.samples import write_samples
from loadtest.scenario import ScenarioRejected
from loadtest.session import Session
from loadtest.slo import Slo, judge
from loadtest.trace import TextRow, write_trace
from tests.loadtest.recorded import DURATION_S, outcomes, samples
from tests.loadtest.scenarios import scenario

SERVERS = """# TYPE shira_time_to_first_token_seconds histogram
shira_time_to_first_token_seconds_bucket{le="0.1"} 0.0
shira_time_to_first_token_seconds_bucket{le="0.25"} 60.0
shira_time_to_first_token_seconds_bucket{le="+Inf"} 60.0
shira_time_to_first_token_seconds_count 60.0
shira_time_to_first_token_seconds_sum 8.0
"""
OLD = Comparison(figure="switch_ms_p50", client_ms=1, low_ms=8, high_ms=9, buckets_apart=8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a run leaves."""
    audits = {"text": True, "pictures": True}
    comparisons = [*compare(outcomes(), "", SERVERS), OLD]
    figures = figures_of(outcomes(), samples(), audits, comparisons, duration_s=DURATION_S)
    slos = (Slo(name="nothing <lost>", figure="num_lost", at_most=0), Slo(name="fast", figure="text_ms_p99", at_most=1))
    session = Session(
        trace=[],
        duration_s=DURATION_S,
        outcomes=outcomes(),
        samples=samples(),
        audits=audits,
        figures=figures,
        verdicts=judge(slos, figures),
        comparisons=comparisons,
        failures=["text server: GET /metrics: | ConnectError"],
    )
    assert not replace(session, verdicts=[]).is_held, "something failed"
    write_trace([TextRow(offset_s=at_s, prompt_tokens=1, output_tokens=1) for at_s in range(60)], tmp_path / TRACE)
    write_outcomes(session.outcomes, tmp_path / OUTCOMES)
    write_samples(session.samples, tmp_path / SAMPLES)
    record_of(session, scenario(seed=7), ["run.py", "--seed", "7"]).save(tmp_path / RECORD)
    return tmp_path


def test_the_report_is_made_of_what_a_run_leaves(folder: Path) -> None:
    result = CliRunner().invoke(main, [str(folder)])
    assert result.exit_code == 0, result.output
    assert (folder / "report.png").read_bytes().startswith(b"\x89PNG")
    markdown = (folder / "report.md").read_text()
    assert "1 of 2 objectives broken: fast." in markdown
    assert "| fast | text_ms_p99 | ≤ 1 | 501 | BROKEN |" in markdown
    assert "| nothing <lost> | num_lost | ≤ 0 | 0 | held |" in markdown
    assert "| text_first_token_ms_p50 | 129 | 100 to 250 | 0 |" in markdown
    assert "| text_token_ms_p99 | 20 | 0 to 0 | the server counted none |" in markdown
    assert "Beside the requests, 1 things failed." in markdown
    assert r"| text server: GET /metrics: \| ConnectError |" in markdown
    assert "| seed | 7 |" in markdown
    assert "python -m loadtest.run --seed 7" in markdown


def test_a_run_is_judged_anew_by_the_objectives_given_as_often_as_one_likes(folder: Path) -> None:
    (folder / "slo.toml").write_text('slo = [{ name = "fast", figure = "text_ms_p99", at_most = 600 }]')
    for _ in range(2):
        result = CliRunner().invoke(main, [str(folder), "--slo", str(folder / "slo.toml")])
        assert "held    fast: text_ms_p99 ≤ 600, got 501" in result.output
        assert "All 1 objectives held" in (folder / "report.md").read_text()


def test_a_record_of_an_earlier_version_is_judged_by_what_it_has(folder: Path) -> None:
    told = json.loads((folder / RECORD).read_text())
    del told["failures"], told["replayed"]
    (folder / RECORD).write_text(json.dumps(told))
    follower = Outcome(action="text", ending="answered", due_s=0.5, sent_s=0.5, total_s=0.1)
    write_outcomes([*outcomes(), *[follower] * 100], folder / OUTCOMES)
    (folder / "slo.toml").write_text('slo = [{ name = "late", figure = "late_ms_p50", at_least = 0.5 }]')
    result = CliRunner().invoke(main, [str(folder), "--slo", str(folder / "slo.toml")])
    assert "held    late" in result.output, result.output
    assert "switch_ms_p50" not in (folder / "report.md").read_text(), "compared with another histogram"


def test_a_replay_tells_the_trace_and_its_own_rate(folder: Path) -> None:
    trace = [TextRow(offset_s=at_s, prompt_tokens=1, output_tokens=1) for at_s in (0, 20, 40)]
    replayed = as_replayed(scenario(), trace, duration_s=None)
    assert (replayed.duration_s, replayed.rate.mean_per_s) == (40, 3 / 40)
    assert as_replayed(scenario(), trace, duration_s=60).duration_s == 60
    with pytest.raises(ScenarioRejected, match="expected one request or more"):
        as_replayed(scenario(), [], duration_s=None)
    record = replace(Record.load(folder / RECORD), scenario=replayed.model_dump(), replayed="a/trace.jsonl")
    markdown = as_markdown(record)
    assert "| replayed | a/trace.jsonl |" in markdown
    assert "| mean rate asked for, per s | 0.075 |" in markdown
    assert "| seed |" not in markdown
    assert "| rate curve |" not in markdown


def test_the_page_needs_no_other_file_and_escapes_what_it_shows(folder: Path) -> None:
    CliRunner().invoke(main, [str(folder)])
    page = (folder / "report.html").read_text()
    assert "data:image/png;base64," in page
    assert "nothing &lt;lost&gt;" in page
    assert "http" not in page
    assert 'class="BROKEN"' in page


def test_a_record_that_is_saved_and_loaded_says_the_same(folder: Path, tmp_path: Path) -> None:
    record = Record.load(folder / RECORD)
    record.save(tmp_path / "again.json")
    assert json.loads((tmp_path / "again.json").read_text()) == json.loads((folder / RECORD).read_text())
    assert record.versions.keys() >= {"torch", "locust"}


def test_a_capacity_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_capacity(2.5, {"seed": 1}, tmp_path / "new" / "capacity.json")
    assert read_capacity(tmp_path / "new" / "capacity.json") == 2.5
    with pytest.raises(ScenarioRejected, match=r"python -m loadtest\.capacity"):
        read_capacity(tmp_path / "none.json")
