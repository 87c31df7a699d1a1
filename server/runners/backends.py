"""Which forward a model gets: the fast one for decoders of the Llama family, transformers' own for all others."""

from __future__ import annotations

from adapters_store.kernels import RowKernels
from server.runners.backend import Backend
from server.runners.loading import LoadedModel
from server.runners.rows import RowsBackend


def pick_backend(loaded: LoadedModel, kernels: RowKernels, *, kv_budget_bytes: int) -> Backend:
    """Raises ModelNotLoadable where neither can run the model step by step."""
    return rows_backend(loaded, kernels, kv_budget_bytes=kv_budget_bytes)


def rows_backend(loaded: LoadedModel, kernels: RowKernels, *, kv_budget_bytes: int) -> Backend:
    return RowsBackend(loaded.model, kernels, kv_budget_bytes=kv_budget_bytes)


def paged_backend(loaded: LoadedModel, kernels: RowKernels, *, kv_budget_bytes: int) -> Backend:
    raise NotImplementedError
