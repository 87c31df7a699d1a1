"""From a directory to a text-to-image pipeline in memory, with its weights known by name and digest."""

from __future__ import annotations

import importlib.util
import inspect
import logging
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adapters_store.adapter import TORCH_DTYPES
from adapters_store.base import BaseDescription
from adapters_store.base_files import is_pipeline, pipeline_files
from adapters_store.base_names import spellings
from adapters_store.errors import BaseUnreadable
from server.core.errors import ModelNotLoadable
from server.execution.weights import BaseWeights
from server.runners.checkpoint import DeviceChoice, DTypeChoice, describe_base, own_memory_, pick_device
from server.runners.own_code import refuse_own_code
from server.runners.schedulers import scheduler_names

__all__ = ["LoadedPipeline", "check_kind", "is_pipeline", "load_pipeline"]

log = logging.getLogger(__name__)

_CHECKED_MULTIPLE = 8  # what pipelines of diffusers demand of height and width, however small their latents' scale
_FALLBACK_SIZE = 512  # pixels, for a pipeline that tells no size of its own
_FALLBACK_NUM_STEPS = 50
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_PACKAGES = ("accelerate", "diffusers", "greenlet", "PIL")  # of the extra ``images``


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedPipeline:
    """``pipeline`` is a DiffusionPipeline of diffusers; ``weights`` are its components' own tensors, named
    ``<component>.<stored name>``; ``denoiser`` is the component's name, unet or transformer. Sizes are in pixels;
    height and width have to be multiples of ``size_multiple``. ``schedulers`` are the names a request may give."""

    name: str
    pipeline: Any
    weights: BaseWeights
    denoiser: str
    default_height: int
    default_width: int
    size_multiple: int
    default_num_steps: int
    schedulers: tuple[str, ...]


def load_pipeline(
    path: Path,
    *,
    name: str | None = None,
    dtype: DTypeChoice = "auto",
    device: DeviceChoice = "auto",
    fingerprints_dir: Path | None = None,
) -> LoadedPipeline:
    """Any text-to-image pipeline of diffusers, in evaluation mode, without gradients, every weight contiguous; nothing
    in the directory is executed.

    ``dtype`` auto is the denoiser's as stored; the other components follow it, as diffusers casts nothing between them,
    but for a VAE that is stored in fp32. Raises ModelNotLoadable."""
    _need_packages(path)
    try:
        refuse_own_code(path)
    except (BaseUnreadable, OSError, ValueError) as error:
        raise ModelNotLoadable(f"{path}: {error}") from error
    description = describe_base(path, fingerprints_dir)
    target = pick_device(device)
    denoiser = _denoiser_name(path, description)
    pipeline = _load(path, _dtypes(dtype, denoiser, description))
    _check_stored(path, pipeline, denoiser, description)
    pipeline.to(target)
    check_kind(path, pipeline)
    _settle_vae_(pipeline)
    for module in _modules(pipeline).values():
        module.requires_grad_(False).eval()
        own_memory_(module)
    try:
        weights = BaseWeights(_parameters(pipeline, description), description)
    except ValueError as error:
        raise ModelNotLoadable(f"{path}: {error}") from error
    if weights.dtype == "float16" and weights.device.type == "cpu":
        log.warning(
            "%s is in float16, whose convolutions are slow on a CPU: --dtype float32 or bfloat16 is faster", path
        )
    size_multiple = _size_multiple(pipeline, denoiser)
    height, width = _default_size(pipeline, denoiser, size_multiple)
    return LoadedPipeline(
        name=name or path.name,
        pipeline=pipeline,
        weights=weights,
        denoiser=denoiser,
        default_height=height,
        default_width=width,
        size_multiple=size_multiple,
        default_num_steps=_default_num_steps(pipeline),
        schedulers=scheduler_names(pipeline),
    )


def _need_packages(path: Path) -> None:
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelNotLoadable(
            f"{path} draws pictures, which needs {', '.join(missing)}: pip install 'shira-server[images]'"
        )


def _denoiser_name(path: Path, description: BaseDescription) -> str:
    name = next(iter(description.adaptable_components), None)
    if name not in ("unet", "transformer"):
        raise ModelNotLoadable(
            f"{path}: expected a pipeline with a unet or transformer, got {', '.join(description.components)}"
        )
    return name


def _dtypes(choice: DTypeChoice, denoiser: str, description: BaseDescription) -> torch.dtype | dict[str, torch.dtype]:
    if choice != "auto":
        return TORCH_DTYPES[choice]
    dtypes = {"default": _stored_dtype(denoiser, description)}
    if _stored_dtype("vae", description) == torch.float32:
        dtypes["vae"] = torch.float32
    return dtypes


def _stored_dtype(component: str, description: BaseDescription) -> torch.dtype:
    """The one that most of its elements are in."""
    elements: Counter[torch.dtype] = Counter()
    for weight in description.weights.values():
        if weight.adaptable_dtype is not None and weight.name.startswith(f"{component}."):
            elements[TORCH_DTYPES[weight.adaptable_dtype]] += math.prod(weight.shape)
    return max(elements, key=elements.__getitem__, default=torch.float32)


def _load(path: Path, dtypes: torch.dtype | dict[str, torch.dtype]) -> Any:
    from diffusers import AutoPipelineForText2Image

    try:
        pipeline = AutoPipelineForText2Image.from_pretrained(
            path,
            dtype=dtypes,
            variant=pipeline_files(path).variant,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, AttributeError, TypeError) as error:
        raise ModelNotLoadable(f"{path} is not a text-to-image pipeline that can be loaded: {error}") from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def check_kind(path: Path, pipeline: Any) -> None:
    """Raises ModelNotLoadable for what could not be drawn step by step from a prompt, each image for itself."""
    kind = type(pipeline)
    wanted = [
        name
        for name, parameter in inspect.signature(kind.__call__).parameters.items()
        if name not in ("self", "prompt") and parameter.kind in _NAMED and parameter.default is parameter.empty
    ]
    problem = None
    if getattr(kind, "_load_connected_pipes", False):
        problem = "draws by pipelines within it, whose denoisers do not stop between steps"
    elif hasattr(kind, "set_pag_applied_layers"):
        problem = "changes its denoiser for as long as one image takes, so that others would see it"
    elif wanted or "Control" in kind.__name__:
        problem = f"wants more than a prompt: {', '.join(wanted) or 'an image'}"
    elif not any(name.startswith("tokenizer") and part for name, part in pipeline.components.items()):
        problem = "has no tokenizer"
    if problem:
        raise ModelNotLoadable(f"{path}: {kind.__name__} {problem}")


def _settle_vae_(pipeline: Any) -> None:
    """Puts into fp32 for good what SDXL's pipelines put into fp32 and back for each image, because it overflows in
    fp16: that would move weights out of the memory that is audited. One in fp32 takes latents of any dtype."""
    vae = pipeline.components.get("vae")
    if vae is None:
        return
    if hasattr(pipeline, "upcast_vae") and vae.dtype == torch.float16 and vae.config.force_upcast:
        vae.to(torch.float32)
    if vae.dtype == torch.float32:
        for entrance in vae.children():
            entrance.register_forward_pre_hook(_widen)


def _widen(_: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(part.float() if isinstance(part, Tensor) and part.is_floating_point() else part for part in given)


def _modules(pipeline: Any) -> dict[str, nn.Module]:
    return {name: part for name, part in pipeline.components.items() if isinstance(part, nn.Module)}


def _parameters(pipeline: Any, description: BaseDescription) -> dict[str, Tensor]:
    """Under their stored names; one that is stored under no name that is known keeps the model's."""
    found: dict[str, Tensor] = {}
    for component, module in _modules(pipeline).items():
        for name, parameter in module.named_parameters(remove_duplicate=False):
            loaded = f"{component}.{name}"
            stored = next((spelling for spelling in spellings(loaded) if spelling in description.weights), loaded)
            found[stored] = parameter
    return found


def _check_stored(path: Path, pipeline: Any, denoiser: str, description: BaseDescription) -> None:
    """Raises ModelNotLoadable if some weight was not read from the checkpoint: transformers would draw it at random."""
    tied: dict[int, list[tuple[str, Tensor]]] = {}
    for name, parameter in _parameters(pipeline, description).items():
        tied.setdefault(id(parameter), []).append((name, parameter))
    modules = _modules(pipeline)
    for names in tied.values():
        weight, parameter = names[0]
        component = weight.partition(".")[0]
        stored = [description.weights[name].shape for name, _ in names if name in description.weights]
        if tuple(parameter.shape) in stored or (component != denoiser and _is_read(modules[component], parameter)):
            continue
        raise ModelNotLoadable(
            f"{path}: {weight}: expected a stored weight of {list(parameter.shape)}, "
            f"got {f'one of {list(stored[0])}' if stored else 'none'}; the checkpoint does not fit its config.json"
        )


def _is_read(module: nn.Module, parameter: Tensor) -> bool:
    """Of one that is stored under a name of older versions: transformers marks what it read, diffusers leaves what it
    did not read on the meta device."""
    from transformers import PreTrainedModel

    is_marked = getattr(parameter, "_is_hf_initialized", False)
    return not parameter.is_meta and (is_marked or not isinstance(module, PreTrainedModel))


def _size_multiple(pipeline: Any, denoiser: str) -> int:
    """Latents are a whole number of patches, which flux makes when it packs them, the others in their transformer."""
    scale = getattr(pipeline, "vae_scale_factor", 1)
    patch = getattr(pipeline.components[denoiser].config, "patch_size", None)
    processor = getattr(pipeline, "image_processor", None)
    processed = processor.config.vae_scale_factor if processor is not None else 1
    return math.lcm(_CHECKED_MULTIPLE, processed, scale * (patch if isinstance(patch, int) else 1))


def _default_size(pipeline: Any, denoiser: str, multiple: int) -> tuple[int, int]:
    """Height and width, pixels: what the pipeline draws when it is told neither."""
    config = pipeline.components[denoiser].config
    latents = getattr(pipeline, "default_sample_size", None) or getattr(config, "sample_size", None)
    scale = getattr(pipeline, "vae_scale_factor", 1)
    if latents is None:
        latents, scale = _FALLBACK_SIZE, 1
    height, width = (latents, latents) if isinstance(latents, int) else latents
    return math.ceil(height * scale / multiple) * multiple, math.ceil(width * scale / multiple) * multiple


def _default_num_steps(pipeline: Any) -> int:
    steps = inspect.signature(type(pipeline).__call__).parameters.get("num_inference_steps")
    return steps.default if steps is not None and isinstance(steps.default, int) else _FALLBACK_NUM_STEPS
