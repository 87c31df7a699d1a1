"""Maps a file into memory for reading."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import torch

from adapters_store.adapter import tensor_bytes
from adapters_store.container.limits import Limits
from adapters_store.errors import AdapterRejected


def map_file(path: Path, limits: Limits) -> memoryview:
    """A private, copy-on-write map of the whole file: tensors over it are writable to torch, the file never is.

    The map lives as long as a view of it and takes no file descriptor: thousands of adapters may be mapped at a time
    (Python's own ``mmap`` keeps one each). The file must not shrink meanwhile (files here are written once, renamed
    into place and unlinked). Raises LimitExceeded past ``file_bytes``, AdapterRejected for what is no file or is empty,
    OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise AdapterRejected("file", tensor=None, expected="a regular file", got="something else")
        limits.check("file_bytes", status.st_size)
        if status.st_size == 0:
            raise AdapterRejected("truncated", tensor=None, expected="a safetensors file", got="an empty file")
        same_file = f"/dev/fd/{descriptor}"  # and not another one that has its name by now
        return tensor_bytes(torch.from_file(same_file, shared=False, size=status.st_size, dtype=torch.uint8))
    finally:
        os.close(descriptor)
