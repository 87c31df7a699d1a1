from __future__ import annotations

import pytest

from deploy.monitoring.ops_tools import Tools, find_tools


@pytest.fixture(scope="session")
def tools() -> Tools:
    found = find_tools()
    assert found is not None, "Prometheus is not here: make ops-tools"
    return found
