"""What an evaluation can be told, and what of it is refused before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import torch

from adapters_store.adapter import DTypeName, Version
from adapters_store.blend import BlendMember, Fusion, check_members
from adapters_store.errors import TrainingRefused
from adapters_store.tools.output_file import check_output
from adapters_store.tools.plotting import require_matplotlib
from adapters_store.tools.train_options import Device

Metric = Literal["perplexity", "exact-match"]
Precision = Literal["stored"] | DTypeName
METRICS: tuple[Metric, ...] = get_args(Metric)
PRECISIONS = ("stored", *get_args(DTypeName))


@dataclass(frozen=True, slots=True, kw_only=True)
class BlendSpec:
    """``members`` are (name of an adapter file, scale)."""

    members: tuple[tuple[str, float], ...]
    fusion: Fusion = field(default_factory=Fusion)

    @property
    def title(self) -> str:
        members = ",".join(f"{name}={scale:g}" for name, scale in self.members)
        density = "" if self.fusion.density is None else f":{self.fusion.density:g}"
        return f"{members}:{self.fusion.method}{density}"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalOptions:
    """``scales`` multiply each adapter, and each blend's fused delta; the base is always measured as well.

    ``precision`` is the dtype the model is loaded in: by default as the server loads it. ``held_out`` is the share of
    a file that training keeps for measuring: with training's own share and ``sequence_length``, only those examples
    are measured; None measures the whole file. ``max_new_tokens`` None generates as many tokens as the completion has.
    """

    model_dir: Path
    data: tuple[Path, ...]
    adapters: tuple[Path, ...] = ()
    blends: tuple[BlendSpec, ...] = ()
    scales: tuple[float, ...] = (1.0,)
    metrics: tuple[Metric, ...] = ("perplexity",)
    held_out: float | None = None
    sequence_length: int = 128
    batch_size: int = 8
    max_new_tokens: int | None = None
    precision: Precision = "stored"
    device: Device = "cpu"
    plot: Path | None = None


def check_options(options: EvalOptions) -> None:
    """Raises TrainingRefused, BlendRejected."""
    for what, values, choices in (
        ("metric", options.metrics, METRICS),
        ("precision", (options.precision,), PRECISIONS),
        ("device", (options.device,), get_args(Device)),
    ):
        for value in values:
            if value not in choices:
                raise TrainingRefused(what, expected=f"one of {', '.join(choices)}", got=repr(value))
    for what, given in (("data", options.data), ("metric", options.metrics), ("scales", options.scales)):
        if not given:
            raise TrainingRefused(what, expected="at least one", got="none")
    for scale in options.scales:
        check_members((BlendMember(version=Version(""), scale=scale),))
    if options.held_out is not None and not 0 < options.held_out < 1:
        raise TrainingRefused("held_out", expected="a share between 0 and 1", got=str(options.held_out))
    for name, least in (("sequence_length", 2), ("batch_size", 1), ("max_new_tokens", 1)):
        number = getattr(options, name)
        if number is not None and number < least:
            raise TrainingRefused(name, expected=f"at least {least}", got=str(number))
    if options.device == "cuda" and not torch.cuda.is_available():
        raise TrainingRefused("device", expected="cpu, for torch sees no CUDA device", got="'cuda'")
    if not options.model_dir.is_dir():
        raise TrainingRefused("model", expected="a directory with a checkpoint", got=f"{options.model_dir}: none there")
    if options.plot is not None:
        require_matplotlib()
        check_output(options.plot, [*options.data, *options.adapters, options.model_dir], field="plot")
