"""promtool on the committed configuration, rules and alerts."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from deploy.monitoring.ops_tools import Tools
from tests.deploy.series import PROMETHEUS, alerts
from tests.ops.live_prometheus import write_config

pytestmark = pytest.mark.ops

SCENARIOS = sorted((PROMETHEUS / "tests").glob("*.yml"))
SLOW_SCENARIO = "slo.yml"


def promtool(tools: Tools, *arguments: str | Path) -> str:
    """What it says. Raises AssertionError with it if it is not content."""
    done = subprocess.run([tools.promtool, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_configuration_is_right(tools: Tools, tmp_path: Path) -> None:
    promtool(tools, "check", "config", write_config(tmp_path, key="a-key"))


def test_the_rules_are_right(tools: Tools) -> None:
    promtool(tools, "check", "rules", *(PROMETHEUS / "rules").glob("*.yml"))


@pytest.mark.parametrize("scenarios", SCENARIOS, ids=lambda path: path.stem)
def test_the_alerts_fire_when_they_should_and_only_then(tools: Tools, scenarios: Path) -> None:
    promtool(tools, "test", "rules", scenarios)


@pytest.mark.parametrize(
    "spoil", [lambda expr: f"({expr}) and vector(0) > 1", lambda expr: "vector(1)"], ids=["never", "always"]
)
def test_an_alert_that_always_or_never_fires_is_found(
    tools: Tools, tmp_path: Path, spoil: Callable[[str], str]
) -> None:
    folder = tmp_path / "prometheus"
    shutil.copytree(PROMETHEUS, folder)
    path = folder / "rules" / "alerts.yml"
    document = yaml.safe_load(path.read_text())
    for group in document["groups"]:
        for rule in group["rules"]:
            rule["expr"] = spoil(rule["expr"])
            rule.pop("for", None)
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(AssertionError) as told:
        promtool(
            tools, "test", "rules", *(folder / "tests" / path.name for path in SCENARIOS if path.name != SLOW_SCENARIO)
        )
    found = set(re.findall(r"alertname: ?(\w+)", str(told.value)))
    assert found >= {alert["alert"] for alert in alerts() if "BudgetBurns" not in alert["alert"]}
