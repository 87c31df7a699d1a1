"""From one adapter to another in the weights, beside diffusers' way with LoRA; and what is left of the base after."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from adapters_store.adapter import Adapter
from adapters_store.blend import Blend, BlendMember
from adapters_store.kernels import get_kernels
from adapters_store.tools.bench_timing import CacheFlush, Cycle, Step, time_cycles
from server.bench_pictures.lora import FORWARD, FORWARD_BESIDE, PHASES, SET_ADAPTERS, LoraRival
from server.bench_pictures.options import PicturesOptions
from server.bench_pictures.rows import Group, Row
from server.bench_pictures.sources import HostOrFile
from server.bench_pictures.subject import Subject
from server.core.metrics import Metrics
from server.core.steps import VerifyReport
from server.execution.audit import audit
from server.execution.fused import FusedExecution

BUDGET_BYTES = 4 << 30  # nothing is evicted
TARGET_RATIO = 20
ENTER, SWITCH, RESTORE = "ours: base → A", "ours: A → B", "ours: A → base"
FIRST_USE = "ours: A → B, B's first use: its words are computed"
FROM_FILE = "ours: the same, B read from a file and checked"


def measure_switching(subject: Subject, options: PicturesOptions) -> Group:
    """Contenders take turns; the weights are in memory, files in the page cache."""
    adapters = [subject.random_adapter(sparsity=options.sparsity, seed=options.seed + number) for number in range(2)]
    num_entries = adapters[0].index_set.num_entries
    with tempfile.TemporaryDirectory(prefix="shira-bench-") as folder, torch.no_grad():
        rival = LoraRival(subject, Path(folder), rank=options.lora_rank, num_params=num_entries, seed=options.seed)
        cycles = [*our_cycles(subject, adapters, HostOrFile(adapters, Path(folder) / "adapters")), *rival.cycles()]
        timings = time_cycles(cycles, options.num_rounds, CacheFlush())
        exactness = _exactness_rows(verify(subject), rival)
    return Group(
        name=f"switching, {subject.title}",
        conditions={
            "dtype": subject.weights.dtype,
            "num_params": subject.num_params,
            "num_entries": num_entries,
            "entries_of": sum(tensor.numel() for tensor in subject.tensors.values()),
            "lora_rank": rival.rank,
            "lora_params": rival.num_params,
            "lora_of": rival.num_changed_params,
        },
        rows=[*_time_rows({timing.label: timing.median_s * 1e3 for timing in timings}), *exactness],
    )


def our_cycles(subject: Subject, adapters: Sequence[Adapter], source: HostOrFile) -> list[Cycle]:
    """Between two adapters that ``source`` has; each cycle begins and ends with the base in the weights."""
    kernels = get_kernels(subject.weights.device)
    execution = FusedExecution(subject.weights, kernels, source, device_budget_bytes=BUDGET_BYTES, metrics=Metrics())
    a, b = (Blend(members=(BlendMember(version=adapter.version, scale=1.0),)) for adapter in adapters)

    def forget_b(*, is_on_host: bool) -> None:
        execution.activate(a)
        execution.forget(adapters[1].version)
        source.is_on_host = is_on_host

    def use_b() -> None:
        execution.activate(b)

    leave = Step(label=None, run=execution.restore)
    return [
        Cycle(
            (
                Step(label=ENTER, run=lambda: execution.activate(a)),
                Step(label=RESTORE, run=execution.restore),
                Step(label=None, run=lambda: execution.activate(a)),
                Step(label=SWITCH, run=use_b),
                leave,
            )
        ),
        Cycle((Step(label=None, run=lambda: forget_b(is_on_host=True)), Step(label=FIRST_USE, run=use_b), leave)),
        Cycle((Step(label=None, run=lambda: forget_b(is_on_host=False)), Step(label=FROM_FILE, run=use_b), leave)),
    ]


def verify(subject: Subject) -> VerifyReport:
    """Of the weights as they are now, against what was loaded."""
    *_, report = audit(subject.weights, lambda: None)
    assert report is not None  # noqa: S101  (an audit ends with its report)
    return report


def _time_rows(ms: dict[str, float]) -> list[Row]:
    switch_ms = ms[SWITCH]
    whole_ms = sum(ms[phase] for phase in PHASES)
    ours = [_to_switch(label, ms[label], switch_ms) for label in (ENTER, RESTORE, SWITCH, FIRST_USE, FROM_FILE)]
    rival = [_to_switch(label, ms[label], switch_ms) for label in PHASES]
    return [
        *ours,
        *rival,
        _to_switch("diffusers: load + fuse + unfuse + unload", whole_ms, switch_ms, at_least=TARGET_RATIO),
        _to_switch("diffusers: unfuse + fuse, were both loaded", ms[PHASES[1]] + ms[PHASES[2]], switch_ms),
        _to_switch(SET_ADAPTERS, ms[SET_ADAPTERS], switch_ms),
        Row(what=FORWARD, value=ms[FORWARD], unit="ms"),
        Row(
            what=FORWARD_BESIDE, value=ms[FORWARD_BESIDE], unit="ms", ratio=ms[FORWARD_BESIDE] / ms[FORWARD], to="plain"
        ),
    ]


def _to_switch(what: str, value_ms: float, switch_ms: float, *, at_least: float | None = None) -> Row:
    return Row(what=what, value=value_ms, unit="ms", ratio=value_ms / switch_ms, to="A → B", at_least=at_least)


def _exactness_rows(report: VerifyReport, rival: LoraRival) -> list[Row]:
    return [
        Row(
            what="ours: weights that differ from what was loaded",
            value=len(report.mismatched),
            unit="weights",
            ratio=float(len(report.mismatched)),
            to="one weight",
            at_most=0,
        ),
        Row(what="diffusers: words changed by one fuse and unfuse", value=100 * rival.share_changed, unit="%"),
    ]
