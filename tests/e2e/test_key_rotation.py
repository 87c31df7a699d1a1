"""Keys are exchanged while the server runs: SIGHUP, and nobody is disconnected."""

from __future__ import annotations

import signal
from pathlib import Path

import httpx
import pytest

from loadtest.live_server import wait_until
from tests.e2e.tiny_server import tiny_server
from tests.server.api.rig import sse_events
from tests.server.core.test_key_ring import write_keys

LONG = {"prompt": "Once", "stream": True, "parameters": {"max_new_tokens": 1500, "ignore_eos": True}}


@pytest.mark.slow
def test_a_key_is_exchanged_without_a_restart_and_without_cutting_an_answer(tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    write_keys(keys, "old")
    with tiny_server(tmp_path, "--api-keys-file", str(keys)) as server:

        def status(secret: str) -> int:
            return server.client.get("/adapters", headers={"Authorization": f"Bearer {secret}"}).status_code

        assert (status("old"), status("new")) == (200, 401)
        old = {"Authorization": "Bearer old"}
        with httpx.stream("POST", f"{server.client.base_url}/generate", json=LONG, headers=old, timeout=60) as answer:
            write_keys(keys, "new")
            server.process.send_signal(signal.SIGHUP)
            wait_until(lambda: status("new") == 200)
            assert status("old") == 401
            *_, last, done = sse_events(answer.read().decode())
        assert (last["finish_reason"], done) == ("length", "[DONE]")
        keys.write_text("[[keys]")
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "the API keys stay as they were" in server.log_path.read_text())
        assert status("new") == 200
