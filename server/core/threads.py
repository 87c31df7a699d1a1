"""Threads of a pool, started before they are needed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier


def start_all(pool: ThreadPoolExecutor, num_threads: int) -> None:
    """Starts every thread of a pool of so many, none of which is busy: later there may be no memory for another, and
    the pool would say so to whoever hands it work. Raises RuntimeError if one cannot be started."""
    all_started = Barrier(num_threads)
    try:
        starting = [pool.submit(all_started.wait) for _ in range(num_threads)]
    except BaseException:
        all_started.abort()  # or those that were started would wait for the rest for ever, and the process with them
        raise
    for started in starting:
        started.result()
