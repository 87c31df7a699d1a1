"""A server for the demo: a process of its own, spoken to over HTTP as any client would, stopped and removed."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from server.core.errors import ServerError
from server.processes import ServerFailed, ServerProcess, free_port, without_settings


class DemoFailed(ServerError):
    pass


@contextmanager
def running_server(model: str, models_dir: Path, *more: str) -> Iterator[httpx.Client]:
    """A server process on a free loopback port with a data directory of its own; stopped and removed at the end.
    ``more``: further flags. Raises ServerFailed."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    data_dir = Path(tempfile.mkdtemp(prefix="shira-demo-"))
    command = [sys.executable, "-m", "server", "serve", "--model", model, "--port", str(port)]
    command += ["--data-dir", str(data_dir), "--models-dir", str(models_dir), *more]
    say("$ shira " + " ".join(command[3:]))
    server = ServerProcess(command, environment=without_settings(os.environ), log=None)
    try:
        server.wait_until_ready(f"{url}/readyz")
        with httpx.Client(base_url=url, timeout=300.0, trust_env=False) as client:
            yield client
    finally:
        code = server.stop()
        shutil.rmtree(data_dir, ignore_errors=True)
    if code != 0:
        raise ServerFailed(f"the server ended with {code}")


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
