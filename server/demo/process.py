"""A server for the demo: a process of its own, spoken to over HTTP as any client would, stopped and removed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from server.core.config import ENV_PREFIX
from server.core.errors import ServerError

READY_TIMEOUT_S = 900.0  # the first start converts the base model
STOP_TIMEOUT_S = 60.0


class DemoFailed(ServerError):
    pass


@contextmanager
def running_server(model: str, models_dir: Path, *more: str) -> Iterator[httpx.Client]:
    """A server process on a free loopback port with a data directory of its own; stopped and removed at the end.
    ``more``: further flags."""
    port = _free_port()
    data_dir = Path(tempfile.mkdtemp(prefix="shira-demo-"))
    command = [sys.executable, "-m", "server", "serve", "--model", model, "--port", str(port)]
    command += ["--data-dir", str(data_dir), "--models-dir", str(models_dir), *more]
    say("$ shira " + " ".join(command[3:]))
    server = subprocess.Popen(command, env=_without_settings(os.environ))
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300.0, trust_env=False) as client:
            _wait_until_ready(client, server)
            yield client
    finally:
        _stop(server)
        shutil.rmtree(data_dir, ignore_errors=True)
    if server.returncode != 0:
        raise DemoFailed(f"the server ended with {server.returncode}")


def _without_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """An operator's settings (keys, a shared Redis, another address) are not for this server."""
    return {name: value for name, value in environ.items() if not name.startswith(ENV_PREFIX)}


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(timeout=STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _wait_until_ready(client: httpx.Client, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise DemoFailed(f"the server ended with {server.returncode} before it was ready")
        try:
            if client.get("/readyz").status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise DemoFailed(f"the server was not ready within {READY_TIMEOUT_S:.0f} s")


def example_files(examples_dir: Path) -> list[Path]:
    """The adapter files of the folder, in order. Raises DemoFailed if there are not two."""
    paths = sorted(examples_dir.glob("*.safetensors"))
    if len(paths) < 2:
        raise DemoFailed(f"{examples_dir}: expected two adapters (*.safetensors), got {len(paths)}")
    return paths


def push_examples(client: httpx.Client, paths: Sequence[Path]) -> list[str]:
    """Uploads every file; returns the adapters' names in order."""
    for path in paths:
        _push(client, path)
    return [path.stem for path in paths]


def checked(response: httpx.Response) -> dict[str, Any]:
    if response.is_error:
        raise DemoFailed(f"{response.request.method} {response.request.url.path}: {response.text}")
    answer: dict[str, Any] = response.json()
    return answer


def say(line: str) -> None:
    print(line, flush=True)


def _push(client: httpx.Client, path: Path) -> None:
    with path.open("rb") as file:
        response = client.post("/adapters", data={"name": path.stem}, files={"file": (path.name, file)})
    adapter = checked(response)
    say(f"uploaded {path.stem}: {path.stat().st_size / 1e6:.1f} MB, {adapter['version'][:23]}…")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
