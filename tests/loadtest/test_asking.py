"""How a request ends, against a server that answers in every way a server can."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic, sleep
from typing import Any

import pytest

from loadtest.asking import Asker, http_client
from loadtest.names import Names
from loadtest.outcomes import Outcome
from loadtest.stock import Stock
from loadtest.trace import TextRow

LAST = {
    "text": "",
    "finish_reason": "length",
    "usage": {"prompt_tokens": 3, "completion_tokens": 2},
    "receipt": {"adapters": [], "mode": "fused", "switch_ms": 1.5, "queue_ms": 0.5},
}
FIRST = b'data: {"text":"a"}\n\n'
WHOLE = FIRST + b"data: " + json.dumps(LAST).encode() + b"\n\ndata: [DONE]\n\n"


class SlowNames(Names):
    def possible(self, name: str, *, since_s: float) -> set[str]:
        sleep(0.5)
        return {"v1"}


def failure(code: str) -> bytes:
    return json.dumps({"error": {"type": "t", "code": code, "message": "m", "param": None}}).encode()


def ask(status: int, *pieces: bytes, pause_s: float = 0.0, headers: Any = (), **row: Any) -> Outcome:
    """Of a server that sends ``pieces`` with pauses before each but the first, and closes."""
    with answering(status, pieces, pause_s, dict(headers)) as url, http_client(url) as client:
        stock = Stock(servers={}, words=(" a",), captions=())
        asker = Asker(stock, SlowNames({}), start_s=monotonic())
        return asker.text(client, TextRow(offset_s=0, prompt_tokens=3, output_tokens=2, **row))


@contextmanager
def answering(status: int, pieces: tuple[bytes, ...], pause_s: float, headers: dict[str, str]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            for number, piece in enumerate(pieces):
                sleep(pause_s if number else 0)
                try:
                    self.wfile.write(piece)
                except OSError:  # the client has left
                    return

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class calls it so
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_stream_is_answered_and_timed() -> None:
    outcome = ask(200, FIRST, WHOLE.removeprefix(FIRST), pause_s=0.2)
    assert (outcome.ending, outcome.num_tokens, outcome.switch_ms) == ("answered", 2, 1.5)
    assert outcome.first_text_s is not None
    assert outcome.first_text_s < 0.2 <= outcome.total_s
    assert outcome.token_s == pytest.approx(outcome.total_s - outcome.first_text_s)


def test_a_whole_answer_has_no_first_token() -> None:
    outcome = ask(200, json.dumps(LAST).encode(), stream=False)
    assert (outcome.ending, outcome.first_text_s, outcome.token_s) == ("answered", None, None)


@pytest.mark.parametrize("pieces", [(FIRST,), (), (WHOLE[: len(WHOLE) // 2],), (b"data: " + failure("draining"),)])
def test_a_stream_that_breaks_off_is_lost(pieces: tuple[bytes, ...]) -> None:
    assert ask(200, *pieces).ending == "lost"


def test_an_answer_that_is_shorter_than_it_says_is_lost() -> None:
    assert ask(200, b"{", headers={"content-length": "1000"}, stream=False).ending == "lost"


@pytest.mark.parametrize(
    ("body", "ending"),
    [
        (b"data: [DONE]\n\n", "wrong"),
        (b"data: 7\n\ndata: [DONE]\n\n", "wrong"),
        (b'data: [{"error": 1}]\n\ndata: [DONE]\n\n', "wrong"),
        (b'data: {"error": {}}\n\n', "lost"),
        (b'data: {"error": "draining"}\n\n', "lost"),
        (b"data: " + 10_000 * b"[" + b"\n\ndata: [DONE]\n\n", "lost"),
        (WHOLE.replace(b'"adapters": []', b'"adapters": 7'), "wrong"),
    ],
    ids=["nothing", "a number", "a list", "an empty error", "a word for an error", "deep", "a receipt of another kind"],
)
def test_whatever_a_stream_holds_has_an_outcome(body: bytes, ending: str) -> None:
    assert ask(200, body).ending == ending


@pytest.mark.parametrize(("body", "ending"), [(b"7", "wrong"), (b"null", "wrong"), (b"[]", "wrong"), (b"{", "lost")])
def test_whatever_a_whole_answer_holds_has_an_outcome(body: bytes, ending: str) -> None:
    assert ask(200, body, stream=False).ending == ending


def test_a_request_ends_with_its_last_byte_however_long_the_answer_is_checked() -> None:
    receipt = b'"adapters": [{"name": "kjv", "scale": 1.0, "version": "v1"}]'
    outcome = ask(200, WHOLE.replace(b'"adapters": []', receipt), adapters=("kjv",))
    assert outcome.ending == "answered"
    assert outcome.total_s < 0.4


def test_an_engine_that_died_has_lost_what_it_accepted() -> None:
    assert ask(503, failure("engine_died")).ending == "lost"
    assert ask(503, failure("out_of_memory")).ending == "refused"


def test_a_server_that_is_not_there_has_lost_the_request() -> None:
    asker = Asker(Stock(servers={}, words=(" a",), captions=()), Names({}), start_s=monotonic())
    with answering(200, (), 0.0, {}) as url:
        pass
    with http_client(url) as client:
        assert asker.text(client, TextRow(offset_s=0, prompt_tokens=3, output_tokens=2)).ending == "lost"


def test_refusals_are_told_from_other_errors() -> None:
    refused = ask(429, failure("queue_full"), headers={"retry-after": "1"})
    assert (refused.ending, refused.detail) == ("refused", "queue_full")
    assert ask(200, FIRST, b"data: " + failure("deadline_exceeded") + b"\n\n").ending == "refused"
    assert ask(500, failure("internal_error")).ending == "wrong"
    assert ask(404, failure("adapter_not_found")).ending == "wrong"


def test_an_answer_of_another_adapter_is_wrong() -> None:
    outcome = ask(200, WHOLE, adapters=("kjv",))
    assert outcome.ending == "wrong"
    assert "expected ['kjv'], got []" in outcome.detail
    assert ask(200, WHOLE.replace(b'"receipt"', b'"recipe"')).ending == "wrong"


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_hangs_up_leaves_at_its_time(stream: bool) -> None:
    outcome = ask(200, *[FIRST] * 10, pause_s=0.1, hang_up_s=0.25, stream=stream)
    assert outcome.ending == "left"
    assert 0.2 < outcome.total_s < 0.8


def test_who_would_hang_up_later_than_the_answer_comes_is_answered() -> None:
    assert ask(200, WHOLE, hang_up_s=5.0).ending == "answered"
