"""A large answer is taken in pieces: slowly is not never."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.responses import Response
from starlette.types import Message

from server.api import stalled_readers
from server.api.outcomes import OUTCOME
from server.api.stalled_readers import PIECE_BYTES, StalledReaders

pytestmark = pytest.mark.anyio

BODY = bytes(range(256)) * 4096  # a MiB
STALL_S = 0.3


@pytest.mark.parametrize("num_bytes", [0, 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES, len(BODY)])
async def test_the_pieces_are_the_answer(num_bytes: int) -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await answer(BODY[:num_bytes], send)
    start, *pieces = sent
    assert start["headers"] == [(b"content-length", str(num_bytes).encode())]
    assert b"".join(piece["body"] for piece in pieces) == BODY[:num_bytes]
    assert max(len(piece["body"]) for piece in pieces) <= PIECE_BYTES
    assert [piece.get("more_body", False) for piece in pieces] == [True] * (len(pieces) - 1) + [False]


async def test_a_reader_who_takes_a_large_answer_slowly_is_not_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The budget was for all of it: a picture of some megabytes was more than a slow connection takes in it."""
    monkeypatch.setattr(stalled_readers, "MAX_STALL_S", STALL_S)

    async def send(message: Message) -> None:
        await asyncio.sleep(len(message.get("body", b"")) / len(BODY) * 2 * STALL_S)

    assert OUTCOME not in await answer(BODY, send)


async def test_a_reader_who_stops_in_the_middle_of_an_answer_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stalled_readers, "MAX_STALL_S", STALL_S)
    taken: list[Message] = []

    async def send(message: Message) -> None:
        taken.append(message)
        if len(taken) == 3:
            await asyncio.Event().wait()

    assert (await answer(BODY, send))[OUTCOME] == "aborted"


async def answer(body: bytes, send: Any) -> dict[str, Any]:
    """The scope after all that is sent of it was sent."""

    async def receive() -> Message:
        raise AssertionError("nothing is read")

    scope: dict[str, Any] = {"type": "http", "path": "/"}
    await StalledReaders(Response(body))(scope, receive, send)
    return scope
