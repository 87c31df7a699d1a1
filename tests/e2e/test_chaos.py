"""Every fault of ``make chaos``, in short: the laws are those of ``loadtest.chaos.trial``."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from loadtest.chaos.bases import Base, emoji, tiny
from loadtest.chaos.faults import FAULTS
from loadtest.chaos.report import table
from loadtest.chaos.room import can_mount
from loadtest.chaos.trial import Settings, Trial
from loadtest.chaos.wall_clock import can_build

SHORT = Settings(num_kills=2, hold_s=0.5)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return tiny(tmp_path_factory.mktemp("base"))


def law_abiding(fault: str, base: Base, directory: Path) -> Trial:
    trial = Trial(fault, base, directory, SHORT)
    trial.run(FAULTS[fault])
    assert trial.problems == [], table([trial])
    assert sum(phase.counts.sent for phase in trial.phases) > 0
    return trial


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["sigterm", "sigkill", "redis", "redis-embedded"])
def test_nothing_is_lost_when_a_process_ends_or_hangs(fault: str, base: Base, tmp_path: Path) -> None:
    law_abiding(fault, base, tmp_path / fault)


@pytest.mark.slow
def test_nothing_is_lost_when_the_disk_is_full(base: Base, tmp_path: Path) -> None:
    trial = law_abiding("disk", base, tmp_path / "disk")
    assert ("tmpfs" in trial.phases[1].what) == can_mount()  # else the limit on the size of files stands in


@pytest.mark.slow
@pytest.mark.skipif(not can_build(), reason="the shim that shifts the server's clock wants a C compiler")
def test_nothing_is_lost_when_the_clock_jumps(base: Base, tmp_path: Path) -> None:
    law_abiding("clock", base, tmp_path / "clock")


@pytest.mark.slow
@pytest.mark.skipif("SHIRA_STARVE" not in os.environ, reason="a machine short of memory stalls; make chaos does it")
def test_nothing_is_lost_when_memory_runs_out(tmp_path: Path) -> None:
    """Over a base large enough for adapters of megabytes."""
    law_abiding("memory", emoji(tmp_path), tmp_path / "memory")
