"""A real ``shira serve`` process on a random model of a few thousand weights, and what that process holds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.live_server import LiveServer, wait_until
from loadtest.tiny_model import save_tiny_model
from server.api.workers import NUM_ENCODING, NUM_HEAVY, NUM_QUICK, NUM_TOKENISING, NUM_WAITING
from server.app import LOADER_THREADS

CONTEXT_TOKENS = 8192
POOL_THREADS = (
    NUM_QUICK + NUM_TOKENISING + NUM_ENCODING + NUM_HEAVY + NUM_WAITING + LOADER_THREADS
)  # started when needed, however many requests


@contextmanager
def tiny_server(directory: Path, *options: str) -> Iterator[LiveServer]:
    """Its checkpoint is ``directory / "tiny"``, its weights are float32."""
    model = save_tiny_model(directory / "tiny")
    config = model / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_position_embeddings": CONTEXT_TOKENS}))
    with LiveServer(directory / "data", "--model", str(model), *options, redis="off") as live:
        yield live


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    num_files: int
    num_threads: int
    rss_bytes: int


def footprint(server: LiveServer) -> Footprint:
    process = Path("/proc") / str(server.process.pid)
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    return Footprint(
        num_files=len(list((process / "fd").iterdir())),
        num_threads=int(status["Threads"]),
        rss_bytes=int(status["VmRSS"].split()[0]) * 1024,
    )


def state(server: LiveServer) -> dict[str, Any]:
    answer: dict[str, Any] = server.client.get("/admin/state").json()
    return answer


def is_at_rest(server: LiveServer) -> bool:
    """No request, no KV that one uses, no image that is drawn, no hold on an adapter."""
    now = state(server)
    engine = now["engine"]
    return (
        (engine["num_waiting"], engine["num_running"], engine["blends"]) == (0, 0, [])
        and engine["runner"].get("num_used_pages", 0) == 0
        and engine["runner"].get("num_images", 0) == 0
        and now["store"]["claims"] == {}
        and now["store"]["host"]["held_bytes"] == 0
    )


@contextmanager
def nothing_leaks(server: LiveServer, ask: Callable[[], object] | None = None) -> Iterator[None]:
    """Afterwards the server answers as before, over the same base, and holds no more than before. ``ask`` for a text,
    unless told otherwise."""
    ask = ask or (lambda: server.generate()["text"])
    answer = ask()
    before = footprint(server)
    yield
    wait_until(lambda: is_at_rest(server))
    wait_until(lambda: footprint(server).num_files <= before.num_files)
    assert footprint(server).num_threads <= before.num_threads + POOL_THREADS
    assert ask() == answer
    assert "Traceback" not in server.log_path.read_text()
    server.assert_base_intact()
