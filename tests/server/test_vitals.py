from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from server.core.config import load_config
from server.core.metrics import Metrics
from server.vitals import tell_vitals
from tests.server.api.rig import make_services


@pytest.fixture
def metrics(tmp_path: Path) -> Metrics:
    """Of a server with its data directory in ``data``."""
    services, store, engine = make_services(load_config({"data_dir": tmp_path / "data", "redis": "off"}, {}))
    store.close()
    metrics = Metrics()
    tell_vitals(metrics, services.config, services.base, engine)
    return metrics


def test_the_disk_and_the_memory_are_told(metrics: Metrics) -> None:
    told = dict(line.split() for line in metrics.render().decode().splitlines() if re.match(r"shira_\w+ ", line))
    assert 0 < float(told["shira_data_free_bytes"]) < float(told["shira_data_size_bytes"])
    assert 0 < float(told["shira_memory_used_bytes"]) < float(told["shira_memory_limit_bytes"])


def test_a_disk_that_cannot_be_read_takes_only_its_own_figures_away(metrics: Metrics, tmp_path: Path) -> None:
    """It was an answer of 500, so that the server seemed to be down."""
    shutil.rmtree(tmp_path / "data")
    text = metrics.render().decode()
    assert "shira_data_free_bytes NaN" in text
    assert "shira_data_size_bytes NaN" in text
    assert "shira_ready 1.0" in text
