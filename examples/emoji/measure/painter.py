"""Draws many pictures with the server's own runner and execution, without the engine and HTTP around them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from adapters_store.adapter import Adapter, Version
from adapters_store.base import BaseDescription
from adapters_store.blend import Blend
from server.core.requests import ImageRequest, Picture, RequestId
from server.core.steps import StepError, StepImage, Work
from server.runners.pipeline_loading import load_pipeline
from server.stack import InMemory, build_picture_stack

BUDGET_BYTES = 1 << 30
NUM_TOGETHER = 50  # pictures under way, and in one forward

Wish = tuple[str, int]  # prompt and seed


class Painter:
    """One base on the CPU: weights in float32, products in bfloat16, which is twice as fast. Adapters are added before
    blends of them are drawn."""

    def __init__(self, model: Path, *, num_steps: int = 20, guidance_scale: float = 4.0) -> None:
        self.num_steps = num_steps
        self.guidance_scale = guidance_scale
        loaded = load_pipeline(model, dtype="float32", device="cpu")
        self._size = loaded.default_height, loaded.default_width
        self._source = InMemory()
        self.stack = build_picture_stack(
            loaded,
            self._source,
            device_budget_bytes=BUDGET_BYTES,
            max_images=NUM_TOGETHER,
            max_forward_pixels=NUM_TOGETHER * self._size[0] * self._size[1],
        )

    @property
    def base(self) -> BaseDescription:
        return self.stack.loaded.weights.description

    def add(self, adapter: Adapter) -> Version:
        self._source.add(adapter)
        return adapter.version

    def draw(self, blend: Blend, wishes: Sequence[Wish]) -> Tensor:
        """uint8 (wishes, 3, height, width). A picture depends on its prompt, its seed and the blend."""
        pictures: list[Picture] = []
        for start in range(0, len(wishes), NUM_TOGETHER):
            with torch.autocast("cpu", torch.bfloat16):
                pictures += self._draw_together(blend, wishes[start : start + NUM_TOGETHER])
        pixels = [np.frombuffer(each.rgb, np.uint8).reshape(each.height, each.width, 3) for each in pictures]
        return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()

    def _draw_together(self, blend: Blend, wishes: Sequence[Wish]) -> list[Picture]:
        runner, pictures = self.stack.runner, dict[RequestId, Picture]()
        self.stack.execution.activate(blend)
        requests = [self._request(f"{number}", blend, wish) for number, wish in enumerate(wishes)]
        for request in requests:
            runner.begin(request)
        while waiting := [request.id for request in requests if request.id not in pictures]:
            for result in runner.step([Work(id=name) for name in waiting]):
                if isinstance(result, StepError):
                    raise result.error
                if isinstance(result, StepImage) and result.picture is not None:
                    pictures[result.id] = result.picture
        runner.drop(list(pictures))
        return [pictures[request.id] for request in requests]

    def _request(self, name: str, blend: Blend, wish: Wish) -> ImageRequest:
        prompt, seed = wish
        height, width = self._size
        return ImageRequest(
            id=RequestId(name),
            tenant="default",
            client="measure",
            weight=1.0,
            blend=blend,
            adapters=(),
            mode="auto",
            arrived_s=0.0,
            deadline_s=None,
            max_new_tokens=self.num_steps,
            prompt=prompt,
            negative_prompt=None,
            height=height,
            width=width,
            guidance_scale=self.guidance_scale,
            scheduler=None,
            seed=seed,
            preview_every=0,
        )
