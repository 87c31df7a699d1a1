"""Which kernels a device gets."""

from __future__ import annotations

import importlib.util
import logging
from functools import cache

import torch

from adapters_store.kernels.interface import Kernels
from adapters_store.kernels.reference import ReferenceKernels
from adapters_store.kernels.rows_interface import RowKernels
from adapters_store.kernels.rows_reference import ReferenceRowKernels

log = logging.getLogger(__name__)


def get_kernels(device: torch.device | str = "cpu", prefer: str | None = None) -> Kernels:
    """The fastest kernels for ``device``, or those named ``prefer``.

    Raises ValueError when the preferred ones cannot run here. Warns once per process when only the reference can.
    """
    device_type = torch.device(device).type
    available = available_kernels(device_type)
    name = prefer or available[0]
    if name not in available:
        raise ValueError(f"kernels: expected one of {', '.join(available)} on {device_type}, got {name!r}")
    if name == "reference":
        if prefer is None:
            _warn_once(device_type)
        return ReferenceKernels()
    if name == "triton":
        from adapters_store.kernels.triton_exchange import TritonKernels

        return TritonKernels()
    from adapters_store.kernels.native import NativeKernels

    return NativeKernels(name)


def get_row_kernels(device: torch.device | str = "cpu", prefer: str | None = None) -> RowKernels:
    """As ``get_kernels``, for batches whose rows run with different blends."""
    device_type = torch.device(device).type
    available = available_kernels(device_type)
    name = prefer or available[0]
    if name not in available:
        raise ValueError(f"row kernels: expected one of {', '.join(available)} on {device_type}, got {name!r}")
    if name == "reference":
        return ReferenceRowKernels()
    if name == "triton":
        from adapters_store.kernels.rows_triton import TritonRowKernels

        return TritonRowKernels()
    from adapters_store.kernels.rows_native import NativeRowKernels

    return NativeRowKernels(name)


def available_kernels(device_type: str = "cpu") -> tuple[str, ...]:
    """Names of the kernels, row kernels included, that can run on this kind of device, fastest first."""
    match device_type:
        case "cpu":
            return (*_native_names(), "reference")
        case "cuda" if importlib.util.find_spec("triton") is not None:
            return ("triton", "reference")
        case _:
            return ("reference",)


def _native_names() -> tuple[str, ...]:
    if importlib.util.find_spec("adapters_store.kernels._native") is None:
        return ()
    from adapters_store.kernels.native import supported_isas

    return supported_isas()


@cache
def _warn_once(device_type: str) -> None:
    missing = "Triton is not installed" if device_type == "cuda" else "the C extension was not built (no compiler?)"
    log.warning("%s: switching on %s runs on the plain torch reference, several times slower", missing, device_type)
