"""Panels whose expression decides what is drawn, evaluated by promtool over series made up for it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.monitoring.board import HERE
from deploy.monitoring.boards.overview import OVERVIEW
from deploy.monitoring.ops_tools import Tools

pytestmark = pytest.mark.ops

BY_TENANT = {
    "By tenant": 'shira_tenant_requests{job="shira", tenant="a", state="running"}',
    "Longest wait by tenant": 'shira_tenant_oldest_wait_seconds{job="shira", tenant="a"}',
}


@pytest.mark.parametrize(("title", "series"), BY_TENANT.items())
@pytest.mark.parametrize("is_busy", [True, False], ids=["busy", "idle"])
def test_nobody_is_drawn_only_where_there_is_nobody(
    tools: Tools, tmp_path: Path, *, title: str, series: str, is_busy: bool
) -> None:
    """It stood beside the tenants there were."""
    [expr] = [query.promql for _, panel in OVERVIEW.panels() if panel.title == title for query in panel.queries]
    state = ', state="running"' if "state" in series else ""
    expected = (
        {"labels": f'{{tenant="a"{state}}}', "value": 2} if is_busy else {"labels": '{tenant="nobody"}', "value": 0}
    )
    given = {'shira_queue_depth{job="shira"}': "1x5"} | ({series: "2x5"} if is_busy else {})
    test: dict[str, Any] = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in given.items()],
        "promql_expr_test": [{"expr": expr.replace(HERE, 'job="shira"'), "eval_time": "3m", "exp_samples": [expected]}],
    }
    file = tmp_path / "panel.yml"
    file.write_text(yaml.safe_dump({"tests": [test]}))
    done = subprocess.run([tools.promtool, "test", "rules", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
