from __future__ import annotations

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
