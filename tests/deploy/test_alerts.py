"""Whom an alert wakes, what it says, where it leads."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from deploy.monitoring.boards import BOARDS
from deploy.monitoring.boards.slo import AVAILABILITY_BUDGET, FIRST_TOKEN_BUDGET
from deploy.monitoring.render import FOLDER
from server.api.errors import OUR_FAULTS
from server.core.metrics import FIRST_TOKEN_OBJECTIVE_S, WAIT_BUCKETS_S
from tests.deploy.series import (
    MADE_BY_PROMETHEUS,
    PROMETHEUS,
    alerts,
    behind,
    named_in,
    recordings,
    rules,
    series_of_the_server,
)

each_alert = pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.get("alert") or rule["record"])
def test_every_rule_names_series_that_exist(rule: dict[str, Any]) -> None:
    asked = named_in(rule["expr"])
    assert asked
    assert asked <= series_of_the_server() | set(recordings()) | MADE_BY_PROMETHEUS


@each_alert
def test_every_alert_says_what_it_is_how_bad_and_where_to_read_on(alert: dict[str, Any]) -> None:
    told = alert["annotations"]
    assert set(told) == {"summary", "description", "runbook_url", "dashboard"}
    assert alert["labels"]["severity"] in ("page", "ticket")
    assert "$value" in told["description"]
    assert told["runbook_url"] == f"docs/operations.md#{alert['alert'].lower()}"


@each_alert
def test_every_alert_leads_to_a_panel_that_shows_what_it_is_about(alert: dict[str, Any]) -> None:
    link = urlsplit(alert["annotations"]["dashboard"])
    board = json.loads((FOLDER / f"{link.path.removeprefix('/d/')}.json").read_text())
    [number] = parse_qs(link.query)["viewPanel"]
    [panel] = [panel for panel in board["panels"] if panel["id"] == int(number)]
    shown = {name for target in panel["targets"] for name in behind(target["expr"])}
    assert shown & behind(alert["expr"])


def test_every_alert_is_seen_to_fire_and_to_stay_silent() -> None:
    files = [yaml.safe_load(path.read_text()) for path in PROMETHEUS.glob("tests/*.yml")]
    checks = [check for file in files for test in file["tests"] for check in test["alert_rule_test"]]
    names = {alert["alert"] for alert in alerts()}
    assert {check["alertname"] for check in checks if check["exp_alerts"]} == names
    assert {check["alertname"] for check in checks if not check["exp_alerts"]} == names


def test_uploads_fail_by_what_the_server_calls_its_own_faults() -> None:
    [expr] = [alert["expr"] for alert in alerts() if alert["alert"] == "UploadsFailing"]
    [outcomes] = re.findall(r'outcome=~"([^"]+)"', expr)
    assert set(outcomes.split("|")) == OUR_FAULTS


def test_the_objective_of_the_first_token_is_the_bound_of_a_bucket() -> None:
    bounds = {bound for rule in rules() for bound in re.findall(r'le="([^"]+)"', rule["expr"])}
    assert bounds == {str(FIRST_TOKEN_OBJECTIVE_S)}
    assert FIRST_TOKEN_OBJECTIVE_S in WAIT_BUCKETS_S


def test_nothing_is_recorded_that_nobody_reads() -> None:
    read = [rule["expr"] for rule in rules()]
    read += [query.expr for board in BOARDS for _, panel in board.panels() for query in panel.queries]
    assert set(recordings()) <= {name for expr in read for name in named_in(expr)}


@pytest.mark.parametrize(
    ("prefix", "budget"), [("Availability", AVAILABILITY_BUDGET), ("FirstToken", FIRST_TOKEN_BUDGET)]
)
def test_dashboard_and_alerts_have_the_same_objectives(prefix: str, budget: float) -> None:
    for alert in alerts():
        if alert["alert"].startswith(f"{prefix}BudgetBurns"):
            assert {float(factor) for factor in re.findall(r"\* ([\d.]+)", alert["expr"])} == {budget}
