"""Which operations a model gets."""

from __future__ import annotations

import torch

from server.runners.ops.interface import Ops
from server.runners.ops.reference import ReferenceOps


def get_ops(device: torch.device | str, dtype: torch.dtype, prefer: str | None = None) -> Ops:
    """The fastest operations for tensors of this kind, or those named ``prefer``.

    Raises ValueError when the preferred ones cannot run here."""
    available = available_ops(torch.device(device).type, dtype)
    name = prefer or available[0]
    if name not in available:
        raise ValueError(f"ops: expected one of {', '.join(available)} for {dtype} on {device}, got {name!r}")
    return ReferenceOps()


def available_ops(device_type: str, dtype: torch.dtype) -> tuple[str, ...]:
    """Names of the operations that can run, fastest first."""
    return ("reference",)
