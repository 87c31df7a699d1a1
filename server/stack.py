"""From a loaded model to one that runs: weights → execution → runner, for whoever drives it step by step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adapters_store.adapter import Adapter, Version
from adapters_store.kernels import RowKernels, get_kernels, get_row_kernels
from adapters_store.tiers.observer import TierObserver
from server.core.metrics import Metrics
from server.execution.fused import FusedExecution
from server.execution.mixed import MixedExecution
from server.execution.staging import AdapterSource
from server.execution.stepwise import StepwiseExecution
from server.runners.backend import Backend
from server.runners.backends import pick_backend
from server.runners.llm import LlmRunner
from server.runners.loading import LoadedModel
from server.runners.pipeline_loading import LoadedPipeline
from server.runners.text import TextCodec

if TYPE_CHECKING:
    from server.runners.diffusion import DiffusionRunner

PickBackend = Callable[[LoadedModel, RowKernels, int], Backend]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """Everything one thread drives for texts. ``kernels``: what runs switches and products, for logs and reports."""

    loaded: LoadedModel
    execution: MixedExecution
    runner: LlmRunner
    backend: Backend
    codec: TextCodec
    kernels: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureStack:
    """The same for pictures."""

    loaded: LoadedPipeline
    execution: StepwiseExecution
    runner: DiffusionRunner
    kernels: str


class InMemory:
    """An adapter source for whoever has no store."""

    def __init__(self, *adapters: Adapter) -> None:
        self._adapters = {adapter.version: adapter for adapter in adapters}

    def add(self, adapter: Adapter) -> None:
        self._adapters[adapter.version] = adapter

    def acquire(self, version: Version) -> Adapter:
        return self._adapters[version]

    def release(self, adapter: Adapter) -> None:
        pass


def build_stack(
    loaded: LoadedModel,
    source: AdapterSource,
    *,
    device_budget_bytes: int,
    kv_budget_bytes: int,
    metrics: Metrics | None = None,
    observer: TierObserver | None = None,
    pick: PickBackend = pick_backend,
) -> Stack:
    """Raises ModelNotLoadable for a model that cannot be run step by step."""
    metrics = metrics or Metrics()
    device = loaded.weights.device
    kernels, row_kernels = get_kernels(device), get_row_kernels(device)
    backend = pick(loaded, row_kernels, kv_budget_bytes)
    metrics.kv_budget_bytes.set(backend.kv_budget_bytes)
    metrics.kv_bytes.set_function(lambda: backend.kv_bytes)
    execution = MixedExecution(
        FusedExecution(
            loaded.weights,
            kernels,
            source,
            device_budget_bytes=device_budget_bytes,
            metrics=metrics,
            row_kernels=row_kernels,
            mixable=backend.mixable_weights,
            observer=observer,
        )
    )
    codec = TextCodec(loaded.tokenizer)
    return Stack(
        loaded=loaded,
        execution=execution,
        runner=LlmRunner(backend, execution, codec, eos_tokens=loaded.eos_tokens, device=device),
        backend=backend,
        codec=codec,
        kernels=f"{kernels.name}, rows {row_kernels.name}",
    )


def build_picture_stack(
    loaded: LoadedPipeline,
    source: AdapterSource,
    *,
    device_budget_bytes: int,
    max_images: int,
    max_forward_pixels: int,
    metrics: Metrics | None = None,
    observer: TierObserver | None = None,
) -> PictureStack:
    """At most ``max_images`` are under way at a time, one forward is over at most ``max_forward_pixels`` of them."""
    from server.runners.diffusion import DiffusionRunner  # needs packages that a base which writes text does not

    kernels = get_kernels(loaded.weights.device)
    fused = FusedExecution(
        loaded.weights,
        kernels,
        source,
        device_budget_bytes=device_budget_bytes,
        metrics=metrics or Metrics(),
        observer=observer,
    )
    execution = StepwiseExecution(fused, prefix=f"{loaded.denoiser}.")
    runner = DiffusionRunner(loaded, execution, max_images=max_images, max_pixels=max_forward_pixels)
    return PictureStack(loaded=loaded, execution=execution, runner=runner, kernels=kernels.name)
