"""The dashboards ask for series that there are, and every panel says what it shows."""

from __future__ import annotations

import json
from typing import Any

import pytest

from deploy.monitoring.boards import BOARDS
from deploy.monitoring.render import FOLDER, path_of, render
from tests.deploy.series import MADE_BY_PROMETHEUS, named_in, recordings, series_of_the_server

DASHBOARDS: list[dict[str, Any]] = [json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))]
PANELS = [(board, panel) for board in DASHBOARDS for panel in board["panels"] if panel["type"] != "row"]
each_panel = pytest.mark.parametrize("panel", [panel for _, panel in PANELS], ids=lambda panel: panel["title"])


def test_the_committed_dashboards_are_what_the_code_gives() -> None:
    """If this fails: python -m deploy.monitoring.render"""
    assert {path.name: path.read_text() for path in FOLDER.glob("*")} == {
        path_of(board).name: render(board) for board in BOARDS
    }


@each_panel
def test_every_query_names_series_that_exist(panel: dict[str, Any]) -> None:
    known = series_of_the_server() | set(recordings()) | MADE_BY_PROMETHEUS
    for target in panel["targets"]:
        asked = named_in(target["expr"])
        assert asked <= known
        assert asked or target["expr"].startswith("vector(")  # an objective, drawn beside what it is for


@each_panel
def test_every_panel_has_a_query_a_description_and_a_unit(panel: dict[str, Any]) -> None:
    assert panel["targets"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]


@each_panel
def test_every_panel_follows_the_variables(panel: dict[str, Any]) -> None:
    of_all_servers = ("ALERTS", "vector(")
    for target in panel["targets"]:
        assert 'job=~"$job"' in target["expr"] or any(word in target["expr"] for word in of_all_servers)


@pytest.mark.parametrize("board", DASHBOARDS, ids=lambda board: board["uid"])
def test_every_dashboard_lets_one_choose_job_and_instance(board: dict[str, Any]) -> None:
    assert [variable["name"] for variable in board["templating"]["list"]] == ["job", "instance"]
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("board", DASHBOARDS, ids=lambda board: board["uid"])
def test_no_panel_covers_another(board: dict[str, Any]) -> None:
    cells = [cell for panel in board["panels"] for cell in _cells(panel["gridPos"])]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def _cells(pos: dict[str, int]) -> list[tuple[int, int]]:
    return [(pos["x"] + x, pos["y"] + y) for x in range(pos["w"]) for y in range(pos["h"])]
