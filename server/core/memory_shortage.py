"""The many ways in which Python, torch, CUDA and the kernel say that there is no memory."""

from __future__ import annotations

import errno

from server.core.errors import OutOfMemory

SIGNS = (
    "annot allocate memory",
    "can't allocate memory",
    "out of memory",
    "bad_alloc",
    "STATUS_ALLOC_FAILED",
    "can't start new thread",
)  # torch's words, and Python's


def told_of_memory(error: Exception) -> Exception:
    """OutOfMemory in the place of an error that says so, or that came of one (``__cause__``); any other as it is."""
    if not is_out_of_memory(error):
        return error
    return OutOfMemory("the server has no memory for this now; try again later")


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS):
        return True
    return isinstance(error, MemoryError) or (error.__cause__ is not None and is_out_of_memory(error.__cause__))
