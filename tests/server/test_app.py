"""What the composition root checks before it loads anything, and has running before it serves."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from loadtest.tiny_model import save_tiny_model
from server.app import LOADER_THREADS, NotListening, build_app, check_address
from server.core.config import load_config


def test_an_address_that_is_taken_is_refused_naming_it_and_the_flags(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config = load_config({"port": str(port), "data_dir": str(tmp_path)}, {})
        with pytest.raises(NotListening, match=f"127.0.0.1:{port}: .*--port"):
            check_address(config)
    check_address(config)


@pytest.mark.slow
def test_every_loader_thread_runs_before_the_first_request(tmp_path: Path) -> None:
    """Where memory for one more was refused later, the engine died: found by ``make chaos``."""
    model = save_tiny_model(tmp_path / "model")
    settings = {"model": str(model), "data_dir": tmp_path / "data", "redis": "off", "device": "cpu", "calibrate": False}
    with TestClient(build_app(load_config(settings, {}))):
        names = [thread.name for thread in threading.enumerate()]
        assert sum(name.startswith("loader") for name in names) == LOADER_THREADS
