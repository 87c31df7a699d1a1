"""A real ``shira serve`` process, as an operator runs it, for the tests that need the whole of it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from server.bench_serve.processes import free_port
from server.demo.text import EXAMPLES_BASE

REPOSITORY = Path(__file__).parents[2]
MODELS_DIR = REPOSITORY / ".cache" / "models"  # the default base is converted once per checkout
READY_TIMEOUT_S = 600.0


class LiveServer:
    """Started by ``with``; ``client`` talks to it. ``kill`` is SIGKILL, ``start`` brings it back on the same data."""

    def __init__(self, data_dir: Path, *options: str, redis: str = "embedded") -> None:
        self.data_dir = data_dir
        self.port = free_port()
        self.log_path = data_dir.with_name(data_dir.name + ".log")
        self.command = [sys.executable, "-m", "server", "serve", "--port", str(self.port), "--redis", redis]
        self.command += [
            "--model",
            EXAMPLES_BASE,
            "--data-dir",
            str(data_dir),
            "--models-dir",
            str(MODELS_DIR),
            "--threads",
            "1",
            "--no-calibrate",  # it takes seconds; the server that most tests share does
            *options,
        ]
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=120.0)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if self.process.poll() is None:
                self.stop()
        finally:
            self.client.close()

    def start(self) -> None:
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)
        self.wait_until_ready()

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(timeout=60)

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log_path.read_text()[-3000:]
            try:
                if self.client.get("/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        raise AssertionError(f"not ready within {READY_TIMEOUT_S} s:\n{self.log_path.read_text()[-3000:]}")

    def generate(self, adapter: Any = (), *, prompt: str = "Once upon a time", num_tokens: int = 8) -> dict[str, Any]:
        parameters = {"max_new_tokens": num_tokens, "ignore_eos": True}
        body = {"prompt": prompt, "adapter": adapter or [], "parameters": parameters}
        return checked(self.client.post("/generate", json=body))

    def push(self, name: str, path: Path) -> dict[str, Any]:
        with path.open("rb") as file:
            return checked(self.client.post("/adapters", data={"name": name}, files={"file": file}))

    def assert_base_intact(self) -> None:
        audit = self.client.post("/admin/verify")
        assert audit.status_code == 200, audit.text
        assert audit.json()["ok"] is True
        assert metric(self.client, "shira_base_integrity_failures_total") == 0


def checked(response: httpx.Response) -> dict[str, Any]:
    assert response.is_success, f"{response.status_code}: {response.text}"
    answer: dict[str, Any] = response.json()
    return answer


def metric(client: httpx.Client, name: str) -> float:
    """The value of an unlabelled sample."""
    for line in client.get("/metrics").text.splitlines():
        if line.startswith(name + " "):
            return float(line.split()[1])
    raise AssertionError(f"no sample {name}")


def wait_until(is_true: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < deadline, f"still not so after {timeout_s} s"
        time.sleep(0.05)
