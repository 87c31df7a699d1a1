"""vLLM's OpenAI server under test, from a Python environment of its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from server.bench_serve.load import Finished, run_load
from server.bench_serve.measures import Measured, measure
from server.bench_serve.random_adapters import LORA_RANK, save_lora_adapters
from server.bench_serve.subjects import Surroundings, VllmServer
from server.bench_serve.workload import Arrival, adapter_name
from server.processes import ServerFailed, ServerProcess, free_port

CAVEAT = (
    "vLLM's CPU LoRA path is reference code (it copies A and B per token): beating it on a CPU says nothing about "
    "vLLM on a GPU."
)
BASE_NAME = "base"
MAX_MODEL_TOKENS = 2048
DEFAULTS = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "2",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


class RunningVllm:
    """Environment variables that are set already win over the ones chosen here."""

    def __init__(self, subject: VllmServer, around: Surroundings) -> None:
        """Raises ServerFailed."""
        assert around.vllm_python is not None  # noqa: S101 - plans without it have no vLLM
        self._port = free_port()
        self._dialect = VllmDialect()
        command = [str(around.vllm_python), "-m", "vllm.entrypoints.openai.api_server", "--port", str(self._port)]
        command += ["--model", str(around.model_dir), "--served-model-name", BASE_NAME]
        command += ["--max-model-len", str(MAX_MODEL_TOKENS), *_lora_flags(subject, around)]
        log = around.work_dir / f"vllm-{subject.num_adapters}.log"
        self._process = ServerProcess(command, environment=DEFAULTS | os.environ, log=log)
        try:
            self._process.wait_until_ready(f"http://127.0.0.1:{self._port}/health")
        except BaseException:
            self.stop()
            raise

    def run(self, arrivals: Sequence[Arrival], *, concurrency: int | None) -> Measured:
        load = run_load("127.0.0.1", self._port, self._dialect, arrivals, concurrency=concurrency)
        self._process.check_running()
        return measure(load, {})

    def stop(self) -> None:
        self._process.stop()


class VllmDialect:
    """``POST /v1/completions``, streamed. It has no receipt: the model it names stands for one."""

    path = "/v1/completions"

    def body(self, arrival: Arrival) -> object:
        return {
            "model": arrival.adapter or BASE_NAME,
            "prompt": arrival.prompt,
            "max_tokens": arrival.num_new_tokens,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    def secret(self, arrival: Arrival) -> str | None:
        return None

    def finished(self, events: Sequence[object]) -> Finished:
        last = cast("dict[str, Any]", events[-1])
        name, usage = last["model"], last["usage"]
        return Finished(
            adapter=None if name == BASE_NAME else name,
            num_prompt_tokens=usage["prompt_tokens"],
            num_tokens=usage["completion_tokens"],
        )


def vllm_version(python: Path) -> str:
    """Raises ServerFailed if there is none."""
    code = (
        "import importlib.metadata as m; "
        "print(*(f'{d.name} {d.version}' for d in m.distributions() if d.name in ('vllm', 'vllm-cpu')))"
    )
    try:
        found = subprocess.run(
            [str(python), "-c", code], check=True, capture_output=True, text=True, timeout=60.0
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        raise ServerFailed(f"{python}: cannot be run: {error}") from error
    if not found:
        raise ServerFailed(f"{python}: expected an environment with vLLM, got one without")
    return found


def _lora_flags(subject: VllmServer, around: Surroundings) -> list[str]:
    if subject.num_adapters == 0:
        return []
    paths = save_lora_adapters(around.model_dir, around.work_dir, count=subject.num_adapters)
    modules = [f"{adapter_name(number)}={path}" for number, path in enumerate(paths)]
    slots = str(subject.num_adapters)
    return ["--enable-lora", "--max-lora-rank", str(LORA_RANK), "--max-loras", slots, "--lora-modules", *modules]
