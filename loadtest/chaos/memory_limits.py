"""Limits on the memory of a server that falls while it runs."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from loadtest.live_server import LiveServer
from server.core.memory_shortage import SIGNS

CGROUPS = Path("/sys/fs/cgroup/memory")
HEADROOM_BYTES = 8 << 20  # above what the server has when the limit falls


class Limit(Protocol):
    name: str
    how: str
    slows: bool  # instead of refusing: deadlines may pass

    def fall(self) -> None: ...

    def lift(self) -> None:
        """Of a server that has died as well."""
        ...

    def num_hits(self) -> int:
        """How often the server was told by it, as far as that can be known."""
        ...


class AddressSpace:
    """RLIMIT_AS: an allocation fails. Some the server's log tells, as why an adapter could not be loaded."""

    name = "address space"
    how = f"RLIMIT_AS {HEADROOM_BYTES >> 20} MiB above what is used"
    slows = False

    def __init__(self, live: LiveServer) -> None:
        self._live = live

    def fall(self) -> None:
        pages = int(Path(f"/proc/{self._live.process.pid}/statm").read_text().split()[0])
        self._set(pages * resource.getpagesize() + HEADROOM_BYTES)

    def lift(self) -> None:
        if self._live.process.poll() is None:
            self._set(resource.prlimit(self._live.process.pid, resource.RLIMIT_AS)[1])

    def num_hits(self) -> int:
        log = self._live.log_path.read_text()
        return sum(log.count(sign) for sign in SIGNS)

    def _set(self, soft: int) -> None:
        _, hard = resource.prlimit(self._live.process.pid, resource.RLIMIT_AS)
        resource.prlimit(self._live.process.pid, resource.RLIMIT_AS, (soft, hard))


class Group:
    """A control group (version 1) of the memory controller: the kernel takes pages back, or kills. What ``prefix`` runs
    is in it."""

    name = "memory limit"
    how = f"cgroup limit {HEADROOM_BYTES >> 20} MiB above what is used"
    slows = True  # what is mapped from files is read from the disk again and again

    def __init__(self, path: Path) -> None:
        self._path = path
        self.prefix = ["sh", "-c", f'echo $$ > {path}/cgroup.procs; exec "$@"', "in-group"]

    def fall(self) -> None:
        self._set(self._used_bytes() + HEADROOM_BYTES)

    def lift(self) -> None:
        self._set(-1)

    def num_hits(self) -> int:
        return int((self._path / "memory.failcnt").read_text())

    def _set(self, num_bytes: int) -> None:
        (self._path / "memory.limit_in_bytes").write_text(str(num_bytes))

    def _used_bytes(self) -> int:
        """What it cannot do without: not the rest of the page cache, which the kernel can take back."""
        stat = dict(line.split() for line in (self._path / "memory.stat").read_text().splitlines())
        return int(stat["rss"]) + int(stat["mapped_file"])


@contextmanager
def memory_group() -> Iterator[Group | None]:
    """None where none can be made: not root, or control groups of version 2."""
    if os.geteuid() != 0 or not (CGROUPS / "memory.limit_in_bytes").exists():
        yield None
        return
    path = CGROUPS / f"shira-chaos-{os.getpid()}"
    path.mkdir()
    try:
        yield Group(path)
    finally:
        path.rmdir()
