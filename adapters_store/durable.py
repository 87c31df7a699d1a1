"""Writes that survive a crash: what was acknowledged is there, what was not is not listed."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from adapters_store.errors import StorageFull

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def write_durably(
    path: Path, parts: Iterable[bytes | memoryview], *, tmp_dir: Path, mode: int = 0o644
) -> os.stat_result:
    """Writes ``parts`` to a temporary file, syncs it, renames it to ``path`` and syncs the directory.

    ``tmp_dir`` must be on the file system of ``path``, whose directory is made. After a crash at any point ``path`` is
    either absent (or what it was before) or complete. Returns the file's stat. Raises StorageFull when the disk
    refuses; whatever is raised, nothing is left behind.
    """
    tmp = tmp_dir / secrets.token_hex(16)
    try:
        make_dir_durably(path.parent)
        stat = _write_synced(tmp, parts, mode)
        tmp.rename(path)
        sync_dir(path.parent)
    except BaseException as error:
        tmp.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _FULL:
            raise StorageFull(f"the disk refused to write {path.name}: {error.strerror}") from error
        raise
    return stat


def _write_synced(path: Path, parts: Iterable[bytes | memoryview], mode: int) -> os.stat_result:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        for part in parts:
            rest = memoryview(part).cast("B")
            while rest:
                rest = rest[os.write(fd, rest) :]
        os.fsync(fd)
        return os.fstat(fd)
    finally:
        os.close(fd)


def make_dir_durably(path: Path, *, mode: int = 0o777) -> None:
    """Makes the directory, and those above it, unless it is there."""
    if path.is_dir():
        return
    make_dir_durably(path.parent)
    path.mkdir(mode=mode, exist_ok=True)
    sync_dir(path.parent)


def remove_durably(path: Path) -> bool:
    """True if there was a file to remove."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    sync_dir(path.parent)
    return True


def sync_dir(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
