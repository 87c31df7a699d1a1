"""A real ``shira serve`` process, as an operator runs it: killed, started again on the same data, audited."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from server.demo.text import EXAMPLES_BASE
from server.processes import ServerFailed, ServerProcess, free_port, without_settings

REPOSITORY = Path(__file__).parents[1]
MODELS_DIR = REPOSITORY / ".cache" / "models"  # the default base is converted once per checkout
STOP_TIMEOUT_S = 60.0


class LiveServer:
    """Started by ``with``; ``client`` talks to it. ``kill`` is SIGKILL, ``start`` brings it back on the same data."""

    def __init__(self, data_dir: Path, *options: str, redis: str = "embedded") -> None:
        self.data_dir = data_dir
        self.port = free_port()
        self.log_path = data_dir.with_name(data_dir.name + ".log")
        self.command = [sys.executable, "-m", "server", "serve", "--port", str(self.port), "--redis", redis]
        self.command += ["--model", EXAMPLES_BASE, "--data-dir", str(data_dir), "--models-dir", str(MODELS_DIR)]
        self.command += ["--threads", "1", "--no-calibrate", *options]  # calibrating takes seconds
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = httpx.Client(base_url=self.url, timeout=120.0)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if self.process.poll() is None:
                self.stop()
        finally:
            self.client.close()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        return self._server.popen

    def start(self) -> None:
        self._server = ServerProcess(self.command, environment=without_settings(os.environ), log=self.log_path)
        self._server.wait_until_ready(f"{self.url}/readyz")

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.terminate()
        return self.process.wait(timeout=STOP_TIMEOUT_S)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(timeout=STOP_TIMEOUT_S)

    def generate(self, adapter: Any = (), *, prompt: str = "Once upon a time", num_tokens: int = 8) -> dict[str, Any]:
        parameters = {"max_new_tokens": num_tokens, "ignore_eos": True}
        body = {"prompt": prompt, "adapter": adapter or [], "parameters": parameters}
        return checked(self.client.post("/generate", json=body))

    def push(self, name: str, path: Path) -> dict[str, Any]:
        with path.open("rb") as file:
            return checked(self.client.post("/adapters", data={"name": name}, files={"file": file}))

    def assert_base_intact(self) -> None:
        """Raises ServerFailed, unless the server's audit finds it so and no earlier one found it otherwise."""
        audit = self.client.post("/admin/verify")
        failures = metric(self.client, "shira_base_integrity_failures_total")
        if not audit.is_success or failures:
            raise ServerFailed(f"the base is not intact: {failures:.0f} failures; {audit.text}")


def checked(response: httpx.Response) -> dict[str, Any]:
    """Raises ServerFailed unless the answer is a success."""
    if not response.is_success:
        raise ServerFailed(f"{response.status_code}: {response.text}")
    answer: dict[str, Any] = response.json()
    return answer


def metric(client: httpx.Client, name: str) -> float:
    """The value of an unlabelled sample."""
    for line in client.get("/metrics").text.splitlines():
        if line.startswith(name + " "):
            return float(line.split()[1])
    raise ServerFailed(f"/metrics: expected a sample {name}, got none")


def wait_until(is_true: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """Raises TimeoutError."""
    deadline = time.monotonic() + timeout_s
    while not is_true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"still not so after {timeout_s} s")
        time.sleep(0.05)
