"""``shira demo``: a real server, the example adapters, real answers with their receipts.

Starts ``shira serve`` as a process of its own, talks to it over HTTP as any client would, and stops it.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from server.core.config import ENV_PREFIX
from server.core.errors import ServerError

EXAMPLES_BASE = "SmolLM2-135M-Instruct@package"
PROMPT = "In the beginning of the year"
PARAMETERS = {"max_new_tokens": 48, "repetition_penalty": 1.2}
READY_TIMEOUT_S = 900.0  # the first start converts the base model
STOP_TIMEOUT_S = 60.0


class DemoFailed(ServerError):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """``models_dir`` keeps converted base models; the server's own data directory is gone afterwards. The example
    adapters belong to the base from the registry package: the hub's copy holds other bytes, and native files are
    refused on it."""

    examples_dir: Path
    models_dir: Path
    model: str = EXAMPLES_BASE
    prompt: str = PROMPT


def run(options: DemoOptions) -> None:
    """Prints the whole story. Raises DemoFailed when an answer is not what it must be."""
    examples = example_files(options.examples_dir)
    with running_server(options) as client:
        names = push_examples(client, examples)
        first, second = names[:2]
        base_before = _ask(client, options.prompt, "base", [])
        for name in names:
            _ask(client, options.prompt, name, [name])
        _ask(client, options.prompt, f"{first} + {second}", [first, second])
        _show_switches(client, options.prompt, [first, second])
        base_after = _ask(client, options.prompt, "base again", [])
        if base_after != base_before:
            raise DemoFailed("the base answered differently after the switches")
        _say("The base's answer is identical to the first one.")
        audit = client.post("/admin/verify").json()
        if not audit["ok"]:
            raise DemoFailed(f"the audit found the base changed: {audit}")
        _say(f"Audit of {audit['bytes']:,} bytes of weights: intact, {audit['digest'][:23]}…")


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


@contextmanager
def running_server(options: DemoOptions) -> Iterator[httpx.Client]:
    """A server process on a free loopback port with a data directory of its own; stopped and removed at the end."""
    port = _free_port()
    data_dir = Path(tempfile.mkdtemp(prefix="shira-demo-"))
    command = [sys.executable, "-m", "server", "serve", "--model", options.model, "--port", str(port)]
    command += ["--data-dir", str(data_dir), "--models-dir", str(options.models_dir)]
    _say("$ shira " + " ".join(command[3:]))
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


def _push(client: httpx.Client, path: Path) -> None:
    with path.open("rb") as file:
        response = client.post("/adapters", data={"name": path.stem}, files={"file": (path.name, file)})
    adapter = _checked(response)
    _say(f"uploaded {path.stem}: {path.stat().st_size / 1e6:.1f} MB, {adapter['version'][:23]}…")


def _ask(client: httpx.Client, prompt: str, title: str, adapters: list[str]) -> str:
    body = {"prompt": prompt, "adapter": adapters, "parameters": PARAMETERS}
    answer = _checked(client.post("/generate", json=body))
    receipt = answer["receipt"]
    applied = [adapter["name"] for adapter in receipt["adapters"]]
    if applied != adapters:
        raise DemoFailed(f"asked for {adapters}, the receipt says {applied}")
    text: str = answer["text"]
    _say(f"\n── {title} ──")
    _say(textwrap.fill(prompt + text, width=100, replace_whitespace=False, drop_whitespace=False))
    _say(
        f"   receipt: {' + '.join(applied) or 'base'} · {receipt['mode']} · switch {receipt['switch_ms']:.2f} ms"
        f" · total {receipt['total_ms']:.0f} ms · blend {receipt['blend_key'][:15]}…"
    )
    return text


def _show_switches(client: httpx.Client, prompt: str, names: list[str]) -> None:
    """Alternates between staged blends and prints what each switch took."""
    _say("\nswitch times, everything staged:")
    for name in [*names, *names]:
        body = {"prompt": prompt, "adapter": name, "parameters": {"max_new_tokens": 1}}
        receipt = _checked(client.post("/generate", json=body))["receipt"]
        _say(f"   → {name:<12} {receipt['switch_ms']:.2f} ms")


def _checked(response: httpx.Response) -> dict[str, Any]:
    if response.is_error:
        raise DemoFailed(f"{response.request.method} {response.request.url.path}: {response.text}")
    answer: dict[str, Any] = response.json()
    return answer


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _say(line: str) -> None:
    print(line, flush=True)
