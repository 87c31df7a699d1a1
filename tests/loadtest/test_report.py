from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from loadtest.capacity_file import read_capacity, write_capacity
from loadtest.comparing import compare
from loadtest.figures import figures_of
from loadtest.outcomes import write_outcomes
from loadtest.record import Record, record_of
from loadtest.report import main
from loadtest.run_files import OUTCOMES, RECORD, SAMPLES
from loadtest.samples import write_samples
from loadtest.scenario import ScenarioRejected
from loadtest.session import Session
from loadtest.slo import Slo, judge
from tests.loadtest.recorded import DURATION_S, outcomes, samples
from tests.loadtest.scenarios import scenario

SERVERS = """# TYPE shira_time_to_first_token_seconds histogram
shira_time_to_first_token_seconds_bucket{le="0.1"} 0.0
shira_time_to_first_token_seconds_bucket{le="0.25"} 60.0
shira_time_to_first_token_seconds_bucket{le="+Inf"} 60.0
shira_time_to_first_token_seconds_count 60.0
shira_time_to_first_token_seconds_sum 8.0
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a run leaves."""
    audits = {"text": True, "pictures": True}
    figures = figures_of(outcomes(), samples(), audits, duration_s=DURATION_S)
    slos = (Slo(name="nothing <lost>", figure="num_lost", at_most=0), Slo(name="fast", figure="text_ms_p99", at_most=1))
    session = Session(
        trace=[],
        duration_s=DURATION_S,
        outcomes=outcomes(),
        samples=samples(),
        audits=audits,
        figures=figures,
        verdicts=judge(slos, figures),
        comparisons=compare(outcomes(), "", SERVERS),
    )
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
    assert "| fast | text_ms_p99 | ≤ 1 | 500 | BROKEN |" in markdown
    assert "| nothing <lost> | num_lost | ≤ 0 | 0 | held |" in markdown
    assert "| text_first_token_ms_p50 | 129 | 100 to 250 | 0 |" in markdown
    assert "| seed | 7 |" in markdown
    assert "python -m loadtest.run --seed 7" in markdown


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
