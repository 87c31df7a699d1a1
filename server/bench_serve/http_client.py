"""A streaming HTTP client that takes as little of the machine as it can: it shares the cores with the server it loads.

One connection, one request at a time. Chunks are not parsed while they come in; the body is taken apart once, at the
end. Works for bodies that are chunked or have a length, which is what the servers of the benchmark send.
"""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

_TEXT = re.compile(rb'"text": ?"[^"]')  # the first event that carries some
MAX_IDLE_S = 2.0  # servers close idle connections, some after 5 s: better not to ask one that is about to
_LAST_CHUNK = b"\r\n0\r\n\r\n"  # JSON escapes line ends, so no event can hold these bytes


@dataclass(slots=True, kw_only=True)
class Response:
    """``first_text_s`` and ``ended_s`` are ``perf_counter`` seconds, ``longest_gap_s`` the longest time between two
    arrivals of bytes from the first text on."""

    status: int
    headers: dict[str, str]
    body: bytes
    first_text_s: float | None
    longest_gap_s: float
    ended_s: float

    @property
    def events(self) -> list[Any]:
        """The JSON events of a stream, without the ``[DONE]`` that must end it. Raises ValueError if it does not."""
        payloads = [line[6:] for line in self.body.split(b"\n") if line.startswith(b"data: ")]
        if not payloads or payloads.pop().strip() != b"[DONE]":
            raise ValueError(f"the stream ended without [DONE]: {self.body[-300:]!r}")
        return [json.loads(payload) for payload in payloads]


class Connection(asyncio.Protocol):
    """Opened by the first ``post``, and again when it was closed or not used for long."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._transport: asyncio.Transport | None = None
        self._incoming: _Incoming | None = None
        self._done: asyncio.Future[None] | None = None
        self._lost = asyncio.Event()
        self._used_s = 0.0

    async def post(self, path: str, body: object, *, secret: str | None = None) -> Response:
        """Raises OSError when the connection fails or ends before the answer does."""
        request = _request(self._host, path, body, secret)
        loop = asyncio.get_running_loop()
        if perf_counter() - self._used_s > MAX_IDLE_S:
            await self.close()
        if self._transport is None:
            await loop.create_connection(lambda: self, self._host, self._port)
        assert self._transport is not None  # noqa: S101 - set by connection_made
        self._incoming, self._done = _Incoming(), loop.create_future()
        try:
            self._transport.write(request)
            await self._done
            self._used_s = self._incoming.last_s
            return self._incoming.response()
        finally:
            self._done = None

    async def close(self) -> None:
        """An answer under way is lost."""
        if self._transport is not None:
            self._transport.abort()
            await self._lost.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101
        self._transport = transport
        self._lost.clear()

    def data_received(self, data: bytes) -> None:
        if self._incoming is None or self._done is None or self._done.done():
            return  # after the answer: nothing was asked
        self._incoming.add(data, perf_counter())
        if self._incoming.is_complete:
            self._done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._lost.set()
        if self._done is not None and not self._done.done():
            self._done.set_exception(exc or ConnectionResetError("the server closed the connection before the end"))


@dataclass(slots=True)
class _Incoming:
    data: bytearray = field(default_factory=bytearray)
    header_end: int = 0  # 0: not there yet
    content_length: int | None = None  # None: chunked
    first_text_s: float | None = None
    last_s: float = 0.0
    longest_gap_s: float = 0.0

    def add(self, data: bytes, now_s: float) -> None:
        self.data += data
        if self.first_text_s is not None:
            self.longest_gap_s = max(self.longest_gap_s, now_s - self.last_s)
        elif _TEXT.search(self.data):
            self.first_text_s = now_s
        self.last_s = now_s
        if not self.header_end:
            self._find_headers()

    def _find_headers(self) -> None:
        end = self.data.find(b"\r\n\r\n")
        if end >= 0:
            self.header_end = end + 4
            length = self._headers().get("content-length")
            self.content_length = None if length is None else int(length)

    def _headers(self) -> dict[str, str]:
        lines = self.data[: self.header_end].decode("latin-1").split("\r\n")[1:]
        pairs = (line.partition(":") for line in lines if line)
        return {name.strip().lower(): value.strip() for name, _, value in pairs}

    @property
    def is_complete(self) -> bool:
        if not self.header_end:
            return False
        if self.content_length is not None:
            return len(self.data) >= self.header_end + self.content_length
        return self.data.endswith(_LAST_CHUNK)

    def response(self) -> Response:
        body = bytes(self.data[self.header_end :])
        return Response(
            status=int(self.data.split(b" ", 2)[1]),
            headers=self._headers(),
            body=body if self.content_length is not None else _dechunk(body),
            first_text_s=self.first_text_s,
            longest_gap_s=self.longest_gap_s,
            ended_s=self.last_s,
        )


def _dechunk(body: bytes) -> bytes:
    pieces, at = [], 0
    while size := int(body[at : (line_end := body.index(b"\r\n", at))].partition(b";")[0], 16):
        pieces.append(body[line_end + 2 : line_end + 2 + size])
        at = line_end + size + 4
    return b"".join(pieces)


def _request(host: str, path: str, body: object, secret: str | None) -> bytes:
    content = json.dumps(body).encode()
    authorization = f"Authorization: Bearer {secret}\r\n" if secret else ""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n{authorization}"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content
