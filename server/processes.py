"""Servers as processes of their own: start, wait until ready, stop."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import httpx

from server.core.config import ENV_PREFIX
from server.core.errors import ServerError

READY_TIMEOUT_S = 900.0  # the first start converts the base model
STOP_TIMEOUT_S = 60.0
LOG_TAIL_CHARS = 2000


class ServerFailed(ServerError):
    """A server that was started did not get ready, or ended by itself."""


class ServerProcess:
    """Started by the constructor; ``stop`` in any case. Without a ``log`` it prints where this process does."""

    def __init__(self, command: Sequence[str], *, environment: Mapping[str, str], log: Path | None) -> None:
        self._name, self._log = command[0], log
        with log.open("ab") if log is not None else nullcontext() as file:
            self.popen = subprocess.Popen(command, env=environment, stdout=file, stderr=file)

    @property
    def pid(self) -> int:
        return self.popen.pid

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
            time.sleep(0.1)
        raise ServerFailed(f"{self._name}: not ready within {READY_TIMEOUT_S:.0f} s{self._tail()}")

    def check_running(self) -> None:
        """Raises ServerFailed."""
        if self.popen.poll() is not None:
            raise ServerFailed(f"{self._name}: ended with {self.popen.returncode}{self._tail()}")

    def stop(self) -> int:
        """SIGTERM, and SIGKILL if that does not end it in time; the exit code."""
        self.popen.terminate()
        try:
            return self.popen.wait(timeout=STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            return self.popen.wait()

    def _tail(self) -> str:
        return "" if self._log is None else ":\n" + self._log.read_text(errors="replace")[-LOG_TAIL_CHARS:]


def without_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """An operator's settings (keys, a shared Redis, another address) are not for a server started on the side."""
    return {name: value for name, value in environment.items() if not name.startswith(ENV_PREFIX)}


def free_port() -> int:
    """A loopback port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
