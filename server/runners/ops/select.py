"""Which operations a model gets."""

from __future__ import annotations

import importlib.util

import torch

from server.runners.ops.interface import Ops
from server.runners.ops.reference import ReferenceOps

EXTENSIONS = ("adapters_store.kernels._native", "server.runners.ops._native")  # the second runs on the first's threads


def get_ops(device: torch.device | str, dtype: torch.dtype, head_dim: int, prefer: str | None = None) -> Ops:
    """The fastest operations for a model with heads of this size, or those named ``prefer``.

    Raises ValueError when the preferred ones cannot run here."""
    available = available_ops(device, dtype, head_dim)
    name = prefer or available[0]
    if name not in available:
        raise ValueError(f"ops: expected one of {', '.join(available)} for {dtype} on {device}, got {name!r}")
    if name == "reference":
        return ReferenceOps()
    from server.runners.ops.native import NativeOps

    return NativeOps(name)


def available_ops(device: torch.device | str, dtype: torch.dtype, head_dim: int) -> tuple[str, ...]:
    """Names of the operations that can run, fastest first."""
    if torch.device(device).type != "cpu" or any(importlib.util.find_spec(each) is None for each in EXTENSIONS):
        return ("reference",)
    from server.runners.ops.native import DTYPE_CODES, MAX_HEAD_DIM, supported_isas

    is_native = dtype in DTYPE_CODES and head_dim <= MAX_HEAD_DIM
    return (*supported_isas(), "reference") if is_native else ("reference",)
