from __future__ import annotations

import pytest

from adapters_store.kernels import (
    Kernels,
    RowKernels,
    available_kernels,
    get_kernels,
    get_row_kernels,
)


@pytest.fixture(params=available_kernels("cpu"))
def kernels(request: pytest.FixtureRequest) -> Kernels:
    """Every variant that this machine can run, the reference included."""
    return get_kernels("cpu", prefer=request.param)


@pytest.fixture
def reference() -> Kernels:
    return get_kernels("cpu", prefer="reference")


@pytest.fixture(params=available_kernels("cpu"))
def row_kernels(request: pytest.FixtureRequest) -> RowKernels:
    """Every variant that this machine can run, the reference included."""
    return get_row_kernels("cpu", prefer=request.param)
