"""How much memory this process may take, and how much of that is taken."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class _Names:
    """Of a cgroup's files, and of what in ``memory.stat`` the kernel gives back before it kills."""

    limit: str
    usage: str
    inactive: str


_VERSION_1 = _Names("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_VERSION_2 = _Names("memory.max", "memory.current", "inactive_file")


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLimit:
    """``cgroup``: whose limit it is, with the names of its files; None where the machine's memory is all that limits
    us."""

    num_bytes: int
    cgroup: tuple[Path, _Names] | None = None

    def used_bytes(self) -> float:
        """What counts against the limit: the working set of that cgroup, its other processes (such as an embedded
        Redis) included; our own resident memory where there is none. Not a number where nothing tells."""
        try:
            return _resident_bytes() if self.cgroup is None else _working_set_bytes(*self.cgroup)
        except OSError:
            return float("nan")


def find_memory_limit(cgroups: Path = CGROUPS, own: Path = OWN_CGROUP) -> MemoryLimit:
    """The least of the machine's memory and the limits of our cgroup and those around it, of either version."""
    limits = [MemoryLimit(num_bytes=os.sysconf("SC_PHYS_PAGES") * PAGE_BYTES)]
    for folder, names in _around_us(cgroups, own):
        if (num_bytes := _read(folder / names.limit)) is not None:
            limits.append(MemoryLimit(num_bytes=num_bytes, cgroup=(folder, names)))
    return min(limits, key=lambda limit: limit.num_bytes)


def _around_us(cgroups: Path, own: Path) -> Iterator[tuple[Path, _Names]]:
    """Our cgroup first. Where cgroups have a namespace of their own, or a container sees no others, it is the root."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        lines = []
    paths = {
        controller: path for _, names, path in (line.split(":", 2) for line in lines) for controller in names.split(",")
    }
    for root, path, names in (
        (cgroups, paths.get(""), _VERSION_2),
        (cgroups / "memory", paths.get("memory"), _VERSION_1),
    ):
        folder = root / (path or "").lstrip("/")
        yield from ((place, names) for place in (folder, *folder.parents) if place.is_relative_to(root))


def _read(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None  # "max" is none


def _working_set_bytes(folder: Path, names: _Names) -> int:
    stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    return int((folder / names.usage).read_text()) - int(stat[names.inactive])


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES
