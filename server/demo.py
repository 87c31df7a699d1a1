"""``shira demo``: a real server, the example adapters, real answers with their receipts, and what switches take.

Starts ``shira serve`` as a process of its own, talks to it over HTTP as any client would, and stops it.
"""

from __future__ import annotations

import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from adapters_store.tools.inspect import inspect_file
from server.core.config import ENV_PREFIX
from server.core.errors import ServerError

EXAMPLES_BASE = "SmolLM2-135M-Instruct@package"
PROMPT = "In the beginning of the year"
PARAMETERS = {"max_new_tokens": 48, "repetition_penalty": 1.2}
READY_TIMEOUT_S = 900.0  # the first start converts the base model
STOP_TIMEOUT_S = 60.0
NUM_ROUNDS = 9  # in each, every pair of adapters is switched there and back
SWITCH_KINDS = {
    "overwrite": "one index set: overwrite, one pass",
    "exchange": "two index sets: exchange, old words back and new ones in",
}


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
        show_switches(client, options.prompt, index_sets(examples))
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


def index_sets(paths: Sequence[Path]) -> dict[str, str]:
    """The digest of every adapter's index set, as the file has it; a PEFT file does not tell."""
    found = {path.stem: inspect_file(path).get("index_set") for path in paths}
    return {name: digest for name, digest in found.items() if digest is not None}


def show_switches(client: httpx.Client, prompt: str, digests: Mapping[str, str]) -> None:
    """Goes back and forth between staged adapters, two that share an index set and two that do not, as far as
    ``digests`` (adapter name → index set) has such, and prints medians.

    Raises DemoFailed unless the server counted an overwrite for every switch of the first pair and an exchange for
    every one of the second."""
    pairs = _pairs(digests)
    if not pairs:
        return
    for name in sorted({name for pair in pairs.values() for name in pair}):
        _switch_ms(client, prompt, name)  # stages it
    times: dict[str, list[float]] = {kind: [] for kind in pairs}
    counted: Counter[str] = Counter()
    for _ in range(NUM_ROUNDS):
        for kind, (here, there) in pairs.items():
            _switch_ms(client, prompt, here)
            before = _switch_counts(client)
            times[kind] += [_switch_ms(client, prompt, name) for name in (there, here)]
            made = _switch_counts(client) - before
            if made != Counter({kind: 2}):
                raise DemoFailed(f"{here} ↔ {there}: expected two switches by {kind}, the server counted {dict(made)}")
            counted += made
    _say(f"\nswitching between staged adapters, median of {2 * NUM_ROUNDS}:")
    for kind, pair in pairs.items():
        _say(f"   {' ↔ '.join(pair):<20} {statistics.median(times[kind]):6.2f} ms   {SWITCH_KINDS[kind]}")
    shown = ", ".join(f'{{kind="{kind}"}} +{number}' for kind, number in counted.items())
    _say(f"   counted by the server meanwhile: shira_switches_total {shown}")


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


def _pairs(digests: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """By the kind of switch that is due between them; both pairs begin with the same adapter."""
    here, there = next(((a, b) for a, b in combinations(digests, 2) if digests[a] == digests[b]), (None, None))
    here = here or next(iter(digests), None)
    other = next((name for name in digests if here and digests[name] != digests[here]), None)
    pairs = {"overwrite": (here, there), "exchange": (here, other)}
    return {kind: (a, b) for kind, (a, b) in pairs.items() if a and b}


def _switch_ms(client: httpx.Client, prompt: str, name: str) -> float:
    """Of the switch to this adapter."""
    body = {"prompt": prompt, "adapter": name, "parameters": {"max_new_tokens": 1}}
    taken: float = _checked(client.post("/generate", json=body))["receipt"]["switch_ms"]
    return taken


def _switch_counts(client: httpx.Client) -> Counter[str]:
    """How many switches of each kind the server has made."""
    samples = (
        sample
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
        if sample.name == "shira_switches_total"
    )
    return Counter({sample.labels["kind"]: int(sample.value) for sample in samples})


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
