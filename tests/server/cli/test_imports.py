from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"torch", "transformers", "fastapi", "uvicorn", "httpx", "redis", "numpy"}


@pytest.mark.parametrize("module", ["server", "server.cli", "server.core.config"])
def test_importing_loads_nothing_heavy(module: str) -> None:
    code = f"import {module}, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not HEAVY & set(loaded)
