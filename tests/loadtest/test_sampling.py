from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep

import pytest

from loadtest.asking import http_client
from loadtest.failures import noted
from loadtest.sampling import sampled
from loadtest.servers import RunningServer
from server.processes import ServerFailed, ServerProcess
from tests.loadtest.scripted import Answer, scripted

METRICS = b"# TYPE shira_queue_depth gauge\nshira_queue_depth 3\n"


@pytest.fixture
def process(tmp_path: Path) -> Iterator[ServerProcess]:
    sleeping = ServerProcess(
        [sys.executable, "-c", "import time; time.sleep(60)"], environment={}, log=tmp_path / "log"
    )
    yield sleeping
    sleeping.stop()


def running(url: str, process: ServerProcess) -> RunningServer:
    return RunningServer(name="text", url=url, process=process, client=http_client(url))


def failing_first(num: int, status: int, body: bytes) -> Answer:
    answers = iter([(status, body)] * num)
    return lambda method, path: next(answers, (200, METRICS))


@pytest.mark.parametrize(("status", "body"), [(500, b"oops"), (200, b"not { metrics")])
def test_a_scrape_that_fails_is_told_once_and_the_next_ones_are_made(
    process: ServerProcess, status: int, body: bytes
) -> None:
    failures: list[str] = []
    with scripted(failing_first(2, status, body)) as url, running(url, process).client:
        server = running(url, process)
        with sampled({"text": server}, failures, every_s=0.01) as samples:
            deadline_s = monotonic() + 10
            while len(samples) < 2 and monotonic() < deadline_s:
                sleep(0.01)
        server.client.close()
    assert len(samples) >= 2
    assert samples[0].gauges == {"queue_depth": 3}
    assert len(failures) == 1


def test_a_process_that_ended_is_told(process: ServerProcess) -> None:
    failures: list[str] = []
    process.stop()
    with scripted(failing_first(0, 200, b"")) as url:
        server = running(url, process)
        with sampled({"text": server}, failures, every_s=1) as samples:
            pass
        server.client.close()
    assert samples == []
    assert "text server: no sample: NoSuchProcess" in failures[0]


def test_a_server_that_is_gone_fails_by_name(process: ServerProcess) -> None:
    with scripted(failing_first(0, 200, b"")) as url:
        server = running(url, process)
    failures: list[str] = []
    with noted(failures):
        server.check_base()
    assert "text server: POST /admin/verify: ConnectError" in failures[0]
    with pytest.raises(ServerFailed, match="GET /metrics: ConnectError"):
        server.metrics()
    server.client.close()
