"""What one gets without a server, batch after batch, in a process of its own.

``python -m server.bench_serve.offline`` is that process: a line of JSON in, a line of JSON out.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol, assert_never, cast

from server.bench_serve.in_process import OwnSteps
from server.bench_serve.measures import Measured
from server.bench_serve.random_adapters import save_lora_adapters
from server.bench_serve.rivals import AdapterNames, Generate, Merge
from server.bench_serve.subjects import Offline, OfflineMethod, Surroundings
from server.bench_serve.workload import Arrival
from server.core.waiting import wait_passively
from server.processes import ServerFailed


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The first line: what the process prepares before it answers ``{}``."""

    method: OfflineMethod
    model_dir: str
    lora_dirs: list[str]
    threads: int | None


class RunningOffline:
    """The process, its model loaded; it waits for workloads."""

    def __init__(self, subject: Offline, around: Surroundings) -> None:
        """Raises ServerFailed."""
        paths = save_lora_adapters(around.model_dir, around.work_dir, count=subject.num_adapters)
        self._log = around.work_dir / f"offline-{subject.method}.log"
        environment = dict(os.environ)
        if subject.method == "engine":
            wait_passively(environment)  # as the server does
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "server.bench_serve.offline"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
            )
        job = Job(
            method=subject.method,
            model_dir=str(around.model_dir),
            lora_dirs=[str(path) for path in paths],
            threads=around.threads,
        )
        self._call(asdict(job))

    def run(self, arrivals: Sequence[Arrival], *, concurrency: int | None) -> Measured:
        """Raises ServerFailed."""
        if concurrency is None:
            raise ServerFailed("an offline baseline has no clock: expected a closed-loop workload, got an open one")
        work = {"batch": concurrency, "requests": [asdict(arrival) for arrival in arrivals]}
        took = cast("dict[str, float]", self._call(work))
        num_tokens = sum(arrival.num_new_tokens for arrival in arrivals)
        figures = {
            "num_answered": len(arrivals),
            "wall_s": took["wall_s"],
            "tokens_per_s": num_tokens / took["wall_s"],
        }
        if took.get("decode_s"):
            figures["decode_tokens_per_s"] = took["num_decoded"] / took["decode_s"]
        return Measured(
            figures=figures,
            worst_wait_ms={},
            tokens_per_s_of_key={},
            mode_shares={},
            failures={},
            counters={name: value for name, value in took.items() if name != "wall_s"},
        )

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _call(self, message: object) -> Any:
        assert self._process.stdin is not None  # noqa: S101
        assert self._process.stdout is not None  # noqa: S101
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise ServerFailed(f"the offline baseline ended:\n{self._log.read_text(errors='replace')[-2000:]}")
        return json.loads(line)


def main() -> None:
    with _only_answers_on_stdout() as answer:
        baseline = make_baseline(Job(**json.loads(sys.stdin.readline())))
        answer({})
        for line in sys.stdin:
            work = json.loads(line)
            arrivals = [Arrival(**request) for request in work["requests"]]
            answer(run_batches(baseline, arrivals, batch=work["batch"]))


class Baseline(Protocol):
    """One way to answer a batch of requests."""

    def run_batch(self, requests: Sequence[Arrival]) -> Mapping[str, float]:
        """What was spent, by name."""
        ...


def make_baseline(job: Job) -> Baseline:
    import torch

    if job.threads is not None:
        torch.set_num_threads(job.threads)
    model_dir = Path(job.model_dir)
    match job.method:
        case "engine":
            return OwnSteps(model_dir)
        case "generate":
            return Generate(model_dir)
        case "adapter-names":
            return AdapterNames(model_dir, job.lora_dirs)
        case "merge":
            return Merge(model_dir, job.lora_dirs)
        case _:
            assert_never(job.method)


def run_batches(baseline: Baseline, arrivals: Sequence[Arrival], *, batch: int) -> dict[str, float]:
    """Seconds of it all, and the sums of what was spent."""
    spent: dict[str, float] = {}
    queue = iter(arrivals)
    started_s = perf_counter()
    while requests := list(islice(queue, batch)):
        for name, value in baseline.run_batch(requests).items():
            spent[name] = spent.get(name, 0.0) + value
    return {"wall_s": perf_counter() - started_s, **spent}


@contextlib.contextmanager
def _only_answers_on_stdout() -> Iterator[Callable[[object], None]]:
    """Whatever libraries print goes to standard error."""
    with os.fdopen(os.dup(1), "w") as answers, contextlib.redirect_stdout(sys.stderr):
        os.dup2(2, 1)
        yield lambda value: print(json.dumps(value), file=answers, flush=True)


if __name__ == "__main__":
    main()
