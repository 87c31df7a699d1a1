"""The application behind a real uvicorn on a loopback socket, in a thread of the test's process."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import uvicorn

from adapters_store.store import AdapterStore
from server.api.app import build_api
from server.api.services import Services
from server.core.config import load_config
from server.core.pictures import PictureInfo
from tests.server.api.rig import make_services
from tests.server.fakes import FakeEngine

TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    port: int
    url: str
    engine: FakeEngine
    store: AdapterStore
    services: Services
    loop: asyncio.AbstractEventLoop

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=TIMEOUT_S)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT_S)

    def wait_until(self, is_true: Callable[[], bool]) -> None:
        """Looks on the server's own loop, between its callbacks."""

        async def look() -> None:
            async with asyncio.timeout(TIMEOUT_S):
                while not is_true():  # noqa: ASYNC110 - what is waited for has no event of its own
                    await asyncio.sleep(0.005)

        asyncio.run_coroutine_threadsafe(look(), self.loop).result()


@contextmanager
def live(
    data_dir: Path, pictures: PictureInfo | None = None, engine: FakeEngine | None = None, **settings: object
) -> Iterator[Live]:
    with_keys = {"SHIRA_API_KEYS": str(settings.pop("api_keys"))} if "api_keys" in settings else {}
    config = load_config({"data_dir": data_dir, "redis": "off", **settings}, with_keys)
    services, store, engine = make_services(config, pictures, engine)
    listener = socket.create_server(("127.0.0.1", 0))
    port: int = listener.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(build_api(services), log_config=None, timeout_graceful_shutdown=1))
    loops: list[asyncio.AbstractEventLoop] = []
    started = threading.Event()

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        started.set()
        await server.serve(sockets=[listener])

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        started.wait(TIMEOUT_S)
        url = f"http://127.0.0.1:{port}"
        yield Live(port=port, url=url, engine=engine, store=store, services=services, loop=loops[0])
    finally:
        server.should_exit = True
        thread.join(TIMEOUT_S)
        listener.close()
        store.close()
