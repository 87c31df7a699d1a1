"""What the composition root checks before it loads anything, and has running before it serves."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from adapters_store.store import AdapterStore
from loadtest.tiny_model import save_tiny_model
from server.api.services import Services
from server.app import LOADER_THREADS, NotListening, build_app, check_address, reread_on_hangup
from server.core.config import load_config
from server.core.key_ring import KeyRing
from server.core.settings import ServerConfig


def test_an_address_that_is_taken_is_refused_naming_it_and_the_flags(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config = load_config({"port": str(port), "data_dir": str(tmp_path)}, {})
        with pytest.raises(NotListening, match=f"127.0.0.1:{port}: .*--port"):
            check_address(config)
    check_address(config)


@pytest.fixture
def hangup() -> Iterator[None]:
    """Whatever is done on SIGHUP meanwhile."""
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hangup")
def test_a_hangup_is_heard_while_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """The handler started one, and what it raised ended the server."""
    read = threading.Event()

    def reload() -> ServerConfig:
        read.set()
        return load_config({}, {"HOME": "/"})

    reread_on_hangup(KeyRing(load_config({}, {"HOME": "/"}), reload))
    monkeypatch.setattr(threading.Thread, "start", refuse)
    signal.raise_signal(signal.SIGHUP)
    assert read.wait(timeout=10)


def refuse(*_: object) -> None:
    raise RuntimeError("can't start new thread")


@pytest.mark.slow
def test_every_loader_thread_runs_before_the_first_request(tmp_path: Path) -> None:
    """Where memory for one more was refused later, the engine died: found by ``make chaos``."""
    with TestClient(tiny_app(tmp_path)):
        names = [thread.name for thread in threading.enumerate()]
        assert sum(name.startswith("loader") for name in names) == LOADER_THREADS


@pytest.mark.slow
def test_a_start_that_fails_half_way_leaves_nothing_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store stayed open, its Redis and its lock with it."""
    with monkeypatch.context() as without_threads:
        without_threads.setattr("server.app.start_all", refuse)
        with pytest.raises(RuntimeError, match="new thread"), TestClient(tiny_app(tmp_path)):
            raise AssertionError("it started")
    with TestClient(tiny_app(tmp_path), base_url="http://127.0.0.1") as client:
        assert client.get("/readyz").status_code == 200


@pytest.mark.slow
def test_deletes_that_outlive_their_request_end_before_the_store_closes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They could remove files of a data directory that was another process's by then."""
    app = tiny_app(tmp_path)
    services: Services = app.state.services
    close, ended = AdapterStore.close, []

    def close_noting(store: AdapterStore) -> None:
        ended.append("store")
        close(store)

    async def free() -> None:
        await asyncio.wrap_future(app.state.engine_ended)
        await asyncio.sleep(0.01)
        ended.append("delete")

    async def begin() -> None:
        services.background.start(free())

    monkeypatch.setattr(AdapterStore, "close", close_noting)
    with TestClient(app) as client:
        assert client.portal is not None
        client.portal.call(begin)
    assert ended == ["delete", "store"]


def tiny_app(folder: Path) -> FastAPI:
    model = folder / "model"
    if not model.exists():
        save_tiny_model(model)
    settings = {"model": str(model), "data_dir": folder / "data", "redis": "off", "device": "cpu", "calibrate": False}
    return build_app(load_config(settings, {}))
