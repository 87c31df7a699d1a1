"""What one gets without a server: transformers and PEFT over padded batches, in a process of its own.

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
from time import perf_counter
from typing import Any, cast

from server.bench_serve.measures import Measured
from server.bench_serve.processes import ServerFailed
from server.bench_serve.random_adapters import save_lora_adapters
from server.bench_serve.subjects import Offline, OfflineMethod, Surroundings
from server.bench_serve.workload import Arrival, adapter_name

BASE_ROW = "__base__"  # as PEFT calls a row without an adapter


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
        count = 0 if subject.method == "generate" else subject.num_adapters
        paths = save_lora_adapters(around.model_dir, around.work_dir, count=count)
        self._log = around.work_dir / f"offline-{subject.method}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "server.bench_serve.offline"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
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
        return Measured(
            figures={
                "num_answered": len(arrivals),
                "wall_s": took["wall_s"],
                "tokens_per_s": num_tokens / took["wall_s"],
            },
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
        baseline = Baseline(Job(**json.loads(sys.stdin.readline())))
        answer({})
        for line in sys.stdin:
            work = json.loads(line)
            answer(baseline.run([Arrival(**request) for request in work["requests"]], batch=work["batch"]))


class Baseline:
    """The model of one job, and how its method runs a batch."""

    def __init__(self, job: Job) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        if job.threads is not None:
            torch.set_num_threads(job.threads)
        self._tokenizer: Any = AutoTokenizer.from_pretrained(job.model_dir, padding_side="left", local_files_only=True)
        self._tokenizer.pad_token = self._tokenizer.pad_token or self._tokenizer.convert_ids_to_tokens(0)
        model: Any = AutoModelForCausalLM.from_pretrained(job.model_dir, dtype="auto", local_files_only=True)
        model.requires_grad_(False).eval()
        model.generation_config.eos_token_id = None
        model.generation_config.pad_token_id = self._tokenizer.pad_token_id
        self._model = _with_loras(model, job.lora_dirs) if job.lora_dirs else model
        methods: dict[OfflineMethod, Callable[[Sequence[Arrival]], None]] = {
            "generate": self._generate,
            "adapter-names": self._generate_mixed,
            "merge": self._generate_merged,
        }
        self._run_batch = methods[job.method]
        self._spent: dict[str, float] = {}

    def run(self, arrivals: Sequence[Arrival], *, batch: int) -> Mapping[str, float]:
        """Seconds of it all, and what went into merging."""
        self._spent = {}
        started_s = perf_counter()
        for requests in _batches(arrivals, batch):
            self._run_batch(requests)
        return {"wall_s": perf_counter() - started_s, **self._spent}

    def _generate(self, requests: Sequence[Arrival], **more: Any) -> None:
        tokens = self._tokenizer([request.prompt for request in requests], padding=True, return_tensors="pt")
        num_new_tokens = max(request.num_new_tokens for request in requests)
        self._model.generate(
            input_ids=tokens["input_ids"],
            attention_mask=tokens["attention_mask"],
            max_new_tokens=num_new_tokens,
            do_sample=False,
            **more,
        )

    def _generate_mixed(self, requests: Sequence[Arrival]) -> None:
        self._generate(requests, adapter_names=[request.adapter or BASE_ROW for request in requests])

    def _generate_merged(self, requests: Sequence[Arrival]) -> None:
        for name in dict.fromkeys(request.adapter for request in requests):
            group = [request for request in requests if request.adapter == name]
            if name is None:
                with self._model.disable_adapter():
                    self._generate(group)
                continue
            with self._timed("merge_s"):
                self._model.set_adapter(name)
                self._model.merge_adapter([name])
            self._generate(group)
            with self._timed("unmerge_s"):
                self._model.unmerge_adapter()
            self._spent["num_merges"] = self._spent.get("num_merges", 0) + 1

    @contextlib.contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        started_s = perf_counter()
        yield
        self._spent[name] = self._spent.get(name, 0.0) + perf_counter() - started_s


def _with_loras(model: Any, lora_dirs: Sequence[str]) -> Any:
    from peft import PeftModel

    names = [adapter_name(number) for number in range(len(lora_dirs))]
    lora: Any = PeftModel.from_pretrained(model, lora_dirs[0], adapter_name=names[0], autocast_adapter_dtype=False)
    for name, path in zip(names[1:], lora_dirs[1:], strict=True):
        lora.load_adapter(path, adapter_name=name, autocast_adapter_dtype=False)
    return lora.eval()


def _batches(arrivals: Sequence[Arrival], size: int) -> Iterator[list[Arrival]]:
    queue = iter(arrivals)
    while batch := list(islice(queue, size)):
        yield batch


@contextlib.contextmanager
def _only_answers_on_stdout() -> Iterator[Callable[[object], None]]:
    """Whatever libraries print goes to standard error."""
    with os.fdopen(os.dup(1), "w") as answers, contextlib.redirect_stdout(sys.stderr):
        os.dup2(2, 1)
        yield lambda value: print(json.dumps(value), file=answers, flush=True)


if __name__ == "__main__":
    main()
