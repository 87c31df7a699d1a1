"""The data directory: where everything lies, and the lock that says whose it is."""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path

from adapters_store.durable import make_dir_durably, write_durably
from adapters_store.errors import DataDirLocked

REPLICA_FILE = "replica"


class DataDir:
    """Owned by one process from construction to ``close``; the kernel gives the lock back if the process dies.

    Raises DataDirLocked if another one owns it. Leftovers of writes that never finished are removed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tmp = root / "tmp"
        self.adapters = root / "adapters"
        self.catalog = root / "catalog"
        self.redis = root / "redis"
        make_dir_durably(root)
        self._lock_fd = _lock(root / "lock")
        try:
            self._prepare()
            self.replica_id = self._replica_id()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def _prepare(self) -> None:
        for folder in (self.tmp, self.adapters, self.catalog):
            make_dir_durably(folder)
        make_dir_durably(self.redis, mode=0o700)
        for leftover in self.tmp.iterdir():
            if leftover.is_file():
                leftover.unlink()

    def _replica_id(self) -> str:
        """Names this disk to other replicas, for as long as the directory lives."""
        path = self.root / REPLICA_FILE
        if path.exists():
            return path.read_text().strip()
        replica_id = secrets.token_hex(8)
        write_durably(path, [replica_id.encode()], tmp_dir=self.tmp)
        return replica_id


def _lock(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = os.pread(fd, 32, 0).decode(errors="replace").strip() or "another process"
        os.close(fd)
        raise DataDirLocked(
            f"{path.parent} is in use by process {owner}; stop it or choose another data directory"
        ) from error
    except BaseException:
        os.close(fd)
        raise
    os.ftruncate(fd, 0)
    os.pwrite(fd, str(os.getpid()).encode(), 0)
    return fd
