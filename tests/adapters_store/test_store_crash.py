from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def run_script(module: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", f"tests.adapters_store.{module}", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_death_at_any_step_loses_nothing_acknowledged_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    assert "survived" in run_script("crash_at_every_step", str(tmp_path))


@pytest.mark.slow
def test_a_kill_at_any_moment_loses_nothing_acknowledged_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    assert "uploads" in run_script("crash_rounds", str(tmp_path), "12", "7")
