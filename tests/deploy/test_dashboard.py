"""The dashboard asks for series that the server really has, and every panel says what it shows."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from server.core.metrics import Metrics

DASHBOARDS = sorted((Path(__file__).parents[2] / "deploy" / "grafana" / "dashboards").glob("*.json"))
PANELS: list[dict[str, Any]] = [panel for path in DASHBOARDS for panel in json.loads(path.read_text())["panels"]]


def series_of_the_server() -> set[str]:
    """Names a scrape can contain, histogram suffixes included."""
    names: set[str] = set()
    for family in Metrics().registry.collect():
        match family.type:
            case "counter":
                names.add(f"{family.name}_total")
            case "histogram":
                names |= {f"{family.name}_{suffix}" for suffix in ("bucket", "sum", "count")}
            case _:
                names.add(family.name)
    return names


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_every_query_names_series_that_exist(panel: dict[str, Any]) -> None:
    asked = {name for target in panel["targets"] for name in re.findall(r"shira_\w+", target["expr"])}
    assert asked
    assert asked <= series_of_the_server()


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_every_panel_has_a_description_and_a_unit(panel: dict[str, Any]) -> None:
    assert panel["description"]
    assert panel["fieldConfig"]["defaults"]["unit"]
