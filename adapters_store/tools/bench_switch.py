"""``shira bench switch``: how long it takes to change adapters, beside the floor, LoRA fusing and PEFT."""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from adapters_store.adapter import TORCH_DTYPES, DTypeName
from adapters_store.kernels import Kernels, get_kernels
from adapters_store.tools import bench_peft
from adapters_store.tools.bench_contenders import floor_cycle, our_cycles, torch_cycles
from adapters_store.tools.bench_load import time_loads
from adapters_store.tools.bench_report import Row, as_json, as_table, draw, machine, rows_of
from adapters_store.tools.bench_stack import Case, llama_weights, square_weights
from adapters_store.tools.bench_timing import CacheFlush, last_level_cache_bytes, time_cycles

CACHES_PER_CASE = 2  # bytes of weights of a case, in last-level caches: enough to time one call


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """``stack_params`` 0 leaves the whole-model case out. The stack is bfloat16 at 1 %."""

    sizes: tuple[int, ...] = (512, 1024, 2048, 4096, 8192)
    dtypes: tuple[DTypeName, ...] = ("bfloat16", "float32")
    sparsities: tuple[float, ...] = (0.01, 0.02)
    threads: tuple[int, ...] = tuple(sorted({1, os.cpu_count() or 1}))
    stack_params: int = 1_000_000_000
    num_repeats: int = 15
    seed: int = 0
    with_peft: bool = True


QUICK = Options(sizes=(1024,), dtypes=("bfloat16",), sparsities=(0.01,), threads=(1,), stack_params=0, num_repeats=3)


def main(arguments: Sequence[str]) -> int:
    parser = _parser()
    parsed = parser.parse_args(arguments)
    options = _options(parsed)
    if parsed.plot and importlib.util.find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib: pip install 'shira-server[bench]'")
    for path in (parsed.json, parsed.plot):
        if path and not path.parent.is_dir():
            parser.error(f"{path.parent} is not a directory")
    if options.with_peft and not bench_peft.is_available():
        print("PEFT is not installed: its rows are left out (pip install 'shira-server[bench]')")
    print(json.dumps({**machine(), "kernels": get_kernels().name, "seed": options.seed}))
    rows = []
    for group in run(options):
        tqdm.write(f"\n{as_table(group)}")
        rows += group
    if parsed.json:
        text = [json.dumps(as_json(row, seed=options.seed, kernels=get_kernels().name)) for row in rows]
        parsed.json.write_text("\n".join(text) + "\n")
    if parsed.plot:
        draw(rows, parsed.plot)
    return 0


def run(options: Options) -> Iterator[list[Row]]:
    """One group of rows for each case and number of threads. Leaves torch's number of threads as it was."""
    kernels = get_kernels()
    flush = CacheFlush()
    threads_before = torch.get_num_threads()
    try:
        with torch.no_grad():
            for case in tqdm(_cases(options), total=_num_cases(options), unit="case", disable=None):
                yield from _run_case(case, kernels, flush, options)
    finally:
        torch.set_num_threads(threads_before)


def _run_case(case: Case, kernels: Kernels, flush: CacheFlush, options: Options) -> Iterator[list[Row]]:
    cycles = [*our_cycles(case, kernels), floor_cycle(case, kernels), *torch_cycles(case)]
    if options.with_peft and bench_peft.is_available():
        cycles += bench_peft.peft_cycles(case)
    for num_threads in options.threads:
        torch.set_num_threads(num_threads)
        timings = time_cycles(cycles, options.num_repeats, flush)
        if case.title.startswith("stack"):
            timings += time_loads(case, options.num_repeats)
        yield rows_of(case, num_threads, timings)


def _cases(options: Options) -> Iterator[Case]:
    total_bytes = CACHES_PER_CASE * last_level_cache_bytes()
    for size in options.sizes:
        for dtype in options.dtypes:
            for sparsity in options.sparsities:
                weights = square_weights(size, TORCH_DTYPES[dtype], total_bytes=total_bytes)
                yield Case(title=f"n = {size}", weights=weights, sparsity=sparsity, seed=options.seed)
                del weights
                gc.collect()  # of PEFT's modules, which refer to each other
    if options.stack_params:
        weights = llama_weights(options.stack_params, torch.bfloat16)
        num_params = sum(weight.numel() for weight in weights.values())
        title = f"stack of {num_params / 1e9:.2f} B"
        yield Case(title=title, weights=weights, sparsity=0.01, seed=options.seed)


def _num_cases(options: Options) -> int:
    return len(options.sizes) * len(options.dtypes) * len(options.sparsities) + bool(options.stack_params)


def _options(parsed: argparse.Namespace) -> Options:
    base = QUICK if parsed.quick else Options()
    given = {
        "sizes": parsed.sizes,
        "dtypes": parsed.dtypes,
        "sparsities": parsed.sparsities,
        "threads": parsed.threads,
        "stack_params": parsed.stack_params,
        "num_repeats": parsed.repeats,
        "seed": parsed.seed,
        "with_peft": False if parsed.no_peft else None,
    }
    values = {name: getattr(base, name) for name in given}
    values.update({name: tuple(v) if isinstance(v, list) else v for name, v in given.items() if v is not None})
    return Options(**values)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="shira bench switch", description=__doc__)
    parser.add_argument("--sizes", type=_positive, nargs="*", metavar="N", help="of the (N, N) weights")
    parser.add_argument("--dtypes", choices=tuple(TORCH_DTYPES), nargs="+")
    parser.add_argument("--sparsities", type=_fraction, nargs="+", metavar="S", help="share of a weight's entries")
    parser.add_argument("--threads", type=_positive, nargs="+", metavar="T", help="default: 1 and all")
    parser.add_argument("--stack-params", type=_count, metavar="P", help="whole model, default 1e9, 0 for none")
    parser.add_argument("--repeats", type=_positive, metavar="R", help="slow contenders take 3 at most")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--no-peft", action="store_true", help="leave PEFT's merges out")
    parser.add_argument("--quick", action="store_true", help="one small case; flags beside it add to it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="one JSON object per row and line")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="PNG of the last case")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {text}")
    return value


def _count(text: str) -> int:
    value = float(text)
    if not 0 <= value <= 1e12:
        raise argparse.ArgumentTypeError(f"expected 0 to 1e12, got {text}")
    return int(value)


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"expected more than 0 and at most 1, got {text}")
    return value
