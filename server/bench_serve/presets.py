"""The named comparisons, each with what must come out of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from server.bench_serve.plan import Cell, Plan, Target
from server.bench_serve.subjects import Offline, ShiraServer, Subject, VllmServer
from server.bench_serve.workload import Lengths, WorkloadSpec
from server.engine.limits import Limits

NO_ADAPTERS = ShiraServer()
DEFAULT_LIMITS = Limits()
SCHEDULES = ("auto", "fused", "mixed")
CONCURRENCIES = (1, 8, 32, 128)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much of everything. A closed-loop workload has ``requests_per_client`` for each client, open ones as many as
    for 32. ``limits`` are those of the servers."""

    requests_per_client: int = 2
    prompt_tokens: Lengths
    new_tokens: Lengths
    limits: Limits = DEFAULT_LIMITS

    def closed(self, concurrency: int, num_adapters: int = 0, **more: Any) -> WorkloadSpec:
        return WorkloadSpec(
            num_requests=concurrency * self.requests_per_client,
            concurrency=concurrency,
            num_adapters=num_adapters,
            prompt_tokens=self.prompt_tokens,
            new_tokens=self.new_tokens,
            **more,
        )

    def open(self, rate_per_s: float, num_adapters: int = 0, **more: Any) -> WorkloadSpec:
        spec = self.closed(32, num_adapters, **more)
        return replace(spec, concurrency=None, rate_per_s=rate_per_s)


def base_256(scale: Scale) -> Plan:
    """Base traffic where 256 adapters are held, against where none is."""
    cells: list[Cell] = []
    targets: list[Target] = []
    for concurrency in (8, 32):
        workload = scale.closed(concurrency)
        holding, without = (
            Cell(subject=each, workload=workload) for each in (ShiraServer(num_adapters=256), NO_ADAPTERS)
        )
        cells += [holding, without]
        says = f"base traffic on a server that holds 256 adapters, to one without any, c={concurrency}"
        targets.append(Target(says=says, cell=holding, against=without, bound=0.98))
    return Plan(name="base-256", cells=tuple(cells), targets=tuple(targets))


def one(scale: Scale) -> Plan:
    """One adapter, against the base."""
    cells: list[Cell] = []
    targets: list[Target] = []
    for concurrency in (8, 32):
        adapted = Cell(subject=ShiraServer(num_adapters=1), workload=scale.closed(concurrency, 1))
        base = Cell(subject=NO_ADAPTERS, workload=scale.closed(concurrency))
        cells += [adapted, base]
        says = f"one adapter, to the base, c={concurrency}"
        targets.append(Target(says=says, cell=adapted, against=base, bound=0.97))
    return Plan(name="one", cells=tuple(cells), targets=tuple(targets))


def zipf16(scale: Scale) -> Plan:
    """Sixteen adapters by Zipf's law at concurrency 32, against our base and transformers' padded batch."""
    workload = scale.closed(32, 16)
    many = Cell(subject=ShiraServer(num_adapters=16), workload=workload)
    base = Cell(subject=NO_ADAPTERS, workload=scale.closed(32))
    padded = Cell(subject=Offline(method="generate"), workload=scale.closed(32))
    targets = (
        Target(says="16 adapters, to our base", cell=many, against=base, bound=0.60),
        Target(says="16 adapters, to generate on a padded batch of 32", cell=many, against=padded, bound=0.75),
        Target(
            says="16 adapters, TTFT p99 to that of our base",
            cell=many,
            against=base,
            figure="ttft_ms_p99",
            bound=2.0,
            is_ceiling=True,
        ),
        Target(says="our base, to generate on a padded batch of 32", cell=base, against=padded),
    )
    return Plan(name="zipf16", cells=(many, base, padded), targets=targets)


def host16of64(scale: Scale) -> Plan:
    """Sixty-four adapters where there is room for sixteen."""
    longest_wait_steps = scale.limits.longest_wait_steps(
        num_live=32, max_sequence_tokens=scale.prompt_tokens.high + scale.new_tokens.high
    )
    base = Cell(subject=NO_ADAPTERS, workload=scale.closed(32))
    cells, targets = [base], []
    for popularity in ("zipf", "uniform"):
        subject = ShiraServer(num_adapters=64, room_for=16)
        many = Cell(subject=subject, workload=scale.closed(32, 64, popularity=popularity))
        cells.append(many)
        targets += [
            Target(says=f"64 adapters {popularity}, room for 16, to our base", cell=many, against=base, bound=0.5),
            Target(
                says=f"64 adapters {popularity}, longest wait in steps",
                cell=many,
                against=None,
                figure="worst_wait_steps",
                bound=longest_wait_steps,
                is_ceiling=True,
            ),
        ]
    return Plan(name="host16of64", cells=tuple(cells), targets=tuple(targets))


def peft8(scale: Scale) -> Plan:
    """Eight adapters at once, against PEFT's two ways."""
    workload = scale.closed(8, 8, popularity="round-robin")
    ours = Cell(subject=ShiraServer(num_adapters=8), workload=workload)
    names = Cell(subject=Offline(method="adapter-names", num_adapters=8), workload=workload)
    merge = Cell(subject=Offline(method="merge", num_adapters=8), workload=workload)
    targets = (
        Target(says="8 adapters, batch 8, to PEFT adapter_names", cell=ours, against=names, bound=3.0),
        Target(says="8 adapters, batch 8, to PEFT merge/unmerge", cell=ours, against=merge, bound=3.0),
    )
    return Plan(name="peft8", cells=(ours, names, merge), targets=targets)


def engine8(scale: Scale) -> Plan:
    """The engine without HTTP, against transformers."""
    workload = scale.closed(8)
    ours = Cell(subject=Offline(method="engine"), workload=workload)
    padded = Cell(subject=Offline(method="generate"), workload=workload)
    targets = (
        Target(
            says="our steps, batch 8, decode alone, to generate on a padded batch of 8",
            cell=ours,
            against=padded,
            figure="decode_tokens_per_s",
            bound=1.0,
        ),
        Target(says="the same with the prompts", cell=ours, against=padded),
    )
    return Plan(name="engine8", cells=(ours, padded), targets=targets)


def policies(scale: Scale) -> Plan:
    """The policy, against always fused and always mixed, on every kind of traffic."""
    workloads = [
        scale.closed(32),
        *(scale.closed(32, count) for count in (1, 2, 4, 8, 16)),
        *(scale.closed(32, 16, popularity=popularity) for popularity in ("uniform", "round-robin", "bursts")),
        *(scale.closed(8, count) for count in (1, 4, 16)),
        scale.closed(8, 16, popularity="bursts"),
        scale.closed(32, 16, base_share=0.5),
        scale.closed(1, 16),
    ]
    cells: list[Cell] = []
    targets: list[Target] = []
    for workload in workloads:
        by_schedule = {
            schedule: Cell(subject=ShiraServer(num_adapters=16, options=(("schedule", schedule),)), workload=workload)
            for schedule in SCHEDULES
        }
        cells += by_schedule.values()
        auto = by_schedule["auto"]
        targets += [
            Target(says=f"auto to always {other}: {workload}", cell=auto, against=by_schedule[other], bound=0.95)
            for other in SCHEDULES[1:]
        ]
    return Plan(name="policies", cells=tuple(cells), targets=tuple(targets))


def vllm(scale: Scale) -> Plan:
    """The same traffic on vLLM."""
    cells: list[Cell] = []
    targets: list[Target] = []

    def compare(says: str, ours: Subject, theirs: Subject, workload: WorkloadSpec, bound: float | None = None) -> None:
        own, other = (Cell(subject=each, workload=workload) for each in (ours, theirs))
        cells.extend([own, other])
        targets.append(Target(says=f"{says}, c={workload.concurrency}", cell=own, against=other, bound=bound))

    for concurrency in (1, 8, 32):
        compare(
            "our base to vLLM's, LoRA off",
            NO_ADAPTERS,
            VllmServer(),
            scale.closed(concurrency),
            1.0 if concurrency == 32 else None,
        )
    for concurrency, count in product((8, 32), (0, 1, 16)):
        what = f"{count or 'no'} adapters where there is room for 16"
        workload = scale.closed(concurrency, count)
        compare(f"{what}, ours to vLLM's", ShiraServer(num_adapters=16), VllmServer(num_adapters=16), workload)
    return Plan(name="vllm", cells=tuple(cells), targets=tuple(targets))


def grid(scale: Scale) -> Plan:
    """Adapters × concurrency, then other popularities, lengths, loops and keys, each against the base."""
    holding = ShiraServer(num_adapters=256)
    cells: list[Cell] = []
    targets: list[Target] = []

    def compare(subject: ShiraServer, workload: WorkloadSpec, base_workload: WorkloadSpec, says: str) -> None:
        many, base = Cell(subject=subject, workload=workload), Cell(subject=NO_ADAPTERS, workload=base_workload)
        cells.extend(cell for cell in (base, many) if cell not in cells)
        targets.append(Target(says=says, cell=many, against=base))

    def add(workload: WorkloadSpec, subject: ShiraServer = holding) -> None:
        base_workload = replace(workload, num_adapters=0, key_shares=(1.0,))
        compare(subject, workload, base_workload, f"{workload} to base only")

    for concurrency, count in product(CONCURRENCIES, (0, 1, 4, 16, 64, 256)):
        add(scale.closed(concurrency, count))
    for popularity in ("uniform", "round-robin", "bursts"):
        add(scale.closed(32, 16, popularity=popularity))
    varied = replace(scale, prompt_tokens=Lengths(low=16, high=512), new_tokens=Lengths(low=8, high=128))
    add(varied.closed(32, 16))
    add(varied.open(4.0, 16))
    add(varied.open(4.0, 16, popularity="bursts"))
    keyed = ShiraServer(num_adapters=16, num_keys=3)
    add(scale.closed(32, 16, key_shares=(0.7, 0.2, 0.1)), keyed)
    add(scale.closed(32, 64), ShiraServer(num_adapters=64, room_for=16))
    return Plan(name="grid", cells=tuple(cells), targets=tuple(targets))


PRESETS: Mapping[str, Callable[[Scale], Plan]] = {
    "base-256": base_256,
    "one": one,
    "zipf16": zipf16,
    "host16of64": host16of64,
    "peft8": peft8,
    "engine8": engine8,
    "policies": policies,
    "vllm": vllm,
    "grid": grid,
}
