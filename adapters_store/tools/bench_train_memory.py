"""The memory that training takes beside the loaded base, each contender in a fresh process."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from adapters_store.errors import TrainingRefused
from adapters_store.tools.bench_train_contenders import Contender, TrainCase, attach, choose_entries, load_base
from adapters_store.tools.bench_train_step import TrainStep, draw_batches

NUM_STEPS = 3  # the first makes the optimiser's state
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"
M_MMAP_THRESHOLD = -3  # of malloc.h
MMAP_THRESHOLD_BYTES = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryUse:
    """Bytes. ``added`` is the peak of a few steps over what the process held once the base was loaded."""

    base: int
    peak: int

    @property
    def added(self) -> int:
        return self.peak - self.base


def measure_memory(case: TrainCase, name: Contender) -> MemoryUse:
    """In a process of its own, which holds one base and one contender. Raises TrainingRefused, OSError."""
    if case.device == "cpu" and not CLEAR.exists():
        raise TrainingRefused("memory", expected="Linux, whose kernel counts a process's peak", got=sys.platform)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_use_memory, case, name).result()
        except BrokenProcessPool as error:
            raise TrainingRefused("memory", expected=f"enough for {name}", got="its process was killed") from error


def _use_memory(case: TrainCase, name: Contender) -> MemoryUse:
    """Of this process. Loading the base and choosing the entries are over before the peak is looked for."""
    _give_freed_blocks_back()
    transformers_logging.disable_progress_bar()  # of loading weights
    torch.set_num_threads(case.threads)
    model = load_base(case)
    index_set = choose_entries(case, model)
    gc.collect()
    base = _in_use(case)
    step = TrainStep(case, attach(name, case, model, index_set))
    _reset_peak(case)
    for batch in draw_batches(case, model, NUM_STEPS):
        step(batch)
    return MemoryUse(base=base, peak=_peak(case))


def _give_freed_blocks_back() -> None:
    """By default glibc keeps what was freed in a way that differs from run to run by more than what is measured."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)


def _in_use(case: TrainCase) -> int:
    return torch.cuda.memory_allocated() if case.device == "cuda" else _status_bytes("VmRSS")


def _peak(case: TrainCase) -> int:
    return torch.cuda.max_memory_allocated() if case.device == "cuda" else _status_bytes("VmHWM")


def _reset_peak(case: TrainCase) -> None:
    if case.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        CLEAR.write_text(RESET_PEAK)


def _status_bytes(field: str) -> int:
    """A field of this process that the kernel counts in KiB. Raises OSError where it does not."""
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{STATUS} does not tell {field}")
