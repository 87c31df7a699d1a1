"""``shira bench serve`` from options to report."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adapters_store.tools.bench_report import machine
from adapters_store.tools.checkpoint import load_tokenizer
from server.bench_serve.models import one_token_words, random_model
from server.bench_serve.options import BenchOptions
from server.bench_serve.plot import draw
from server.bench_serve.report import Conditions, as_json, as_markdown, as_table
from server.bench_serve.runs import PlanResult, run_plan
from server.bench_serve.subjects import Surroundings
from server.bench_serve.vllm_server import vllm_version


def run(options: BenchOptions) -> list[PlanResult]:
    """Prints each plan's table when it is done; files grow with every plan, so that a long run leaves what it has.

    Raises BenchRefused, ServerFailed, WrongAnswer."""
    from transformers.utils import logging as transformers_logging

    options.check()
    transformers_logging.disable_progress_bar()  # of loading weights
    options.work_dir.mkdir(parents=True, exist_ok=True)
    conditions = Conditions(
        model=_model_name(options),
        num_rounds=options.num_rounds,
        seed=options.seed,
        sparsity=options.sparsity,
        server_options=dict(options.server_options),
        machine=_machine(options),
    )
    around = Surroundings(
        model_dir=_model(options),
        work_dir=options.work_dir,
        sparsity=options.sparsity,
        threads=options.threads,
        server_options=options.server_options,
        vllm_python=options.vllm_python,
    )
    words = one_token_words(load_tokenizer(around.model_dir))
    results: list[PlanResult] = []
    with _unwinding_on_sigterm():
        for plan in options.plans:
            results.append(run_plan(plan, around, words, num_rounds=options.num_rounds, seed=options.seed))
            print(as_table(results[-1]), end="\n\n", flush=True)
            _write(options, results, conditions)
    return results


@contextmanager
def _unwinding_on_sigterm() -> Iterator[None]:
    """So that no server outlives the benchmark."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _model(options: BenchOptions) -> Path:
    if options.random_params is None:
        return options.model_dir
    return random_model(
        options.random_params, seed=options.seed, tokenizer_of=options.model_dir, work_dir=options.work_dir
    )


def _model_name(options: BenchOptions) -> str:
    if options.random_params is None:
        return options.model_dir.name
    return f"random Llama of {options.random_params / 1e6:.0f} M"


def _machine(options: BenchOptions) -> Mapping[str, Any]:
    found = machine() | ({"threads": options.threads} if options.threads is not None else {})
    return found | ({"vllm": vllm_version(options.vllm_python)} if options.vllm_python is not None else {})


def _write(options: BenchOptions, results: list[PlanResult], conditions: Conditions) -> None:
    if options.json_file is not None:
        options.json_file.write_text(json.dumps(as_json(results, conditions), indent=1) + "\n")
    if options.report_file is not None:
        options.report_file.write_text(as_markdown(results, conditions))
    if options.plot_file is not None:
        draw(results, options.plot_file)
