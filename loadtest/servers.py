"""The servers of a load test: started on a data directory of their own, filled, watched, audited, stopped, removed."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from adapters_store.base import BaseDescription, describe_checkpoint
from adapters_store.tools.checkpoint import load_tokenizer
from loadtest.making import Held, make_held, make_hostile_files, make_upload_files
from loadtest.scenario import Scenario, ServerName, ServerPart
from loadtest.stock import ServerStock, Stock
from server.bench_serve.models import one_token_words
from server.bench_serve.shira_server import STAGED_TO_HOST
from server.core.config import env_name
from server.processes import ServerFailed, ServerProcess, free_port, without_settings
from server.runners.loading import resolve_model

ROOT = Path(__file__).parents[1]
CAPTIONS = ROOT / "examples" / "emoji" / "prompts.txt"
CALL_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningServer:
    name: ServerName
    url: str
    process: ServerProcess
    client: httpx.Client

    @property
    def pid(self) -> int:
        return self.process.pid

    def metrics(self) -> str:
        """Raises ServerFailed."""
        return self.call("GET", "/metrics").text

    def check_base(self) -> None:
        """Raises ServerFailed, unless the server's audit finds its base intact."""
        self.call("POST", "/admin/verify")  # succeeds only then

    def call(self, method: str, path: str, **content: Any) -> httpx.Response:
        """Raises ServerFailed unless it succeeds."""
        try:
            response = self.client.request(method, path, **content)
        except httpx.HTTPError as error:
            raise ServerFailed(f"{self.name} server: {method} {path}: {type(error).__name__}: {error}") from error
        if response.is_error:
            raise ServerFailed(f"{self.name} server: {method} {path}: {response.text}")
        return response


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Everything that is up during a run, and what its users are told of it."""

    servers: Mapping[ServerName, RunningServer]
    stock: Stock


@contextmanager
def running_world(scenario: Scenario, folder: Path, models_dir: Path, *, core: int | None) -> Iterator[World]:
    """Servers, held adapters and files as the scenario wants them. ``core``: the servers run on that one alone. Logs
    stay in ``folder``. Raises ServerFailed, ModelNotLoadable."""
    with ExitStack() as stack:
        servers: dict[ServerName, RunningServer] = {}
        stocks: dict[ServerName, ServerStock] = {}
        words: tuple[str, ...] = ()
        for name, part in scenario.servers.items():
            model_dir = resolve_model(part.model, models_dir)
            base = describe_checkpoint(model_dir)
            files = folder / f"{name}-files"
            files.mkdir(parents=True)
            stack.callback(shutil.rmtree, files, ignore_errors=True)
            population = scenario.population(name)
            held = list(make_held(base, population, files)) if population is not None else []
            server = stack.enter_context(_running(name, part, folder, held, (model_dir, models_dir), core=core))
            servers[name] = server
            for one in held:
                _push(server, one)
            stocks[name] = _stock(scenario, server, held, base, files)
            if not base.components:
                words = tuple(one_token_words(load_tokenizer(model_dir)))
        captions = tuple(CAPTIONS.read_text().splitlines())
        yield World(servers=servers, stock=Stock(servers=stocks, words=words, captions=captions))


@contextmanager
def _running(
    name: ServerName, part: ServerPart, folder: Path, held: list[Held], models: tuple[Path, Path], *, core: int | None
) -> Iterator[RunningServer]:
    model_dir, models_dir = models
    data_dir, port = folder / f"{name}-data", free_port()
    url = f"http://127.0.0.1:{port}"
    settings: dict[str, object] = {"model": model_dir, "models_dir": models_dir, "data_dir": data_dir, "port": port}
    if part.room_for is not None:
        largest = max((path.stat().st_size for one in held for _, path in one.files), default=0)
        settings["device_budget_bytes"] = part.room_for * largest * STAGED_TO_HOST
        settings["host_budget_bytes"] = 2 * part.room_for * largest
    environment = without_settings(os.environ) | {
        env_name(key): str(value) for key, value in (settings | part.settings).items()
    }
    command = [sys.executable, "-m", "server", "serve"]
    process = ServerProcess(command, environment=environment, log=folder / f"{name}.log")
    try:
        if core is not None:
            os.sched_setaffinity(process.pid, {core})  # what it starts later inherits this
        process.wait_until_ready(f"{url}/readyz")
        with httpx.Client(base_url=url, timeout=CALL_TIMEOUT_S, trust_env=False) as client:
            yield RunningServer(name=name, url=url, process=process, client=client)
    finally:
        process.stop()
        shutil.rmtree(data_dir, ignore_errors=True)


def _push(server: RunningServer, held: Held) -> None:
    for _, path in held.files:
        server.call("POST", "/adapters", data={"name": held.name}, files={"file": path.read_bytes()})


def _stock(
    scenario: Scenario, server: RunningServer, held: list[Held], base: BaseDescription, folder: Path
) -> ServerStock:
    uploads = scenario.upload
    return ServerStock(
        url=server.url,
        versions={one.name: tuple(version for version, _ in reversed(one.files)) for one in held},
        files=() if uploads is None else tuple(make_upload_files(base, uploads, folder)),
        hostile=() if uploads is None else tuple(make_hostile_files(base, uploads, folder)),
    )
