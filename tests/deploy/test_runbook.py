"""Whoever is woken finds what to do."""

from __future__ import annotations

import json
import re
from pathlib import Path

from deploy.monitoring.render import FOLDER
from tests.deploy.series import alerts, series_of_the_server

GUIDE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()


def test_the_guide_has_a_heading_for_every_alert_and_none_for_others() -> None:
    section = GUIDE.partition("## Respond to an alert")[2].partition("\n## ")[0]
    assert re.findall(r"^### (\w+)$", section, re.MULTILINE) == [alert["alert"] for alert in alerts()]


def test_the_guide_gives_each_alert_its_severity() -> None:
    for alert in alerts():
        told = GUIDE.partition(f"### {alert['alert']}\n")[2].split()[0]
        assert told == f"*{alert['labels']['severity']}.*", alert["alert"]


def test_the_guide_names_only_series_that_exist() -> None:
    named = set(re.findall(r"\bshira_\w+", GUIDE))
    assert named
    assert named <= series_of_the_server()


def test_the_guide_names_every_panel_of_the_dashboards() -> None:
    for board in FOLDER.glob("*.json"):
        titles = [panel["title"] for panel in json.loads(board.read_text())["panels"]]
        assert titles
        assert [title for title in titles if title not in GUIDE] == [], board.name
