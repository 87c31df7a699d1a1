"""A denoiser that adapters are switched on: a pipeline's own, or a random U-Net by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from adapters_store.adapter import DTYPE_NAMES, Adapter, Fingerprint
from adapters_store.base import BaseDescription, BaseWeight
from server.bench_pictures.options import Targets, UnetName
from server.bench_pictures.unets import random_call, random_unet
from server.bench_serve.random_adapters import sparse_adapter
from server.execution.weights import BaseWeights
from server.runners.pipeline_loading import LoadedPipeline

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")  # what diffusers' own training adapts


def is_attention(name: str) -> bool:
    """Whether a weight is one of the projections of an attention."""
    return name.removesuffix(".weight").endswith(ATTENTION)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """``component`` is the denoiser's name, with which the names of its weights begin; ``forward`` runs it once.
    ``targets``: which of its weights adapters change."""

    title: str
    denoiser: Any
    component: str
    weights: BaseWeights
    forward: Callable[[], object]
    targets: Targets = "all"

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The denoiser's matrices and convolutions, by name: what adapters change a share of."""
        own = ((weight.name, weight.tensor) for weight in self.weights.weights)
        tensors = {name: tensor for name, tensor in own if name.startswith(f"{self.component}.") and tensor.ndim > 1}
        return {name: tensor for name, tensor in tensors.items() if self.targets == "all" or is_attention(name)}

    @property
    def num_params(self) -> int:
        return sum(tensor.numel() for tensor in self.denoiser.parameters())

    def random_adapter(self, *, sparsity: float, seed: int) -> Adapter:
        """Each weight's entries with this probability, at positions of its own."""
        return sparse_adapter(
            self.weights.description, sparsity=sparsity, seed=seed, is_target=self.tensors.__contains__
        )


def subject_of_pipeline(loaded: LoadedPipeline, *, targets: Targets) -> Subject:
    denoiser = getattr(loaded.pipeline, loaded.denoiser)
    args, kwargs = _first_call(loaded, denoiser)
    return Subject(
        title=loaded.name,
        denoiser=denoiser,
        component=loaded.denoiser,
        weights=loaded.weights,
        forward=lambda: denoiser(*args, **kwargs),
        targets=targets,
    )


def subject_of_unet(name: UnetName, *, seed: int, targets: Targets) -> Subject:
    unet = random_unet(name, seed=seed)
    call = random_call(name, seed=seed)
    parameters = {f"unet.{parameter}": tensor for parameter, tensor in unet.named_parameters()}
    description = BaseDescription(
        fingerprint=Fingerprint("sha256:" + "0" * 64),  # of no file
        weights={
            weight: BaseWeight(name=weight, shape=tuple(tensor.shape), dtype=DTYPE_NAMES[tensor.dtype])
            for weight, tensor in parameters.items()
        },
        components=("unet",),
    )
    return Subject(
        title=f"{name} U-Net, random",
        denoiser=unet,
        component="unet",
        weights=BaseWeights(parameters, description),
        forward=lambda: unet(**call),
        targets=targets,
    )


def _first_call(loaded: LoadedPipeline, denoiser: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What the pipeline asks of its denoiser in the first step of an image."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    hook = denoiser.register_forward_pre_hook(lambda _, *call: calls.append(call), with_kwargs=True)
    try:
        loaded.pipeline("a red apple", num_inference_steps=1, output_type="latent")
    finally:
        hook.remove()
    return calls[0]
