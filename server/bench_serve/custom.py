"""One workload of the user's own, against the base and whatever else was chosen."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from server.bench_serve.plan import Cell, Plan, Target
from server.bench_serve.subjects import Offline, ShiraServer, Subject, VllmServer
from server.bench_serve.workload import WorkloadSpec

Baseline = Literal["generate", "adapter-names", "merge", "vllm"]


def custom(workload: WorkloadSpec, *, num_held: int, room_for: int | None, baselines: tuple[Baseline, ...]) -> Plan:
    """``num_held`` adapters are uploaded, of which the workload asks for its own number."""
    ours = ShiraServer(num_adapters=num_held, room_for=room_for, num_keys=len(workload.key_shares))
    many = Cell(subject=ours, workload=workload)
    base_workload = replace(workload, num_adapters=0, key_shares=(1.0,))
    base = Cell(subject=ShiraServer(), workload=base_workload)
    others = [Cell(subject=_subject(baseline, workload), workload=workload) for baseline in baselines]
    targets = [
        Target(says="to our base", cell=many, against=base),
        *(Target(says=f"to {other.subject}", cell=many, against=other) for other in others),
    ]
    return Plan(name=str(workload), cells=(many, base, *others), targets=tuple(targets))


def _subject(baseline: Baseline, workload: WorkloadSpec) -> Subject:
    if baseline == "vllm":
        return VllmServer(num_adapters=workload.num_adapters)
    return Offline(method=baseline, num_adapters=0 if baseline == "generate" else workload.num_adapters)
