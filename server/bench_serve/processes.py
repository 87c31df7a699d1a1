"""Servers under test as processes of their own: start, wait until ready, stop."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx

from server.core.errors import ServerError

READY_TIMEOUT_S = 900.0
STOP_TIMEOUT_S = 60.0
LOG_TAIL_CHARS = 2000


class ServerFailed(ServerError):
    """A server under test did not start, or ended by itself."""


class ServerProcess:
    """Started by the constructor; ``stop`` in any case."""

    def __init__(self, command: Sequence[str], *, environment: Mapping[str, str], log: Path) -> None:
        self._name, self._log = command[0], log
        with log.open("wb") as file:
            self._process = subprocess.Popen(command, env=environment, stdout=file, stderr=file)

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_until_ready(self, url: str) -> None:
        """Until ``url`` answers 200. Raises ServerFailed."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline:
            self.check_running()
            try:
                if httpx.get(url, trust_env=False).status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        raise ServerFailed(f"{self._name}: not ready within {READY_TIMEOUT_S:.0f} s:\n{self._tail()}")

    def check_running(self) -> None:
        """Raises ServerFailed."""
        if self._process.poll() is not None:
            raise ServerFailed(f"{self._name}: ended with {self._process.returncode}:\n{self._tail()}")

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(timeout=STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _tail(self) -> str:
        return self._log.read_text(errors="replace")[-LOG_TAIL_CHARS:]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
