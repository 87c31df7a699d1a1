"""A stop tells everybody: who finishes in time gets an answer, who does not gets an error of the one shape."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from loadtest.live_server import LiveServer, metric, wait_until
from tests.server.api.rig import error_of, sse_events

LONG = {"prompt": "Once", "parameters": {"max_new_tokens": 2000, "ignore_eos": True}}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    with LiveServer(tmp_path / "data", "--drain-s", "1", redis="off") as live:
        yield live


@pytest.mark.slow
def test_a_request_that_outlasts_the_drain_is_told_so_and_the_exit_code_is_0(server: LiveServer) -> None:
    def ask(*, stream: bool) -> httpx.Response:
        return httpx.post(f"{server.client.base_url}/generate", json={**LONG, "stream": stream}, timeout=60)

    with ThreadPoolExecutor(2) as clients:
        whole, streamed = clients.submit(ask, stream=False), clients.submit(ask, stream=True)
        wait_until(lambda: metric(server.client, "shira_queue_seconds_count") == 2)
        server.process.send_signal(signal.SIGTERM)
        assert error_of(whole.result(), 503)["code"] == "draining"
        first, *_, last = sse_events(streamed.result().text)
    assert first["text"]
    assert last["error"]["code"] == "draining"
    assert server.process.wait(timeout=30) == 0
    told = server.log_path.read_text()
    assert "Traceback" not in told
    assert "leaked" not in told


@pytest.mark.slow
def test_whoever_comes_during_the_drain_is_told_to_try_elsewhere(tmp_path: Path) -> None:
    with LiveServer(tmp_path / "data", "--drain-s", "5", redis="off") as server:
        with httpx.stream(
            "POST", f"{server.client.base_url}/generate", json={**LONG, "stream": True}, timeout=60
        ) as answer:
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: httpx.get(f"{server.client.base_url}/readyz").status_code == 503)
            late = httpx.post(f"{server.client.base_url}/generate", json=LONG)
            assert error_of(late, 503)["code"] == "draining"
            assert int(late.headers["retry-after"]) > 0
            assert httpx.get(f"{server.client.base_url}/metrics").status_code == 200
            assert sse_events(answer.read().decode())[-1]["error"]["code"] == "draining"
        assert server.process.wait(timeout=30) == 0
