"""Which forward a model gets: the fast one for decoders of the Llama family, transformers' own for all others."""

from __future__ import annotations

import logging

from adapters_store.kernels import RowKernels
from server.runners.backend import Backend
from server.runners.decoder import obstacle
from server.runners.loading import LoadedModel
from server.runners.paged import PagedBackend
from server.runners.rows import RowsBackend

log = logging.getLogger(__name__)


def pick_backend(loaded: LoadedModel, kernels: RowKernels, kv_budget_bytes: int) -> Backend:
    """Raises ModelNotLoadable where neither can run the model step by step."""
    why_not = obstacle(loaded.model)
    if why_not is None:
        return paged_backend(loaded, kernels, kv_budget_bytes)
    log.info("%s runs through transformers' own forward: %s", loaded.name, why_not)
    return rows_backend(loaded, kernels, kv_budget_bytes)


def paged_backend(loaded: LoadedModel, kernels: RowKernels, kv_budget_bytes: int) -> Backend:
    return PagedBackend(loaded.model, kernels, kv_budget_bytes=kv_budget_bytes)


def rows_backend(loaded: LoadedModel, kernels: RowKernels, kv_budget_bytes: int) -> Backend:
    return RowsBackend(loaded.model, kernels, kv_budget_bytes=kv_budget_bytes)
