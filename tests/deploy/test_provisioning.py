"""What Grafana is given at its start fits the dashboards and Prometheus."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from deploy.monitoring.render import FOLDER, SOURCE
from tests.deploy.series import PROMETHEUS

PROVISIONING = FOLDER.parent / "provisioning"


def provisioned(path: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((PROVISIONING / path).read_text())
    return document


def test_every_panel_asks_the_data_source_that_is_provisioned() -> None:
    [source] = provisioned("datasources/prometheus.yaml")["datasources"]
    assert (source["uid"], source["type"]) == (SOURCE.uid, SOURCE.type_val)
    for board in FOLDER.glob("*.json"):
        for panel in json.loads(board.read_text())["panels"]:
            if panel["type"] != "row":
                assert panel["datasource"] == {"type": source["type"], "uid": source["uid"]}


def test_grafana_knows_how_often_prometheus_scrapes() -> None:
    """It makes the window of a rate of it: a shorter one than four scrapes would leave gaps."""
    [source] = provisioned("datasources/prometheus.yaml")["datasources"]
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    assert source["jsonData"]["timeInterval"] == config["global"]["scrape_interval"]


def test_the_dashboards_are_mounted_where_grafana_looks_for_them() -> None:
    [provider] = provisioned("dashboards/shira.yaml")["providers"]
    compose = yaml.safe_load((Path(PROMETHEUS).parent / "compose.yaml").read_text())
    mounts = dict(volume.split(":")[:2] for volume in compose["services"]["grafana"]["volumes"])
    assert mounts["./grafana/dashboards"] == provider["options"]["path"]
    assert mounts["./grafana/provisioning"] == "/etc/grafana/provisioning"


def test_what_the_configuration_of_prometheus_names_is_mounted_beside_it() -> None:
    service = yaml.safe_load((PROMETHEUS.parent / "compose.yaml").read_text())["services"]["prometheus"]
    mounts = dict(volume.split(":")[:2] for volume in service["volumes"])
    for name in ("prometheus.yml", "rules", "alertmanagers"):
        assert mounts[f"./prometheus/{name}"] == f"/etc/prometheus/{name}"
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    keys = {job["authorization"]["credentials_file"] for job in config["scrape_configs"] if "authorization" in job}
    assert {f"/etc/prometheus/{key}" for key in keys} == {secret["target"] for secret in service["secrets"]}
