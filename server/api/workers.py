"""Where blocking calls of the routes run: worker threads, bounded per kind so that one kind cannot starve another."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread

from server.core.memory_shortage import told_of_memory

P = ParamSpec("P")
T = TypeVar("T")

NUM_QUICK = 16  # look-ups
NUM_SCRAPING = 1  # renders one at a time anyway, and may hang with the disk
NUM_TOKENISING = 1  # a tokenizer serves one at a time
NUM_ENCODING = 2  # pictures becoming files
NUM_HEAVY = 2  # uploads being read, checked and stored; downloads being written
NUM_WAITING = 32  # deletes that wait for requests to end


class Workers:
    """Belongs to one event loop. A call is finished even when the request that made it is cancelled meanwhile.

    All raise OutOfMemory instead of the many errors that say so, a thread that cannot be started among them."""

    def __init__(self) -> None:
        self._quick = CapacityLimiter(NUM_QUICK)
        self._scraping = CapacityLimiter(NUM_SCRAPING)
        self._tokenising = CapacityLimiter(NUM_TOKENISING)
        self._encoding = CapacityLimiter(NUM_ENCODING)
        self._heavy = CapacityLimiter(NUM_HEAVY)
        self._waiting = CapacityLimiter(NUM_WAITING)

    async def quick(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await _run(partial(call, *args, **kwargs), self._quick)

    async def scraping(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await _run(partial(call, *args, **kwargs), self._scraping)

    async def tokenising(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await _run(partial(call, *args, **kwargs), self._tokenising)

    async def encoding(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await _run(partial(call, *args, **kwargs), self._encoding)

    async def heavy(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await _run(partial(call, *args, **kwargs), self._heavy)

    async def waiting(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await _run(partial(call, *args, **kwargs), self._waiting)


async def _run(call: Callable[[], T], limiter: CapacityLimiter) -> T:
    try:
        return await to_thread.run_sync(call, limiter=limiter)
    except Exception as error:
        told = told_of_memory(error)
        if told is error:
            raise
        raise told from error
