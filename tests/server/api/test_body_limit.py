from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from server.api import body_limit
from tests.server.api.rig import error_of, rig

pytestmark = pytest.mark.anyio

JSON = {"content-type": "application/json"}
MULTIPART = {"content-type": "multipart/form-data; boundary=x"}


async def pieces(num_pieces: int, piece: bytes = b"x" * 1024) -> AsyncIterator[bytes]:
    for _ in range(num_pieces):
        yield piece


@pytest.mark.parametrize(("path", "headers"), [("/generate", JSON), ("/adapters", MULTIPART), ("/nowhere", JSON)])
async def test_a_body_announced_as_too_large_is_refused_unread(
    path: str, headers: dict[str, str], tmp_path: Path
) -> None:
    async with rig(tmp_path, max_body_bytes=2048) as server:
        error = error_of(await server.client.post(path, content=b"x" * 2049, headers=headers), 413)
        assert (error["code"], "2048 bytes" in error["message"]) == ("body_too_large", True)


@pytest.mark.parametrize(("path", "headers"), [("/generate", JSON), ("/adapters", MULTIPART)])
async def test_a_body_of_no_announced_length_is_refused_when_it_gets_too_large(
    path: str, headers: dict[str, str], tmp_path: Path
) -> None:
    async with rig(tmp_path, max_body_bytes=2048) as server:
        start = b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\n'

        async def endless() -> AsyncIterator[bytes]:
            yield start if path == "/adapters" else b'{"prompt": "'
            async for piece in pieces(1_000_000):
                yield piece

        error_of(await server.client.post(path, content=endless(), headers=headers), 413)
        assert list((tmp_path / "data").glob("scratch/*")) == []


async def test_a_json_body_has_a_limit_of_its_own_below_that_of_uploads(tmp_path: Path) -> None:
    async with rig(tmp_path) as server:
        large = {"prompt": "x" * body_limit.MAX_JSON_BYTES}
        error_of(await server.client.post("/generate", json=large), 413)


@pytest.mark.parametrize("length", ["-1", "x", "1e3", "²"])
async def test_a_length_that_is_no_number_is_refused(length: str, tmp_path: Path) -> None:
    async with rig(tmp_path) as server:
        headers = {**JSON, "content-length": length.encode("utf-8")}
        error_of(await server.client.post("/generate", content=b"{}", headers=headers), 400)  # type: ignore[arg-type]


async def test_a_body_that_stops_arriving_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_limit, "MAX_SILENCE_S", 0.05)
    async with rig(tmp_path) as server:
        import anyio

        async def stalls() -> AsyncIterator[bytes]:
            yield b'{"prompt"'
            await anyio.sleep(60)

        response = await server.client.post("/generate", content=stalls(), headers=JSON)
        assert error_of(response, 408)["code"] == "request_timeout"
