from __future__ import annotations

from pathlib import Path

import pytest

from server.core.memory_limit import memory_limit_bytes


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Says that we are in the cgroup ``/a/b``."""
    own = tmp_path / "own"
    own.write_text("4:memory:/elsewhere\n0::/a/b\n")
    (tmp_path / "groups" / "a" / "b").mkdir(parents=True)
    return own


def test_the_tightest_cgroup_around_us_counts(tmp_path: Path, own: Path) -> None:
    groups = tmp_path / "groups"
    (groups / "a" / "b" / "memory.max").write_text("max\n")
    (groups / "a" / "memory.max").write_text("2048\n")
    (groups / "memory.max").write_text("4096\n")
    assert memory_limit_bytes(groups, own) == 2048


def test_a_limit_of_the_older_version_counts(tmp_path: Path, own: Path) -> None:
    (tmp_path / "groups" / "memory").mkdir()
    (tmp_path / "groups" / "memory" / "memory.limit_in_bytes").write_text("1024\n")
    assert memory_limit_bytes(tmp_path / "groups", own) == 1024


def test_without_a_limit_it_is_what_the_machine_has(tmp_path: Path, own: Path) -> None:
    [machine] = [line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal")]
    expected = int(machine.split()[1]) * 1024
    assert memory_limit_bytes(tmp_path / "groups", own) == expected
    assert memory_limit_bytes(tmp_path / "none", tmp_path / "nothing") == expected
