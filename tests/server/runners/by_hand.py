"""diffusers in one call, over weights that are changed by hand: what the runner is compared with."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from server.runners.schedulers import make_scheduler
from tests.server.runners.picture_rig import NUM_STEPS, SIZE, PictureRig

Pixels = np.ndarray[Any, Any]


def by_diffusers(rig: PictureRig) -> Pixels:
    return with_denoiser(rig, None, num_steps=NUM_STEPS)


Predict = Callable[[int, Callable[[Mapping[str, Tensor]], Tensor]], Tensor]


def with_denoiser(rig: PictureRig, predict: Predict | None, *, num_steps: int, scheduler: str | None = None) -> Pixels:
    """One image in one call of the pipeline. ``predict`` gets how many calls of the denoiser came before, and what runs
    it over the weights with these deltas added; it returns the noise."""
    pipeline = copy.copy(rig.loaded.pipeline)
    vars(pipeline)["scheduler"] = make_scheduler(rig.loaded.pipeline, scheduler)
    if predict is not None:
        vars(pipeline)[rig.loaded.denoiser] = _Predicting(rig, predict)
    generator = torch.Generator().manual_seed(1)
    made = pipeline(
        "a red apple", height=SIZE, width=SIZE, num_inference_steps=num_steps, generator=generator, output_type="np"
    )
    return np.asarray((made.images[0] * 255).round().astype(np.uint8))


class _Predicting:
    def __init__(self, rig: PictureRig, predict: Predict) -> None:
        self._rig = rig
        self._predict = predict
        self._denoiser = getattr(rig.loaded.pipeline, rig.loaded.denoiser)
        self._step = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._denoiser, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        def run(merged: Mapping[str, Tensor]) -> Tensor:
            with changed(self._rig, merged):
                noise: Tensor = self._denoiser(*args, **kwargs)[0]
                return noise

        noise = self._predict(self._step, run)
        self._step += 1
        return (noise,)


@contextmanager
def changed(rig: PictureRig, merged: Mapping[str, Tensor]) -> Iterator[None]:
    """The base with these deltas added in float32 and rounded once."""
    rig.stack.execution.restore()
    tensors = {name: weight.tensor for weight in rig.loaded.weights.weights for name in (weight.name, *weight.aliases)}
    kept = {name: tensors[name].clone() for name in merged}
    with torch.inference_mode(False), torch.no_grad():
        for name, delta in merged.items():
            tensors[name].copy_((kept[name].float() + delta).to(tensors[name].dtype))
        try:
            yield
        finally:
            for name, words in kept.items():
                tensors[name].copy_(words)
