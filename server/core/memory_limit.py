"""How much memory this process may take."""

from __future__ import annotations

import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


def memory_limit_bytes(cgroups: Path = CGROUPS, own: Path = OWN_CGROUP) -> int:
    """The least of the machine's memory and the limits of our cgroup and those around it, of either version."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    path = cgroups / _own_path(own)
    for folder in (path, *path.parents):
        if folder.is_relative_to(cgroups):
            limits += _read(folder / "memory.max")
    return min(limits + _read(cgroups / "memory" / "memory.limit_in_bytes"))


def _own_path(own: Path) -> str:
    """Of version 2; where cgroups have a namespace of their own it is the root."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return ""
    return next((line.removeprefix("0::").lstrip("/") for line in lines if line.startswith("0::")), "")


def _read(file: Path) -> list[int]:
    try:
        text = file.read_text().strip()
    except OSError:
        return []
    return [int(text)] if text.isdecimal() else []  # "max" is none
