from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from server.core.threads import start_all


def test_a_pool_whose_threads_run_takes_work_when_no_thread_can_be_started_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Found by ``make chaos``: the engine handed work to a pool that wanted another thread for it, and died."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with ThreadPoolExecutor(3) as started, ThreadPoolExecutor(3) as lazy:
        start_all(started, 3)
        monkeypatch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            lazy.submit(int)
        assert [started.submit(int).result(timeout=10) for _ in range(20)] == [0] * 20


STARTED_HALF_WAY = """
import threading
from concurrent.futures import ThreadPoolExecutor
from server.core.threads import start_all

start, left = threading.Thread.start, [2]

def start_two(thread):
    if not left[0]:
        raise RuntimeError("can't start new thread")
    left[0] -= 1
    start(thread)

threading.Thread.start = start_two
start_all(ThreadPoolExecutor(4), 4)
"""


def test_a_process_that_cannot_start_all_its_threads_says_so_and_ends() -> None:
    """Those that were started waited for the rest for ever: it neither served nor ended."""
    command = [sys.executable, "-c", STARTED_HALF_WAY]
    process = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert process.returncode == 1
    assert process.stderr.endswith("RuntimeError: can't start new thread\n")
