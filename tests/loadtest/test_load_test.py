"""The whole of it: real servers, Locust as a process, a report."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from threading import Thread
from time import monotonic, sleep

import psutil
import pytest
from click.testing import CliRunner

from loadtest.outcomes import read_outcomes
from loadtest.run import main
from loadtest.run_files import OUTCOMES, RECORD, TRACE
from loadtest.tiny_model import save_tiny_model
from loadtest.trace import read_trace
from tests.server.runners.tiny_pipelines import save_tiny_pipeline

SCENARIO = """
name = "seconds of a mixed day"
duration_s = 8
rate = {{ mean_per_s = 5, curve = "day", cv = 1.5 }}
mix = {{ text = 0.6, image = 0.2, upload = 0.2 }}

[text]
num_adapters = 4
num_moving = 1
base_share = 0.2
blend_share = 0.2
stream_share = 0.5
hang_up_share = 0.05
prompt_tokens = {{ low = 2, high = 16 }}
output_tokens = {{ low = 2, high = 12 }}

[image]
num_adapters = 2
num_moving = 1
stream_share = 0.5
num_steps = {{ low = 1, high = 3 }}

[upload]
num_files = 3
picture_share = 0.3
forms = {{ native = 1, peft = 1, hostile = 1, move = 1 }}

[servers.text]
model = "{text}"
room_for = 2
settings = {{ threads = 1, calibrate = false, redis = "off" }}

[servers.pictures]
model = "{pictures}"
settings = {{ threads = 1, calibrate = false, redis = "off" }}
"""
SLOS = """
[[slo]]
name = "nothing wrong"
figure = "num_wrong"
at_most = 0

[[slo]]
name = "nothing lost"
figure = "num_lost"
at_most = 0

[[slo]]
name = "intact"
figure = "base_verified"
at_least = 1
"""
HARMLESS = """
[[slo]]
name = "something was asked"
figure = "num_requests"
at_least = 1
"""
TEXTS = """
name = "seconds of texts"
duration_s = 10
rate = {{ mean_per_s = 5 }}
mix = {{ text = 1 }}

[text]
num_adapters = 2
prompt_tokens = {{ low = 2, high = 16 }}
output_tokens = {{ low = 2, high = 12 }}

[servers.text]
model = "{text}"
settings = {{ threads = 1, calibrate = false, redis = "off" }}
"""
BROKEN = """
[[slo]]
name = "faster than light"
figure = "text_ms_p50"
at_most = 0.001
"""


def test_locust_is_not_imported_where_it_would_patch_the_tests() -> None:
    assert "locust" not in sys.modules
    assert "gevent.monkey" not in sys.modules


@pytest.mark.slow
def test_a_mixed_day_of_seconds_is_run_judged_reported_and_replayed(tmp_path: Path) -> None:
    text, pictures = save_tiny_model(tmp_path / "tiny"), save_tiny_pipeline("sd", tmp_path / "sd")
    files = {
        "day.toml": SCENARIO.format(text=text, pictures=pictures),
        "slo.toml": SLOS,
        "broken.toml": BROKEN,
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    day, out = str(tmp_path / "day.toml"), tmp_path / "out"

    run = CliRunner().invoke(main, [day, "--slo", str(tmp_path / "slo.toml"), "--out", str(out), "--seed", "3"])
    assert run.exit_code == 0, run.output + (out / "report.md").read_text() if (out / "report.md").exists() else ""
    figures = json.loads((out / RECORD).read_text())["figures"]
    trace = read_trace(out / TRACE)
    assert arrivals(out) == Counter(row.offset_s for row in trace)
    for action in ("upload", "hostile", "download", "move", "delete"):
        assert figures[f"num_{action}"] > 0, action
    assert (out / "report.html").stat().st_size > 10_000

    command = [day, "--slo", str(tmp_path / "broken.toml"), "--out", str(tmp_path / "again")]
    again = CliRunner().invoke(main, [*command, "--trace", str(out / TRACE)])
    assert again.exit_code == 1, again.output
    assert "BROKEN  faster than light" in again.output
    assert read_trace(tmp_path / "again" / TRACE) == trace
    assert arrivals(tmp_path / "again") == Counter(row.offset_s for row in trace)
    record = json.loads((tmp_path / "again" / RECORD).read_text())
    assert record["duration_s"] == trace[-1].offset_s
    assert record["replayed"] == str(out / TRACE)


@pytest.mark.slow
def test_a_server_that_dies_meanwhile_is_reported_and_its_log_is_kept(tmp_path: Path) -> None:
    day, out = tmp_path / "day.toml", tmp_path / "out"
    day.write_text(TEXTS.format(text=save_tiny_model(tmp_path / "tiny")))
    (tmp_path / "slo.toml").write_text(HARMLESS)
    others = {child.pid for child in psutil.Process().children()}  # servers that other tests share
    killer = Thread(target=kill_server_under_load, args=[others])
    killer.start()
    run = CliRunner().invoke(main, [str(day), "--slo", str(tmp_path / "slo.toml"), "--out", str(out)])
    killer.join()
    assert run.exit_code == 1, run.output
    record = json.loads((out / RECORD).read_text())
    assert record["audits"] == {"text": False}
    assert any("ConnectError" in failure for failure in record["failures"])
    assert "memory_growth_mib" not in record["figures"]
    assert record["figures"]["num_answered"] > 0
    assert record["figures"]["num_lost"] > 0
    assert arrivals(out) == Counter(row.offset_s for row in read_trace(out / TRACE))
    assert {"text.log", "locust.log", "report.html"} <= {path.name for path in out.iterdir()}


def arrivals(folder: Path) -> Counter[float]:
    """When the outcomes of a run were due."""
    return Counter(one.due_s for one in read_outcomes(folder / OUTCOMES) if one.due_s is not None)


def kill_server_under_load(others: Collection[int]) -> None:
    """Once it has answered for a while, or where none comes up in two minutes, not at all."""
    deadline_s = monotonic() + 120
    while monotonic() < deadline_s:
        new = [child for child in psutil.Process().children() if child.pid not in others]
        children = {" ".join(child.cmdline()): child for child in new}
        servers = [child for command, child in children.items() if "server serve" in command]
        folders = [
            command.partition("--run-dir ")[2].partition(" --")[0] for command in children if "locust" in command
        ]
        told = Path(folders[0]) / OUTCOMES if folders else None
        if servers and told is not None and told.exists() and "answered" in told.read_text():
            servers[0].kill()
            return
        sleep(0.2)
