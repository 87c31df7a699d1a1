"""A tiny pipeline under the runner and the execution that serve it, driven without an engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adapters_store.adapter import Adapter
from adapters_store.blend import BASE, Blend, BlendMember, Fusion
from adapters_store.format.packing import unpack_positions
from server.bench_serve.random_adapters import sparse_adapter
from server.core.requests import ImageRequest, Picture, RequestId
from server.core.steps import StepError, StepImage, Work
from server.runners.diffusion import DiffusionRunner
from server.runners.pipeline_loading import LoadedPipeline, load_pipeline
from server.stack import InMemory, PictureStack, build_picture_stack
from tests.server.runners.tiny_pipelines import Family, save_tiny_pipeline

BUDGET_BYTES = 1 << 28
MANY_PIXELS = 1 << 20
SIZE, NUM_STEPS = 32, 3


@dataclass(frozen=True, kw_only=True)
class PictureRig:
    loaded: LoadedPipeline
    source: InMemory
    stack: PictureStack

    @classmethod
    def of(cls, family: Family, path: Path, *, max_pixels: int = MANY_PIXELS, dtype: Any = "auto") -> PictureRig:
        if not path.exists():
            save_tiny_pipeline(family, path)
        loaded = load_pipeline(path, dtype=dtype, device="cpu")
        source = InMemory()
        stack = build_picture_stack(
            loaded, source, device_budget_bytes=BUDGET_BYTES, max_images=64, max_forward_pixels=max_pixels
        )
        return cls(loaded=loaded, source=source, stack=stack)

    @property
    def runner(self) -> DiffusionRunner:
        return self.stack.runner

    def adapter(self, seed: int, *, component: str | None = None) -> Adapter:
        """Random, of every weight of one component: the denoiser by default."""
        parameters = {weight.name for weight in self.loaded.weights.weights}  # SD3 stores positions as a weight as well
        adapter = sparse_adapter(
            self.loaded.weights.description,
            sparsity=0.1,
            seed=seed,
            is_target=lambda name: name in parameters and name.startswith(f"{component or self.loaded.denoiser}."),
            delta_scale=0.2,
        )
        self.source.add(adapter)
        return adapter

    def draw(self, *requests: ImageRequest) -> list[Picture]:
        """All of one blend together, each blend's next step in turn, as the engine does."""
        pictures: dict[RequestId, Picture] = {}
        for request in requests:
            self.runner.begin(request)
        while waiting := [request for request in requests if request.id not in pictures]:
            for key in dict.fromkeys(request.blend.key for request in waiting):
                together = [request for request in waiting if request.blend.key == key]
                self.stack.execution.activate(together[0].blend)
                for result in self.runner.step([Work(id=request.id) for request in together]):
                    if isinstance(result, StepError):
                        raise result.error
                    assert isinstance(result, StepImage)
                    if result.picture is not None:
                        pictures[result.id] = result.picture
                        self.runner.drop([result.id])
        return [pictures[request.id] for request in requests]


def one(*adapters: Adapter, method: Any = "sum", scale: float = 1.0, every: int | None = None) -> Blend:
    members = tuple(BlendMember(version=adapter.version, scale=scale) for adapter in adapters)
    return Blend(members=members, fusion=Fusion(method=method, every=every))


def image_request(name: str = "r", blend: Blend = BASE, *, seed: int = 1, **changes: Any) -> ImageRequest:
    request = ImageRequest(
        id=RequestId(name),
        tenant="default",
        client="anonymous",
        weight=1.0,
        blend=blend,
        adapters=(),
        mode="auto",
        arrived_s=0.0,
        deadline_s=None,
        max_new_tokens=NUM_STEPS,
        prompt="a red apple",
        negative_prompt=None,
        height=SIZE,
        width=SIZE,
        guidance_scale=None,
        scheduler=None,
        seed=seed,
        preview_every=0,
    )
    return replace(request, **changes)


def pixels(picture: Picture) -> np.ndarray[Any, Any]:
    return np.frombuffer(picture.rgb, np.uint8).reshape(picture.height, picture.width, 3)


def deltas(adapters: Sequence[tuple[Adapter, float]]) -> Mapping[str, Tensor]:
    """Dense float32 Σ scale · values, by name of the weight."""
    dense: dict[str, Tensor] = {}
    for adapter, scale in adapters:
        start = 0
        for entry, flat in unpack_positions(adapter.index_set):
            stop = start + flat.numel()
            total = dense.setdefault(entry.name, torch.zeros(entry.shape))
            total.view(-1)[flat] += scale * adapter.values[start:stop].float()
            start = stop
    return dense
