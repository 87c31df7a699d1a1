"""The noise schedulers a request may choose, by short names."""

from __future__ import annotations

import copy
import inspect
import weakref
from functools import partial
from typing import Any

import torch

from server.core.errors import RequestRejected

DEFAULT = "default"  # the base's own
SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "deis": "DEISMultistepScheduler",
    "dpm": "DPMSolverMultistepScheduler",
    "dpm_single": "DPMSolverSinglestepScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler_ancestral": "EulerAncestralDiscreteScheduler",
    "flow_euler": "FlowMatchEulerDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "kdpm2": "KDPM2DiscreteScheduler",
    "kdpm2_ancestral": "KDPM2AncestralDiscreteScheduler",
    "lcm": "LCMScheduler",
    "pndm": "PNDMScheduler",
    "unipc": "UniPCMultistepScheduler",
}  # those of diffusers that need no further package


def scheduler_names(pipeline: Any) -> tuple[str, ...]:
    """``default``, then what diffusers says is compatible with the pipeline's own scheduler."""
    return (DEFAULT, *_compatible_classes(pipeline))


def make_scheduler(pipeline: Any, name: str | None = None) -> Any:
    """A new scheduler with the base's noise schedule and a state of its own: one per image that is being drawn.

    No name is ``default``. Raises RequestRejected for a name that this pipeline cannot use."""
    if name is None or name == DEFAULT:
        return copy.deepcopy(pipeline.scheduler)  # its config alone does not tell: some are mended on load
    classes = _compatible_classes(pipeline)
    if name not in classes:
        names = ", ".join((DEFAULT, *classes))
        raise RequestRejected(f"scheduler: expected one of {names}, got {name[:80]!a}", param="scheduler")
    return classes[name].from_config(pipeline.scheduler.config)


def seed_steps_(scheduler: Any, generator: torch.Generator) -> None:
    """Has its steps draw noise by ``generator`` also where a pipeline names none: SD3's and Flux's do not, and torch's
    generator is everybody's."""
    if "generator" in inspect.signature(scheduler.step).parameters:
        itself = weakref.proxy(scheduler)  # no cycle: what it remembers of latents goes with the image
        scheduler.step = partial(type(scheduler).step, itself, generator=generator)


def _compatible_classes(pipeline: Any) -> dict[str, Any]:
    compatible = {found.__name__: found for found in pipeline.scheduler.compatibles}
    return {name: compatible[class_name] for name, class_name in SCHEDULERS.items() if class_name in compatible}
