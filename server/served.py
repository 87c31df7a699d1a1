"""A base of either kind, ready to serve: what the engine drives, and what the routes tell of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from adapters_store.store import AdapterStore
from adapters_store.tiers.observer import TierObserver
from server.api.services import BaseInfo, Codec, PromptCheck
from server.calibration import calibrate
from server.core.metrics import Metrics
from server.core.pictures import PictureInfo
from server.core.settings import ServerConfig
from server.engine.cost import CostModel
from server.engine.limits import Limits
from server.engine.ports import Execution, Runner
from server.runners import guidance, previews, prompt_check
from server.runners.loading import LoadedModel, load_llm, resolve_model
from server.runners.pipeline_loading import LoadedPipeline, is_pipeline, load_pipeline
from server.stack import build_picture_stack, build_stack

Loaded = LoadedModel | LoadedPipeline


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """``codec`` is there for a base that writes text, ``prompts`` for one that draws."""

    execution: Execution
    runner: Runner
    limits: Limits
    costs: CostModel
    info: BaseInfo
    kernels: str
    codec: Codec | None = None
    prompts: PromptCheck | None = None


def load_base(config: ServerConfig) -> Loaded:
    """Raises ModelNotLoadable."""
    path = resolve_model(config.model, config.models_path)
    load = load_pipeline if is_pipeline(path) else load_llm
    return load(
        path,
        name=_name(config.model),
        dtype=config.dtype,
        device=config.device,
        fingerprints_dir=config.data_dir / "fingerprints",
    )


def serve(
    loaded: Loaded, config: ServerConfig, store: AdapterStore, metrics: Metrics, observer: TierObserver
) -> Served:
    """Raises ModelNotLoadable for a base that cannot be run step by step."""
    if isinstance(loaded, LoadedPipeline):
        return _serve_pictures(loaded, config, store, metrics, observer)
    return _serve_text(loaded, config, store, metrics, observer)


def _serve_text(
    loaded: LoadedModel, config: ServerConfig, store: AdapterStore, metrics: Metrics, observer: TierObserver
) -> Served:
    stack = build_stack(
        loaded,
        store,
        device_budget_bytes=config.device_budget_bytes,
        kv_budget_bytes=config.kv_budget_bytes,
        metrics=metrics,
        observer=observer,
    )
    return Served(
        execution=stack.execution,
        runner=stack.runner,
        limits=Limits(
            max_queue=config.max_queue,
            max_batch=config.max_batch,
            max_step_tokens=config.max_step_tokens,
            schedule=config.schedule,
            max_slowdown=config.max_slowdown,
            patience_steps=config.patience_steps,
        ),
        costs=calibrate(loaded, stack.backend) if config.calibrate else CostModel(),
        info=_info(
            loaded,
            max_context_tokens=min(loaded.max_context_tokens, config.max_prompt_tokens + config.max_new_tokens),
        ),
        kernels=stack.kernels,
        codec=stack.codec,
    )


def _serve_pictures(
    loaded: LoadedPipeline, config: ServerConfig, store: AdapterStore, metrics: Metrics, observer: TierObserver
) -> Served:
    """Images of different blends advance in turn, a denoising step each: beside such a step a switch is short."""
    stack = build_picture_stack(
        loaded,
        store,
        device_budget_bytes=config.device_budget_bytes,
        max_images=config.max_batch,
        max_forward_pixels=config.max_forward_pixels,
        metrics=metrics,
        observer=observer,
    )
    return Served(
        execution=stack.execution,
        runner=stack.runner,
        limits=Limits(
            max_queue=config.max_queue,
            max_batch=config.max_batch,
            schedule="fused",
            quantum_steps=1,
            patience_steps=config.patience_steps,
        ),
        costs=CostModel(),  # nothing to weigh: pictures do not mix
        info=_info(
            loaded,
            pictures=PictureInfo(
                default_height=loaded.default_height,
                default_width=loaded.default_width,
                default_num_steps=loaded.default_num_steps,
                size_multiple=loaded.size_multiple,
                schedulers=loaded.schedulers,
                can_preview=previews.can_preview(loaded.pipeline),
                takes_negative_prompt=guidance.takes_negative_prompt(loaded.pipeline),
                takes_guidance_scale=guidance.takes_guidance_scale(loaded.pipeline, loaded.denoiser),
                guidance_threshold=guidance.guidance_threshold(loaded.pipeline),
                default_guidance_scale=guidance.default_guidance_scale(loaded.pipeline),
            ),
        ),
        kernels=stack.kernels,
        prompts=prompt_check.PromptCheck(loaded.pipeline),
    )


def _info(loaded: Loaded, *, max_context_tokens: int | None = None, pictures: PictureInfo | None = None) -> BaseInfo:
    weights = loaded.weights
    return BaseInfo(
        name=loaded.name,
        fingerprint=weights.fingerprint,
        dtype=weights.dtype,
        device=str(weights.device),
        description=weights.description,
        max_context_tokens=max_context_tokens,
        pictures=pictures,
    )


def _name(model: str) -> str:
    """What requests may call the base: the last part of a path or hub id, without the source after an @."""
    return Path(model).name.partition("@")[0]
