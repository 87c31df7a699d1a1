"""Our server under test: started as an operator would, adapters uploaded over HTTP."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import httpx
from tqdm import tqdm

from adapters_store.base import describe_checkpoint
from adapters_store.format import write_adapter
from server.bench_serve.counters import growth, parse_counters
from server.bench_serve.load import Finished, run_load
from server.bench_serve.measures import Measured, measure
from server.bench_serve.random_adapters import sparse_adapter
from server.bench_serve.subjects import ShiraServer, Surroundings
from server.bench_serve.workload import Arrival, adapter_name
from server.processes import ServerFailed, ServerProcess, free_port, without_settings

ADMIN_SECRET = "bench-admin"  # noqa: S105 - of a server that only this process knows
DEADLINE_MS = 600_000
STAGED_TO_HOST = 5  # bytes of a staged adapter with its rows, buffers and differences, to those of its file, at most


class RunningShira:
    """A data directory of its own, removed by ``stop``."""

    def __init__(self, subject: ShiraServer, around: Surroundings) -> None:
        """Raises ServerFailed."""
        self._port = free_port()
        self._dialect = ShiraDialect(num_keys=subject.num_keys)
        self._folder = Path(tempfile.mkdtemp(prefix="shira-bench-", dir=around.work_dir))
        try:
            adapter_bytes = self._write_adapters(subject, around)
            command = [sys.executable, "-m", "server", "serve", *self._flags(subject, around, adapter_bytes)]
            self._process = ServerProcess(command, environment=_environment(subject), log=self._folder / "server.log")
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        url = f"http://127.0.0.1:{self._port}"
        headers = {"Authorization": f"Bearer {ADMIN_SECRET}"} if subject.num_keys > 1 else {}
        self._client = httpx.Client(base_url=url, headers=headers, timeout=300.0, trust_env=False)
        try:
            self._process.wait_until_ready(f"{url}/readyz")
            self._upload_adapters(subject)
        except BaseException:
            self.stop()
            raise

    def run(self, arrivals: Sequence[Arrival], *, concurrency: int | None) -> Measured:
        before = self._counters()
        load = run_load("127.0.0.1", self._port, self._dialect, arrivals, concurrency=concurrency)
        self._process.check_running()
        return measure(load, growth(before, self._counters()))

    def state(self) -> dict[str, Any]:
        return cast("dict[str, Any]", self._checked(self._client.get("/admin/state")).json())

    def stop(self) -> None:
        self._client.close()
        self._process.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _write_adapters(self, subject: ShiraServer, around: Surroundings) -> int:
        """The bytes of the largest one's file."""
        base = describe_checkpoint(around.model_dir)
        largest = 0
        for number in tqdm(range(subject.num_adapters), desc="adapters", disable=None):
            path = self._file(number)
            write_adapter(sparse_adapter(base, sparsity=around.sparsity, seed=number), path)
            largest = max(largest, path.stat().st_size)
        return largest

    def _flags(self, subject: ShiraServer, around: Surroundings, adapter_bytes: int) -> list[str]:
        settings = {
            "model": str(around.model_dir),
            "port": str(self._port),
            "data_dir": str(self._folder / "data"),
            "redis": "off",
            "log_level": "warning",
        }
        if around.threads is not None:
            settings["threads"] = str(around.threads)
        if subject.room_for is not None:
            settings["host_budget_bytes"] = str((subject.room_for + 1) * adapter_bytes)
            settings["device_budget_bytes"] = str((subject.room_for + 1) * adapter_bytes * STAGED_TO_HOST)
        settings |= dict(around.server_options) | dict(subject.options)
        return [word for key, value in settings.items() for word in ("--" + key.replace("_", "-"), value)]

    def _upload_adapters(self, subject: ShiraServer) -> None:
        for number in tqdm(range(subject.num_adapters), desc="uploads", disable=None):
            with self._file(number).open("rb") as file:
                form = {"name": adapter_name(number)}
                self._checked(self._client.post("/adapters", data=form, files={"file": file}))
            self._file(number).unlink()

    def _file(self, number: int) -> Path:
        return self._folder / f"{adapter_name(number)}.safetensors"

    def _counters(self) -> dict[str, float]:
        return parse_counters(self._checked(self._client.get("/metrics")).text)

    def _checked(self, response: httpx.Response) -> httpx.Response:
        if response.is_error:
            raise ServerFailed(f"{response.request.method} {response.request.url.path}: {response.text}")
        return response


class ShiraDialect:
    """``POST /generate``, streamed."""

    path = "/generate"

    def __init__(self, *, num_keys: int) -> None:
        self._has_keys = num_keys > 1

    def body(self, arrival: Arrival) -> object:
        return {
            "prompt": arrival.prompt,
            "adapter": arrival.adapter or [],
            "parameters": {"max_new_tokens": arrival.num_new_tokens, "ignore_eos": True},
            "stream": True,
            "deadline_ms": DEADLINE_MS,
        }

    def secret(self, arrival: Arrival) -> str | None:
        return _secret(arrival.key) if self._has_keys else None

    def finished(self, events: Sequence[object]) -> Finished:
        last = cast("dict[str, Any]", events[-1])
        receipt, usage = last["receipt"], last["usage"]
        names = [adapter["name"] for adapter in receipt["adapters"]]
        return Finished(
            adapter="+".join(names) or None,
            num_prompt_tokens=usage["prompt_tokens"],
            num_tokens=usage["completion_tokens"],
            mode=receipt["mode"],
            queue_ms=receipt["queue_ms"],
        )


def _environment(subject: ShiraServer) -> dict[str, str]:
    environment = without_settings(os.environ)
    if subject.num_keys > 1:
        keys = [f"{ADMIN_SECRET}:admin", *(f"{_secret(key)}:generate" for key in range(subject.num_keys))]
        environment["SHIRA_API_KEYS"] = ",".join(keys)
    return environment


def _secret(key: int) -> str:
    return f"bench-key-{key}"
