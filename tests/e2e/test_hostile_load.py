"""Clients that stop reading, leave by the thousand or ask for the impossible: others are served, nothing leaks."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from loadtest.live_server import LiveServer, metric, wait_until
from tests.e2e.tiny_server import CONTEXT_TOKENS, footprint, is_at_rest, nothing_leaks, state, tiny_server

MIB = 1024**2
COMPLETED = 'shira_tokens_total{kind="completion"}'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with tiny_server(tmp_path_factory.mktemp("hostile")) as live:
        yield live


@pytest.fixture(autouse=True)
def no_leak(server: LiveServer) -> Iterator[None]:
    with nothing_leaks(server):
        yield


def request_bytes(num_tokens: int, **parameters: object) -> bytes:
    wishes = {"max_new_tokens": num_tokens, "ignore_eos": True, **parameters}
    body = json.dumps({"prompt": "the quick", "stream": True, "parameters": wishes}).encode()
    head = "POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.slow
def test_a_client_that_stops_reading_holds_nobody_up_and_little_memory(server: LiveServer) -> None:
    """What is held for it: in the kernel its sockets' buffers, in the server 64 KiB (uvicorn's flow control) and one
    event for each token that it may still have."""
    before = footprint(server)
    num_tokens = 1000
    with socket.socket() as stalled:
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.connect(("127.0.0.1", server.port))
        stalled.sendall(request_bytes(num_tokens, n=4, logprobs=20))  # some 8 MB of events
        wait_until(lambda: state(server)["engine"]["num_running"] == 4)
        for _ in range(5):
            assert server.generate()["usage"]["completion_tokens"] == 8
        wait_until(lambda: state(server)["engine"]["num_running"] == 0)  # the engine waits for no reader
        assert footprint(server).rss_bytes - before.rss_bytes < 96 * MIB
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.slow
def test_a_thousand_clients_that_connect_and_leave_at_any_moment(server: LiveServer) -> None:
    whole = request_bytes(2000)
    before = footprint(server)
    completed = metric(server.client, COMPLETED)

    def come_and_go(number: int) -> None:
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
            match number % 5:
                case 0:
                    pass  # before sending anything
                case 1:
                    connection.sendall(whole[:40])  # in the middle of the head
                case 2:
                    connection.sendall(whole[:-10])  # in the middle of the body
                case 3:
                    connection.sendall(whole)  # before the answer
                case 4:
                    connection.sendall(whole)
                    connection.recv(1)  # in the middle of the answer
            if number % 2:  # a reset, not a goodbye
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with ThreadPoolExecutor(32) as clients:
        list(clients.map(come_and_go, range(1000)))
    wait_until(lambda: is_at_rest(server))
    assert metric(server.client, COMPLETED) - completed < 20 * 2000  # what nobody waits for is not computed to its end
    assert footprint(server).rss_bytes - before.rss_bytes < 64 * MIB


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prompt", "limit"),
    [
        ("a b " * 50_000, f"prompt: between 1 and {CONTEXT_TOKENS - 1} tokens, got "),
        ("a b " * 250_000, f"prompt: at most {(CONTEXT_TOKENS - 1) * 32} characters "),
    ],
    ids=["100,000 tokens", "1,000,000 characters"],
)
def test_endless_prompts_are_refused_with_the_limit_and_stall_nobody(
    server: LiveServer, prompt: str, limit: str
) -> None:
    took: list[float] = []
    begun, over = threading.Event(), threading.Event()

    def ask_again_and_again() -> None:
        with httpx.Client(base_url=server.client.base_url, timeout=30) as client:
            begun.set()
            while not over.is_set() or not took:
                began = time.monotonic()
                client.post("/generate", json={"prompt": "x", "parameters": {"max_new_tokens": 1}}).raise_for_status()
                took.append(time.monotonic() - began)

    asking = threading.Thread(target=ask_again_and_again)
    asking.start()
    try:
        assert begun.wait(30)
        for _ in range(5):
            refused = server.client.post("/generate", json={"prompt": prompt})
            assert refused.status_code == 400
            assert refused.json()["error"]["message"].startswith(limit)
    finally:
        over.set()
        asking.join()
    assert max(took) < 2.0


@pytest.mark.slow
@pytest.mark.parametrize(("num_tokens", "limit"), [(0, "greater than or equal to 1"), (10**9, "at most 2048")])
def test_no_tokens_and_a_billion_are_refused_with_the_limit(server: LiveServer, num_tokens: int, limit: str) -> None:
    body = {"prompt": "x", "parameters": {"max_new_tokens": num_tokens}}
    refused = server.client.post("/generate", json=body)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "parameters.max_new_tokens"
    assert limit in refused.json()["error"]["message"]
