"""A real Prometheus with the committed configuration, but for where its targets are and how often it looks."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import yaml

from deploy.monitoring.ops_tools import Tools
from loadtest.live_server import wait_until
from server.processes import free_port
from tests.deploy.series import PROMETHEUS

INTERVAL = "1s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    labels: dict[str, str]
    value: float


class LivePrometheus:
    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def query(self, promql: str) -> list[Sample]:
        """What it gives now; an expression without labels gives one sample without."""
        data = self._get("query", query=promql)
        rows = [({}, data["result"])] if data["resultType"] == "scalar" else [
            (row["metric"], row["value"]) for row in data["result"]
        ]  # fmt: skip
        return [Sample(labels=labels, value=float(value)) for labels, (_, value) in rows]

    def value(self, promql: str) -> float:
        """Of the one sample it gives; 0 if there is none yet."""
        samples = self.query(promql)
        assert len(samples) <= 1, f"{promql} gave {len(samples)} series"
        return samples[0].value if samples else 0.0

    def rules(self) -> list[dict[str, Any]]:
        """As it runs them: name, type, query, health, and of alerts their state."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def settle(self) -> None:
        """Two more looks at every target, then every rule once more: a rate wants two samples of a series."""
        num_looks = self._num_looks()
        wait_until(lambda: self._num_looks() >= num_looks + 2)
        now = datetime.now(UTC)
        wait_until(lambda: all(datetime.fromisoformat(rule["lastEvaluation"]) > now for rule in self.rules()))

    def is_ready(self) -> bool:
        try:
            return self._client.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def _num_looks(self) -> float:
        """At the target that was looked at least often."""
        return self.value("min(count_over_time(up[1h]))")

    def _get(self, what: str, **params: str) -> dict[str, Any]:
        response = self._client.get(f"/api/v1/{what}", params=params)
        assert response.is_success, response.text
        data: dict[str, Any] = response.json()["data"]
        return data


@contextmanager
def live_prometheus(tools: Tools, directory: Path, *, key: str, targets: Mapping[str, int]) -> Iterator[LivePrometheus]:
    """``targets``: which port of this machine each job scrapes. Ends when the block does."""
    port = free_port()
    config = write_config(directory, key=key, targets={**targets, "prometheus": port})
    command = [str(tools.prometheus), f"--config.file={config}", f"--storage.tsdb.path={directory / 'data'}"]
    with (directory / "prometheus.log").open("wb") as log:
        process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30.0) as client:
            prometheus = LivePrometheus(client)
            wait_until(prometheus.is_ready)
            yield prometheus
    finally:
        process.terminate()
        process.wait(timeout=30)


def write_config(directory: Path, *, key: str, targets: Mapping[str, int] | None = None) -> Path:
    """The committed folder, with the key that its users add; with ``targets`` a configuration that looks there."""
    folder = directory / "prometheus"
    shutil.copytree(PROMETHEUS, folder, ignore=shutil.ignore_patterns("secrets"))
    (folder / "secrets").mkdir()
    (folder / "secrets" / "metrics-key").write_text(key)
    path = folder / "prometheus.yml"
    if targets is not None:
        config = yaml.safe_load(path.read_text())
        config["global"] = {"scrape_interval": INTERVAL, "evaluation_interval": INTERVAL}
        for job in config["scrape_configs"]:
            for way in ("dns_sd_configs", "relabel_configs"):
                job.pop(way, None)
            job["static_configs"] = [{"targets": [f"127.0.0.1:{targets[job['job_name']]}"]}]
        path.write_text(yaml.safe_dump(config))
    return path
