"""What a pipeline does with guidance_scale and negative_prompt: diffusers takes both, and may ignore one in silence."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

_WEAK, _STRONG = 0.5, 100.0
_THRESHOLD = 1.0  # of most pipelines


def takes_guidance_scale(pipeline: Any, denoiser: str) -> bool:
    """Whether it changes a picture: by a second prediction, or as an input of the denoiser."""
    if "guidance_scale" not in _parameters(pipeline):
        return False
    is_input = getattr(getattr(pipeline, denoiser).config, "guidance_embeds", None)
    return is_input is not False or hasattr(type(pipeline), "do_classifier_free_guidance")


def takes_negative_prompt(pipeline: Any) -> bool:
    """Not where a second prediction is never made: by a denoiser that has guidance as an input, or beside a
    true_cfg_scale, which requests do not have, of 1."""
    parameters = _parameters(pipeline)
    if "negative_prompt" not in parameters:
        return False
    if "true_cfg_scale" in parameters:
        return bool(parameters["true_cfg_scale"].default > 1)
    return _is_guided(pipeline, _STRONG)


def guidance_threshold(pipeline: Any) -> float | None:
    """The guidance_scale above which a negative prompt is heard; None if it does not depend on it."""
    parameters = _parameters(pipeline)
    if "guidance_scale" not in parameters or "true_cfg_scale" in parameters:
        return None
    return 0.0 if _is_guided(pipeline, _WEAK) else _THRESHOLD


def default_guidance_scale(pipeline: Any) -> float | None:
    default = getattr(_parameters(pipeline).get("guidance_scale"), "default", None)
    return float(default) if isinstance(default, int | float) else None


def _is_guided(pipeline: Any, scale: float) -> bool:
    """Whether it would make a second prediction in each step."""
    if not hasattr(type(pipeline), "do_classifier_free_guidance"):
        return scale > _THRESHOLD
    asked = copy.copy(pipeline)
    vars(asked)["_guidance_scale"] = scale
    return bool(asked.do_classifier_free_guidance)


def _parameters(pipeline: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(type(pipeline).__call__).parameters
