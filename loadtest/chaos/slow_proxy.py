"""A TCP proxy that passes bytes on late, and now and then not for a while."""

from __future__ import annotations

import asyncio
import random
from threading import Event, Thread
from types import TracebackType
from typing import Self

CHUNK_BYTES = 64 * 1024


class SlowProxy:
    """In a thread of its own. ``delay_s`` and ``stall_s`` may be changed at any time; a stall comes before one chunk in
    ``stall_every`` (drawn)."""

    def __init__(self, target_port: int, *, seed: int = 0) -> None:
        self.delay_s = self.stall_s = 0.0
        self.stall_every = 20
        self._target_port = target_port
        self._dice = random.Random(seed)
        self._ready = Event()
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port: int = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101
        self._tasks.add(task)
        try:
            to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
            await asyncio.gather(self._pass_on(reader, to_writer), self._pass_on(to_reader, writer))
        except OSError:
            writer.close()
        finally:
            self._tasks.discard(task)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(CHUNK_BYTES):
                is_stalled = self.stall_s and self._dice.randrange(self.stall_every) == 0
                await asyncio.sleep(self.stall_s if is_stalled else self.delay_s)
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()
