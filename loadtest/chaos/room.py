"""A disk that can be made full to the page, and emptied again."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from loadtest.live_server import LiveServer

PAGE_BYTES = 4096


class Room(Protocol):
    how: str

    def leave(self, num_bytes: int) -> None:
        """The server can write so many more bytes, in whole pages, and no more."""
        ...

    def give_back(self) -> None:
        """There is room again."""
        ...


def can_mount() -> bool:
    """Whether a file system of our own can be had here."""
    return os.geteuid() == 0


@contextmanager
def mounted(directory: Path, num_bytes: int) -> Iterator[None]:
    """A tmpfs of that size at ``directory``."""
    directory.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={num_bytes}", "tmpfs", str(directory)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(directory)], check=True)


class FullDisk:
    """A file takes what is left of the disk under ``directory``: writes fail with ENOSPC."""

    how = "a tmpfs as data directory, filled: ENOSPC"

    def __init__(self, directory: Path) -> None:
        self._ballast = directory / "ballast"

    def leave(self, num_bytes: int) -> None:
        with self._ballast.open("ab") as ballast:
            free = os.statvfs(self._ballast).f_bavail * PAGE_BYTES
            size = ballast.tell()
            grown = max(0, size + free - num_bytes)
            if grown > size:
                os.posix_fallocate(ballast.fileno(), size, grown - size)
            else:
                ballast.truncate(grown)

    def give_back(self) -> None:
        self._ballast.unlink(missing_ok=True)


class ShortFiles:
    """No file of the server's may grow beyond a limit: writes fail with EFBIG. Needs no privilege, and is coarser: each
    file has the room for itself."""

    how = "RLIMIT_FSIZE of the server, lowered: EFBIG"

    def __init__(self, live: LiveServer) -> None:
        self._live = live

    def leave(self, num_bytes: int) -> None:
        _, hard = resource.prlimit(self._live.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self._live.process.pid, resource.RLIMIT_FSIZE, (num_bytes, hard))

    def give_back(self) -> None:
        _, hard = resource.prlimit(self._live.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self._live.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
