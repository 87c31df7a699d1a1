"""The promise: after any number of switches over real weights, failed ones included, the base is what it was."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from adapters_store.adapter import Adapter, Version
from adapters_store.blend import BASE, Blend, BlendMember, DeltaMethod, Fusion
from adapters_store.kernels import Kernels, get_kernels
from server.core.errors import SwitchFailed
from server.core.metrics import Metrics
from server.execution.fused import FusedExecution
from server.runners.loading import load_llm
from tests.e2e.conftest import RealAdapters
from tests.e2e.real_adapters import default_base

NUM_SWITCHES = 10_000
FAILURE_RATE = 0.02
METHODS: list[DeltaMethod] = ["sum", "mean", "ram"]


class HeldAdapters:
    """Adapters already in memory, as the execution asks for them."""

    def __init__(self, adapters: Mapping[Version, Adapter]) -> None:
        self.adapters = adapters

    def acquire(self, version: Version) -> Adapter:
        return self.adapters[version]

    def release(self, adapter: Adapter) -> None:
        pass


class FailingKernels:
    """The real kernels, whose calls raise now and then: before they begin, or after all is written.

    Once between two calls of ``arm`` at most: a rollback that fails as well is another story (the server stops)."""

    def __init__(self, kernels: Kernels, dice: random.Random) -> None:
        self._kernels = kernels
        self._dice = dice
        self._is_armed = True
        self.num_failures = 0

    def arm(self) -> None:
        self._is_armed = True

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self._kernels, name)
        if name not in ("stage", "exchange", "overwrite", "switch"):
            return operation

        def may_fail(*arguments: Any, **options: Any) -> Any:
            self._maybe_raise("before")
            result = operation(*arguments, **options)
            self._maybe_raise("after")
            return result

        return may_fail

    def _maybe_raise(self, when: str) -> None:
        if self._is_armed and self._dice.random() < FAILURE_RATE / 2:
            self._is_armed = False
            self.num_failures += 1
            raise RuntimeError(f"injected {when} a kernel call")


def random_blend(dice: random.Random, versions: list[Version]) -> Blend:
    chosen = dice.sample(versions, dice.choices([0, 1, 2, 3], [1, 8, 0.4, 0.1])[0])
    scales = [1.0] if len(chosen) == 1 else [0.5, 1.0, -0.7]
    members = tuple(BlendMember(version=version, scale=dice.choice(scales)) for version in chosen)
    method: DeltaMethod = dice.choice(METHODS) if len(members) == 3 else "sum"
    return Blend(members=members, fusion=Fusion(method=method))


@pytest.mark.slow
def test_ten_thousand_random_switches_with_failures_leave_the_base_as_it_was(adapters: RealAdapters) -> None:
    model_dir, _ = default_base()
    loaded = load_llm(model_dir, device="cpu")
    dice = random.Random(0)
    kernels = FailingKernels(get_kernels("cpu"), dice)
    held = {adapter.version: adapter for adapter in adapters.by_name.values()}
    metrics = Metrics()
    execution = FusedExecution(
        loaded.weights,
        kernels,
        HeldAdapters(held),
        device_budget_bytes=128 * 1024**2,
        metrics=metrics,
    )
    originals = [weight.tensor.clone() for weight in loaded.weights.weights]
    num_failed = 0
    for _ in range(NUM_SWITCHES):
        before, blend = execution.active, random_blend(dice, list(held))
        kernels.arm()
        try:
            execution.activate(blend)
            assert execution.active.key == blend.key
        except SwitchFailed:
            num_failed += 1
            assert execution.active.key in (before.key, BASE.key)
    assert num_failed == kernels.num_failures > 0
    assert execution.broken is None
    execution.activate(BASE)
    for weight, original in zip(loaded.weights.weights, originals, strict=True):
        assert torch.equal(weight.tensor.view(torch.int16), original.view(torch.int16)), weight.name
    report = [report for report in execution.verify() if report is not None][-1]
    assert report.ok
    assert metrics.base_integrity_failures._value.get() == 0
