"""What only a real socket can show: clients that vanish, and bodies that are not what was announced."""

from __future__ import annotations

import asyncio
import json
import random
import re
import socket
import threading
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import httpx
import pytest

from server.api import stalled_readers
from server.core.requests import GenerationRequest, Picture
from server.engine.mailbox import Mailbox
from server.engine.messages import Event, ImageEvent, ProgressEvent, TextEvent
from tests.adapters_store.small_adapters import small_adapter
from tests.server.api.rig import PICTURES, error_of, native_file, sse_events
from tests.server.fakes import FINGERPRINT, FakeEngine, finish
from tests.server.live import Live, live


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live(tmp_path_factory.mktemp("live") / "data", max_body_bytes="64KiB") as running:
        yield running


@pytest.fixture(autouse=True)
def still_serves_and_holds_nothing(server: Live) -> Iterator[None]:
    yield
    server.engine.script = None
    with server.client() as client:
        assert client.post("/generate", json={"prompt": "x"}).json()["text"] == "Hello world"
    server.wait_until(lambda: server.store.describe()["claims"] == {})
    scratch = server.services.config.data_dir / "scratch"
    server.wait_until(lambda: not scratch.exists() or not any(scratch.iterdir()))


def push(server: Live, tmp_path: Path) -> None:
    data = native_file(tmp_path, small_adapter(base=FINGERPRINT))
    with server.client() as client:
        assert client.post("/adapters", data={"name": "a"}, files={"file": data}).status_code in (200, 201)


def request_bytes(path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def answer_of(connection: socket.socket) -> bytes:
    """Everything until the server closes."""
    pieces = []
    while piece := connection.recv(65536):
        pieces.append(piece)
    return b"".join(pieces)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("texts", [0, 2])
def test_a_client_that_goes_away_aborts_its_request(*, stream: bool, texts: int, server: Live, tmp_path: Path) -> None:
    push(server, tmp_path)
    server.engine.script = [*[TextEvent(text="x")] * texts, asyncio.Event()]
    num_aborted = len(server.engine.aborted)
    aborts = server.services.metrics.requests.labels("/generate", "aborted")
    before = aborts._value.get()
    body = json.dumps({"prompt": "x", "adapter": "a", "stream": stream}).encode()
    with server.connect() as connection:
        length = f"Content-Length: {len(body)}"
        connection.sendall(request_bytes("/generate", body, "Content-Type: application/json", length))
        server.wait_until(lambda: not server.engine.waits.empty())
        server.engine.waits.get_nowait()
    server.wait_until(lambda: len(server.engine.aborted) == num_aborted + 1)
    server.wait_until(lambda: aborts._value.get() == before + 1)


def test_a_client_that_stops_reading_is_sent_no_more_than_buffers_hold_and_then_counts_as_gone(
    server: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It kept its adapters held for as long as it cared to stay connected."""
    monkeypatch.setattr(stalled_readers, "MAX_STALL_S", 0.5)
    push(server, tmp_path)
    taken = []

    class Endless:
        def __iter__(self) -> Iterator[TextEvent]:
            for _ in range(4000):  # 80 MB
                taken.append(1)
                yield TextEvent(text="x" * 20_000)

    server.engine.script = Endless()  # type: ignore[assignment]
    num_aborted = len(server.engine.aborted)
    body = json.dumps({"prompt": "x", "adapter": "a", "stream": True}).encode()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        length = f"Content-Length: {len(body)}"
        connection.sendall(request_bytes("/generate", body, "Content-Type: application/json", length))
        server.wait_until(lambda: len(server.engine.aborted) == num_aborted + 1)
        server.wait_until(lambda: server.store.describe()["claims"] == {})
    assert len(taken) < 1000


def test_a_stream_arrives_piece_by_piece(server: Live) -> None:
    go_on = asyncio.Event()
    server.engine.script = [TextEvent(text="first"), go_on, TextEvent(text="second")]
    body = {"prompt": "x", "stream": True}
    with server.client() as client, client.stream("POST", "/generate", json=body) as response:
        frames = response.iter_text()
        assert sse_events(next(frames)) == [{"text": "first"}]
        server.loop.call_soon_threadsafe(go_on.set)
        rest = sse_events("".join(frames))
    assert rest[0] == {"text": "second"}
    assert rest[-1] == "[DONE]"


@pytest.mark.parametrize("framing", ["Content-Length: 60000", "Transfer-Encoding: chunked"])
def test_a_client_that_vanishes_in_the_middle_of_an_upload_leaves_nothing(framing: str, server: Live) -> None:
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n' + b"x" * 5000
    body = b"%x\r\n%b\r\n" % (len(part), part) if "chunked" in framing else part
    uploads = server.services.metrics.uploads.labels("aborted")
    before = uploads._value.get()
    with server.connect() as connection:
        headers = ("Content-Type: multipart/form-data; boundary=b", framing)
        connection.sendall(request_bytes("/adapters", body, *headers))
        scratch = server.services.config.data_dir / "scratch"
        server.wait_until(lambda: scratch.exists() and any(scratch.iterdir()))
    server.wait_until(lambda: uploads._value.get() == before + 1)


def test_a_chunked_body_past_the_limit_is_refused_while_it_arrives(server: Live) -> None:
    with server.connect() as connection:
        headers = ("Content-Type: multipart/form-data; boundary=b", "Transfer-Encoding: chunked", "Connection: close")
        part = b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\n'
        chunk = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
        first = b"%x\r\n%b\r\n" % (len(part), part)
        connection.sendall(request_bytes("/adapters", first + chunk * 5, *headers))
        answer = answer_of(connection)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"65536 bytes" in answer


def test_a_body_larger_than_announced_is_cut_at_what_was_announced(server: Live) -> None:
    body = b'{"prompt": "x"}'
    with server.connect() as connection:
        headers = ("Content-Type: application/json", f"Content-Length: {len(body)}")
        connection.sendall(request_bytes("/generate", body + b"x" * 2000 + b"\r\n\r\n", *headers))
        answer = answer_of(connection)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/1.1 400 " in answer


def test_a_body_shorter_than_announced_is_no_request(server: Live) -> None:
    num_requests = len(server.engine.requests)
    with server.connect() as connection:
        headers = ("Content-Type: application/json", "Content-Length: 1000")
        connection.sendall(request_bytes("/generate", b'{"prompt": "x"}', *headers))
    assert len(server.engine.requests) == num_requests


def test_two_lengths_in_one_request_are_refused(server: Live) -> None:
    with server.connect() as connection:
        headers = ("Content-Type: application/json", "Content-Length: 15", "Content-Length: 16", "Connection: close")
        connection.sendall(request_bytes("/generate", b'{"prompt": "x"}', *headers))
        assert answer_of(connection).startswith(b"HTTP/1.1 400 ")


def test_an_announced_length_past_the_limit_is_refused_before_the_body_is_sent(server: Live) -> None:
    with server.connect() as connection:
        headers = ("Content-Type: multipart/form-data; boundary=b", f"Content-Length: {2**40}", "Connection: close")
        connection.sendall(request_bytes("/adapters", b"", *headers))
        assert answer_of(connection).startswith(b"HTTP/1.1 413 ")


def test_many_uploads_and_deletes_at_once_leave_a_server_that_serves(server: Live, tmp_path: Path) -> None:
    files = [native_file(tmp_path, small_adapter(values=values, base=FINGERPRINT)) for values in range(4)]

    async def storm() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
            calls = []
            for turn in range(12):
                name = f"s{turn % 3}"
                files_of_turn = {"file": files[turn % 4]}
                calls.append(client.post("/adapters", data={"name": name}, files=files_of_turn))
                calls.append(client.post("/generate", json={"prompt": "x", "adapter": name}))
                calls.append(client.delete(f"/adapters/{name}"))
            return await asyncio.gather(*calls)

    for response in asyncio.run(storm()):
        assert response.status_code in (200, 201, 404)
        if response.status_code == 404:
            assert error_of(response, 404)["code"] == "adapter_not_found"


class SteadyPainter(FakeEngine):
    """Draws on whether or not anybody reads, through the engine's own mailbox. Previews of noise, a MB each."""

    num_steps = 100

    def __init__(self) -> None:
        super().__init__()
        self.is_done = threading.Event()

    async def generate(self, *requests: GenerationRequest) -> AsyncGenerator[tuple[int, Event], None]:
        mailbox = Mailbox()
        noise = Picture(width=512, height=512, rgb=random.Random(0).randbytes(3 * 512 * 512))

        async def paint() -> None:
            for step in range(1, self.num_steps + 1):
                mailbox.put(0, ProgressEvent(num_done=step, num_steps=self.num_steps, preview=noise))
                await asyncio.sleep(0.01)
            mailbox.put(0, finish(requests[0]))
            self.is_done.set()

        painting = asyncio.create_task(paint())
        try:
            async for event in _until_the_end(mailbox):
                yield event
        finally:
            painting.cancel()


async def _until_the_end(mailbox: Mailbox) -> AsyncGenerator[tuple[int, Event], None]:
    while True:
        place, event = await mailbox.get()
        yield place, event
        if isinstance(event, ImageEvent):
            return


def test_a_slow_reader_of_previews_misses_some_and_gets_the_latest_and_the_picture(tmp_path: Path) -> None:
    painter = SteadyPainter()
    body = json.dumps({"prompt": "x", "stream": True, "parameters": {"previews": 1}}).encode()
    with live(tmp_path / "data", PICTURES, painter) as server, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        headers = ("Content-Type: application/json", f"Content-Length: {len(body)}", "Connection: close")
        connection.sendall(request_bytes("/generate", body, *headers))
        assert painter.is_done.wait(10)  # it waited for no reader
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**20)
        answer = answer_of(connection)
    steps = [int(number) for number in re.findall(rb'"step":(\d+)', answer)]
    assert len(steps) < painter.num_steps / 4
    assert steps == sorted(set(steps))
    assert steps[-1] == painter.num_steps
    assert b'"images":[{' in answer
    assert b"data: [DONE]" in answer
    assert len(answer) < painter.num_steps / 4 * 2**20


def test_a_client_that_goes_away_aborts_all_its_pictures(tmp_path: Path) -> None:
    with live(tmp_path / "data", PICTURES) as server:
        server.engine.script = [ProgressEvent(num_done=1, num_steps=4), asyncio.Event()]
        body = json.dumps({"prompt": "x", "stream": True, "parameters": {"num_images": 3}}).encode()
        with server.connect() as connection:
            headers = ("Content-Type: application/json", f"Content-Length: {len(body)}")
            connection.sendall(request_bytes("/generate", body, *headers))
            server.wait_until(lambda: not server.engine.waits.empty())
        server.wait_until(lambda: len(server.engine.aborted) == 3)
