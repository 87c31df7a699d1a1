"""Maps a file into memory for reading."""

from __future__ import annotations

import mmap
import os
import stat
from pathlib import Path

from adapters_store.container.limits import Limits
from adapters_store.errors import AdapterRejected


def map_file(path: Path, limits: Limits) -> mmap.mmap:
    """A private, copy-on-write map of the whole file: tensors over it are writable to torch, the file never is.

    The file must not shrink while the map lives (files here are written once, renamed into place and unlinked).
    Raises LimitExceeded past ``file_bytes``, AdapterRejected for what is no file or is empty, OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise AdapterRejected("file", tensor=None, expected="a regular file", got="something else")
        limits.check("file_bytes", status.st_size)
        if status.st_size == 0:
            raise AdapterRejected("truncated", tensor=None, expected="a safetensors file", got="an empty file")
        return mmap.mmap(descriptor, status.st_size, access=mmap.ACCESS_COPY)
    finally:
        os.close(descriptor)
