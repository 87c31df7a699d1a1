from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def run_crash_rounds(root: Path, num_rounds: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.adapters_store.crash_rounds", str(root), str(num_rounds), "7"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    assert "uploads" in done.stdout


def test_a_kill_at_any_moment_loses_nothing_acknowledged_and_lists_nothing_half_written(tmp_path: Path) -> None:
    run_crash_rounds(tmp_path, 6)


@pytest.mark.slow
def test_the_same_over_many_lives(tmp_path: Path) -> None:
    run_crash_rounds(tmp_path, 25)
