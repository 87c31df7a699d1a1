"""The client and the load generator against a real HTTP server on a loopback socket."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from server.bench_serve.http_client import Connection
from server.bench_serve.load import Load, WrongAnswer, run_load
from server.bench_serve.shira_server import ShiraDialect
from server.bench_serve.vllm_server import VllmDialect
from server.bench_serve.workload import Arrival

PAUSE_S = 0.05


def arrival(adapter: str | None = None, *, at_s: float | None = None, num_new_tokens: int = 3, key: int = 0) -> Arrival:
    return Arrival(
        at_s=at_s, key=key, adapter=adapter, prompt=" a b", num_prompt_tokens=2, num_new_tokens=num_new_tokens
    )


class Answers:
    """Answers as ``POST /generate`` does, a text each ``PAUSE_S``; ``refuse`` and ``applied`` are for the tests."""

    def __init__(self) -> None:
        self.num_at_once = self.most_at_once = 0
        self.asked: list[dict[str, Any]] = []
        self.secrets: list[str | None] = []
        self.refuse: Callable[[int], Response | None] = lambda number: None
        self.applied: Callable[[Any], Sequence[str]] = lambda adapter: [adapter] if adapter else []
        self.first_text = "ü"
        self.is_cut_short = False

    async def generate(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append(body)
        self.secrets.append(request.headers.get("authorization"))
        if refusal := self.refuse(len(self.asked)):
            return refusal
        return StreamingResponse(self._stream(body), media_type="text/event-stream")

    async def _stream(self, body: dict[str, Any]) -> AsyncIterator[bytes]:
        self.num_at_once += 1
        self.most_at_once = max(self.most_at_once, self.num_at_once)
        for text in ("", self.first_text, '"]}\r\n'):
            await asyncio.sleep(PAUSE_S)
            yield event({"text": text})
        self.num_at_once -= 1
        if not self.is_cut_short:
            receipt = {
                "adapters": [{"name": name} for name in self.applied(body["adapter"])],
                "mode": "fused",
                "queue_ms": 7.0,
            }
            usage = {"prompt_tokens": 2, "completion_tokens": body["parameters"]["max_new_tokens"]}
            yield event({"text": "", "finish_reason": "length", "usage": usage, "receipt": receipt})
            yield b"data: [DONE]\n\n"


def event(value: object) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


@contextmanager
def serving(answers: Answers) -> Iterator[int]:
    app = Starlette(routes=[Route("/generate", answers.generate, methods=["POST"])])
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


def load(answers: Answers, arrivals: Sequence[Arrival], *, concurrency: int | None = 2, num_keys: int = 1) -> Load:
    with serving(answers) as port:
        return run_load("127.0.0.1", port, ShiraDialect(num_keys=num_keys), arrivals, concurrency=concurrency)


def test_every_request_is_answered_and_timed_from_its_first_text() -> None:
    got = load(Answers(), [arrival("a"), arrival(), arrival("b", num_new_tokens=9)])
    assert {(one.arrival.adapter, one.finished.num_tokens) for one in got.answered} == {("a", 3), (None, 3), ("b", 9)}
    assert got.failures == {}
    for one in got.answered:
        assert 2 * PAUSE_S <= one.first_text_s < one.total_s  # the empty text does not count
        assert one.total_s >= 3 * PAUSE_S
        assert 0 < one.longest_gap_s < one.total_s
        assert (one.finished.mode, one.finished.queue_ms, one.finished.num_prompt_tokens) == ("fused", 7.0, 2)


def test_a_quotation_mark_is_text_too() -> None:
    answers = Answers()
    answers.first_text = '"'
    (one,) = load(answers, [arrival()]).answered
    assert one.first_text_s < one.total_s - PAUSE_S / 2


def test_a_closed_loop_keeps_as_many_requests_in_flight_as_it_has_clients() -> None:
    answers = Answers()
    got = load(answers, [arrival() for _ in range(9)], concurrency=3)
    assert len(got.answered) == 9
    assert answers.most_at_once == 3


def test_an_open_loop_does_not_wait_for_answers() -> None:
    answers = Answers()
    got = load(answers, [arrival(at_s=0.01 * number) for number in range(6)], concurrency=None)
    assert len(got.answered) == 6
    assert answers.most_at_once == 6


def test_what_is_sent_is_what_was_drawn() -> None:
    answers = Answers()
    load(answers, [arrival("a", key=1)], num_keys=2)
    (asked,) = answers.asked
    assert (asked["adapter"], asked["prompt"], asked["stream"]) == ("a", " a b", True)
    assert asked["parameters"] == {"max_new_tokens": 3, "ignore_eos": True}
    assert answers.secrets == ["Bearer bench-key-1"]


@pytest.mark.parametrize("applied", [[], ["b"], ["a", "b"]])
def test_an_answer_with_another_blend_than_the_one_asked_for_fails_the_run(applied: list[str]) -> None:
    answers = Answers()
    answers.applied = lambda adapter: applied
    with pytest.raises(WrongAnswer, match="asked for adapter a"):
        load(answers, [arrival("a")])


def test_a_closed_loop_client_tries_again_after_the_time_that_the_server_states() -> None:
    answers = Answers()
    refusal = JSONResponse({"error": {"code": "queue_full"}}, 429, {"Retry-After": "0.2"})
    answers.refuse = lambda number: refusal if number <= 2 else None
    got = load(answers, [arrival()])
    assert got.num_refusals == 2
    assert got.failures == {}
    assert got.answered[0].first_text_s > 0.4  # what was refused waited as well


def test_an_open_loop_counts_a_refusal_as_a_failure() -> None:
    answers = Answers()
    answers.refuse = lambda number: JSONResponse({"error": {"code": "queue_full"}}, 429) if number == 1 else None
    got = load(answers, [arrival(at_s=0.0), arrival(at_s=0.0)], concurrency=None)
    assert (got.num_refusals, got.failures, len(got.answered)) == (1, {"429 queue_full": 1}, 1)


def test_errors_are_counted_by_reason() -> None:
    answers = Answers()
    answers.refuse = lambda number: JSONResponse({"error": {"code": "adapter_unavailable"}}, 503)
    assert load(answers, [arrival(), arrival()]).failures == {"503 adapter_unavailable": 2}


def test_a_stream_without_its_end_is_a_failure() -> None:
    answers = Answers()
    answers.is_cut_short = True
    assert load(answers, [arrival()]).failures == {"broken stream": 1}


def test_nobody_listening_is_a_failure_and_no_hang() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    got = run_load("127.0.0.1", port, ShiraDialect(num_keys=1), [arrival()], concurrency=1)
    assert got.failures == {"ConnectionRefusedError": 1}


def test_one_connection_serves_request_after_request() -> None:
    async def ask(port: int) -> list[int]:
        connection = Connection("127.0.0.1", port)
        body = ShiraDialect(num_keys=1).body(arrival())
        try:
            return [(await connection.post("/generate", body)).status for _ in range(2)]
        finally:
            await connection.close()

    with serving(Answers()) as port:
        assert asyncio.run(ask(port)) == [200, 200]


def test_an_answer_of_vllm_names_its_adapter_as_the_model() -> None:
    dialect = VllmDialect()
    asked = dialect.body(arrival("bench-0"))
    assert isinstance(asked, dict)
    assert asked["model"] == "bench-0"
    usage = {"prompt_tokens": 2, "completion_tokens": 3}
    for name, adapter in (("bench-0", "bench-0"), ("base", None)):
        finished = dialect.finished([{"model": name, "choices": []}, {"model": name, "usage": usage}])
        assert (finished.adapter, finished.num_tokens, finished.mode) == (adapter, 3, None)
