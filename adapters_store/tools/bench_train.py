"""``shira bench train``: what training an adapter takes, in time and in memory, beside PEFT's LoRA and SHiRA."""

from __future__ import annotations

import copy
import gc
import json
import statistics
from dataclasses import dataclass

import torch
from torch import nn
from tqdm import tqdm

from adapters_store.tools.bench_train_contenders import (
    REFERENCE,
    Contender,
    TrainCase,
    attach,
    choose_entries,
    contenders,
    load_base,
)
from adapters_store.tools.bench_train_memory import MemoryUse, measure_memory
from adapters_store.tools.bench_train_report import TrainBenchReport, TrainRow, as_json, as_table
from adapters_store.tools.bench_train_step import TrainStep, draw_batches

NUM_WARM_UP = 2


def run(case: TrainCase, *, num_rounds: int, is_json: bool = False) -> TrainBenchReport:
    """Prints the report. Raises TrainingRefused."""
    times = time_steps(case, num_rounds)
    gc.collect()  # of PEFT's modules, which refer to each other
    memory = {name: measure_memory(case, name) for name in tqdm(contenders(case), desc="memory", disable=None)}
    report = TrainBenchReport(
        case=case,
        num_rounds=num_rounds,
        num_base_params=times.num_base_params,
        rows=tuple(_row(times, memory[name], name) for name in contenders(case)),
    )
    print(json.dumps(as_json(report)) if is_json else as_table(report))
    return report


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimes:
    """``seconds`` of every round, ``num_trained`` parameters, by contender."""

    num_base_params: int
    num_trained: dict[Contender, int]
    seconds: dict[Contender, list[float]]


def time_steps(case: TrainCase, num_rounds: int) -> StepTimes:
    """All contenders over one base in memory, on the same batches, taking turns; the order is reversed every other
    round, and the first two rounds are not counted. Leaves torch's number of threads as it was."""
    threads_before = torch.get_num_threads()
    torch.set_num_threads(case.threads)
    try:
        model = load_base(case)
        index_set = choose_entries(case, model)
        steps = {name: TrainStep(case, attach(name, case, same_weights(model), index_set)) for name in contenders(case)}
        seconds: dict[Contender, list[float]] = {name: [] for name in steps}
        batches = draw_batches(case, model, NUM_WARM_UP + num_rounds)
        for number, batch in enumerate(tqdm(batches, desc="rounds", disable=None)):
            for name in list(steps) if number % 2 else reversed(list(steps)):
                taken = steps[name](batch)
                if number >= NUM_WARM_UP:
                    seconds[name].append(taken)
    finally:
        torch.set_num_threads(threads_before)
    return StepTimes(
        num_base_params=sum(parameter.numel() for parameter in model.parameters()),
        num_trained={name: step.num_trained for name, step in steps.items()},
        seconds=seconds,
    )


def same_weights(model: nn.Module) -> nn.Module:
    """A model of its own over the same parameters. Everybody leaves them frozen; ours write their few entries anew
    before every step, which does not matter to the time that others take."""
    return copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})


def _row(times: StepTimes, memory: MemoryUse, name: Contender) -> TrainRow:
    ratios = [reference / own for own, reference in zip(times.seconds[name], times.seconds[REFERENCE], strict=True)]
    low, middle, high = _quartiles(ratios)
    return TrainRow(
        name=name,
        num_trained=times.num_trained[name],
        steps_per_s=1 / statistics.median(times.seconds[name]),
        speed_ratio=middle,
        speed_ratio_low=low,
        speed_ratio_high=high,
        memory=memory,
    )


def _quartiles(values: list[float]) -> tuple[float, float, float]:
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high
