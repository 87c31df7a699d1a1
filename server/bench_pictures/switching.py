"""From one adapter to another in the weights, beside diffusers' way with LoRA; and what is left of the base after."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from adapters_store.adapter import Adapter
from adapters_store.blend import Blend, BlendMember
from adapters_store.kernels import get_kernels
from adapters_store.tools.bench_timing import CacheFlush, Cycle, Step, time_cycles
from server.bench_pictures.lora import FORWARD, FORWARD_BESIDE, SET_ADAPTERS, LoraRival
from server.bench_pictures.options import PicturesOptions, Targets
from server.bench_pictures.rows import Group, Row
from server.bench_pictures.sources import HostOrFile
from server.bench_pictures.subject import Subject
from server.core.metrics import Metrics
from server.core.steps import VerifyReport
from server.execution.audit import audit
from server.execution.fused import FusedExecution

BUDGET_BYTES = 4 << 30  # nothing is evicted
TARGET_RATIO = 20
TARGETS: tuple[Targets, ...] = ("attention", "all")
ENTER, SWITCH, RESTORE = "ours: base → A", "ours: A → B", "ours: A → base"
FIRST_USE = "ours: A → B, B's first use: its words are computed"
FROM_FILE = "ours: the same, B read from a file and checked"


def measure_switching(subject: Subject, options: PicturesOptions) -> Group:
    """Contenders take turns; the weights are in memory, files in the page cache."""
    adapters = [subject.random_adapter(sparsity=options.sparsity, seed=options.seed + number) for number in range(2)]
    num_entries = adapters[0].index_set.num_entries
    originals = {name: tensor.clone() for name, tensor in subject.tensors.items()}
    with tempfile.TemporaryDirectory(prefix="shira-bench-") as folder, torch.no_grad():
        source = HostOrFile(adapters, Path(folder) / "adapters")
        rivals = {
            targets: LoraRival(
                subject,
                originals,
                Path(folder) / targets,
                targets=targets,
                rank=options.lora_rank,
                num_params=num_entries,
                seed=options.seed,
            )
            for targets in (TARGETS if subject.targets == "all" else (subject.targets,))
        }
        cycles = [
            *our_cycles(subject, adapters, source),
            *(rival.through_the_weights() for rival in rivals.values()),
            rivals["attention"].beside_the_weights(),
        ]
        timings = time_cycles(cycles, options.num_rounds, CacheFlush())
    ms = {timing.label: timing.median_s * 1e3 for timing in timings}
    return Group(
        name=f"switching, {subject.title}",
        conditions={
            "dtype": subject.weights.dtype,
            "targets": subject.targets,
            "num_params": subject.num_params,
            "num_entries": num_entries,
            "entries_of": sum(tensor.numel() for tensor in subject.tensors.values()),
            **{f"lora_{targets}_params": rival.num_params for targets, rival in rivals.items()},
        },
        rows=[
            *_our_rows(ms, verify(subject)),
            *(row for rival in rivals.values() for row in _rival_rows(ms, rival)),
            *_unfused_rows(ms),
        ],
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


def _our_rows(ms: Mapping[str, float], report: VerifyReport) -> list[Row]:
    num_mismatched = len(report.mismatched)
    return [
        *(_to_switch(ms, label, ms[label]) for label in (ENTER, RESTORE, SWITCH, FIRST_USE, FROM_FILE)),
        Row(
            what="ours: weights that differ from what was loaded",
            value=num_mismatched,
            unit="weights",
            ratio=float(num_mismatched),
            to="one weight",
            at_most=0,
        ),
    ]


def _rival_rows(ms: Mapping[str, float], rival: LoraRival) -> list[Row]:
    _, fuse, unfuse, _ = rival.phases
    return [
        *(_to_switch(ms, phase, ms[phase]) for phase in rival.phases),
        _to_switch(ms, f"{rival.name}: all four", sum(ms[phase] for phase in rival.phases), at_least=TARGET_RATIO),
        _to_switch(ms, f"{rival.name}: unfuse and fuse alone", ms[unfuse] + ms[fuse]),
        Row(what=f"{rival.name}: words that this changed", value=100 * rival.share_changed, unit="%"),
    ]


def _unfused_rows(ms: Mapping[str, float]) -> list[Row]:
    beside_ms, plain_ms = ms[FORWARD_BESIDE], ms[FORWARD]
    return [
        _to_switch(ms, SET_ADAPTERS, ms[SET_ADAPTERS]),
        Row(what=FORWARD, value=plain_ms, unit="ms"),
        Row(what=FORWARD_BESIDE, value=beside_ms, unit="ms", ratio=beside_ms / plain_ms, to="plain"),
    ]


def _to_switch(ms: Mapping[str, float], what: str, value: float, *, at_least: float | None = None) -> Row:
    return Row(what=what, value=value, unit="ms", ratio=value / ms[SWITCH], to="A → B", at_least=at_least)
