"""A diffusers pipeline as training uses it: loaded, its layers by name, its pictures as latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img import retrieve_latents
from PIL import ImageOps
from torch import Tensor, nn

from adapters_store.base import BaseDescription
from adapters_store.base_files import pipeline_files
from adapters_store.errors import TrainingRefused
from adapters_store.tools.pictures.folder import CaptionedPicture
from adapters_store.tools.sparse_parametrisation import TRAINABLE


def load_pipeline(model_dir: Path, *, dtype: torch.dtype, device: str) -> Any:
    """In evaluation mode; the VAE, which only encodes, in fp32. Code in the directory is never run, and weights are
    read from safetensors alone. Raises TrainingRefused."""
    try:
        pipeline = DiffusionPipeline.from_pretrained(
            model_dir,
            dtype={"default": dtype, "vae": torch.float32},
            variant=pipeline_files(model_dir).variant,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
        ).to(device)
    except (OSError, ValueError, ImportError, AttributeError) as error:
        raise TrainingRefused("model", expected="a text-to-image pipeline of diffusers", got=str(error)) from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def adaptable_module(pipeline: Any, base: BaseDescription) -> nn.ModuleDict:
    """The denoiser and the text encoders as one module, whose parameters have the names that the base gives them."""
    return nn.ModuleDict({name: _as_stored(name, getattr(pipeline, name), base) for name in base.adaptable_components})


def target_layers(model: nn.Module, base: BaseDescription, targets: tuple[str, ...]) -> list[str]:
    """Names of the weights that ``targets`` mean, sorted: of every linear layer and convolution inside a module of that
    name, or whose own name ends with it; without targets, of the denoiser's. A target that means none is refused."""
    layers = [name for name, module in model.named_modules() if isinstance(module, TRAINABLE)]
    matches = {
        target: [layer for layer in layers if _means(target, layer)]
        for target in targets or base.adaptable_components[:1]
    }
    for target, found in matches.items():
        if not found:
            known = sorted({layer.rpartition(".")[2] for layer in layers if not layer.rpartition(".")[2].isdigit()})
            expected = f"one of {', '.join(base.adaptable_components)}, a module in it, or a layer ({', '.join(known)})"
            raise TrainingRefused("targets", expected=expected, got=repr(target))
    names = sorted({f"{layer}.weight" for found in matches.values() for layer in found})
    unnamed = [name for name in names if name not in base.weights]
    if unnamed:
        expected = "weights that are stored under the names they are loaded under"
        raise TrainingRefused("targets", expected=expected, got=f"{unnamed[0]}, and the checkpoint has none of it")
    return names


def default_resolution(pipeline: Any, denoiser: str) -> int:
    """Pixels a side of what the pipeline draws when it is told nothing. Raises TrainingRefused."""
    size = getattr(pipeline, "default_sample_size", None) or getattr(pipeline, denoiser).config.sample_size
    if not isinstance(size, int):
        raise TrainingRefused("resolution", expected="to be given: the base draws no squares", got=f"{size} latents")
    return size * int(pipeline.vae_scale_factor)


def check_resolution(pipeline: Any, resolution: int) -> None:
    """Raises TrainingRefused."""
    multiple = pipeline.vae_scale_factor * 2
    if resolution % multiple:
        raise TrainingRefused("resolution", expected=f"a multiple of {multiple}", got=str(resolution))


@torch.no_grad()
def encode_pictures(
    pipeline: Any, pictures: list[CaptionedPicture], *, resolution: int, has_mirrors: bool, batch_size: int
) -> Tensor:
    """Latents as the denoiser knows them, the most likely ones, fp32 on the CPU: (pictures, views, channels, height,
    width), the views being the picture and, with ``has_mirrors``, its mirror image. Raises TrainingRefused for a
    picture that cannot be read."""
    rows = []
    for start in range(0, len(pictures), batch_size):
        loaded = [picture.load(resolution) for picture in pictures[start : start + batch_size]]
        views = [loaded, [ImageOps.mirror(picture) for picture in loaded]] if has_mirrors else [loaded]
        rows.append(torch.stack([_encode(pipeline, view) for view in views], dim=1))
    return torch.cat(rows)


def _as_stored(component: str, module: nn.Module, base: BaseDescription) -> nn.Module:
    """transformers 5 has no module ``text_model`` in CLIP's text encoder any more; checkpoints made before have."""
    loaded, _ = next(module.named_parameters())
    is_renamed = f"{component}.text_model.{loaded}" in base.weights
    return nn.ModuleDict({"text_model": module}) if is_renamed else module


def _encode(pipeline: Any, pictures: list[Any]) -> Tensor:
    vae = pipeline.vae
    pixels = pipeline.image_processor.preprocess(pictures).to(vae.device, vae.dtype)
    latents: Tensor = retrieve_latents(vae.encode(pixels), sample_mode="argmax")
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    scaled: Tensor = (latents - shift) * vae.config.scaling_factor
    return scaled.cpu()


def _means(target: str, layer: str) -> bool:
    return layer == target or layer.startswith(f"{target}.") or layer.endswith(f".{target}")
