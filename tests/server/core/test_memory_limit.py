from __future__ import annotations

import math
import mmap
from pathlib import Path

import pytest

from server.core.memory_limit import find_memory_limit

NUM_BYTES = 50_000_000


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Says that we are in the cgroup ``/a/b``, and of version 1 in ``/c``."""
    own = tmp_path / "own"
    own.write_text("4:cpu,memory:/c\n1:name=systemd:/\n0::/a/b\n")
    (tmp_path / "groups" / "a" / "b").mkdir(parents=True)
    (tmp_path / "groups" / "memory" / "c").mkdir(parents=True)
    return own


def test_the_tightest_cgroup_around_us_counts(tmp_path: Path, own: Path) -> None:
    groups = tmp_path / "groups"
    (groups / "a" / "b" / "memory.max").write_text("max\n")
    (groups / "a" / "memory.max").write_text("2048\n")
    (groups / "memory.max").write_text("4096\n")
    assert find_memory_limit(groups, own).num_bytes == 2048


@pytest.mark.parametrize("place", ["memory", "memory/c"])
def test_a_limit_of_version_1_counts(tmp_path: Path, own: Path, place: str) -> None:
    (tmp_path / "groups" / place / "memory.limit_in_bytes").write_text("1024\n")
    assert find_memory_limit(tmp_path / "groups", own).num_bytes == 1024


def test_without_a_limit_it_is_what_the_machine_has(tmp_path: Path, own: Path) -> None:
    [machine] = [line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal")]
    expected = int(machine.split()[1]) * 1024
    (tmp_path / "groups" / "memory" / "memory.limit_in_bytes").write_text(f"{2**63 - 4096}\n")  # as version 1 says none
    assert find_memory_limit(tmp_path / "groups", own).num_bytes == expected
    assert find_memory_limit(tmp_path / "none", tmp_path / "nothing").num_bytes == expected


def test_what_counts_against_a_limit_is_the_working_set_of_the_cgroup_that_has_it(tmp_path: Path, own: Path) -> None:
    """Another process of it included; a file that was read once and can be dropped is not."""
    folder = tmp_path / "groups" / "a"
    (folder / "memory.max").write_text("4096\n")
    (folder / "memory.current").write_text("3000\n")
    (folder / "memory.stat").write_text("anon 1500\ninactive_file 1000\nactive_file 500\n")
    assert find_memory_limit(tmp_path / "groups", own).used_bytes() == 2000


def test_so_it_is_with_version_1(tmp_path: Path, own: Path) -> None:
    folder = tmp_path / "groups" / "memory" / "c"
    (folder / "memory.limit_in_bytes").write_text("4096\n")
    (folder / "memory.usage_in_bytes").write_text("3000\n")
    (folder / "memory.stat").write_text("inactive_file 1\ntotal_inactive_file 1000\n")
    assert find_memory_limit(tmp_path / "groups", own).used_bytes() == 2000


def test_without_a_limit_it_is_what_this_process_holds(tmp_path: Path, own: Path) -> None:
    limit = find_memory_limit(tmp_path / "groups", own)
    before = limit.used_bytes()
    with mmap.mmap(-1, NUM_BYTES) as block:  # fresh pages, which no allocator had before
        block.write(b"x" * NUM_BYTES)
        assert limit.used_bytes() - before > 0.8 * NUM_BYTES


def test_a_cgroup_that_does_not_tell_its_use_is_no_number(tmp_path: Path, own: Path) -> None:
    (tmp_path / "groups" / "memory.max").write_text("4096\n")
    assert math.isnan(find_memory_limit(tmp_path / "groups", own).used_bytes())
