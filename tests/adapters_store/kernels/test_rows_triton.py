"""The Triton row correction against the reference: in Triton's interpreter, and on a device where there is one."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

import adapters_store.kernels as package
from adapters_store.adapter import IndexSet
from adapters_store.kernels import RowGroup, RowKernels, RowPlan, RowTargets, get_row_kernels
from tests.adapters_store.kernels.blends import make_weight_set
from tests.adapters_store.kernels.sets import DTYPES, bind_all, make_index_set

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
MODULE = "adapters_store.kernels.rows_triton"
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
    ),
]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def triton_kernels(device: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[RowKernels]:
    """Compiled on CUDA. On the CPU from a fresh import of the module, interpreted; the old one comes back after."""
    if device == "cuda":
        yield get_row_kernels("cuda", prefer="triton")
        return
    monkeypatch.setattr(package, "rows_triton", importlib.import_module(MODULE))
    monkeypatch.delitem(sys.modules, MODULE)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with np.errstate(all="ignore"):  # the interpreter computes with numpy, which warns of NaN and overflow
        yield importlib.import_module(MODULE).TritonRowKernels()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("density", [0.0, 0.1])
def test_the_correction_is_that_of_the_reference(
    triton_kernels: RowKernels, device: str, dtype: torch.dtype, density: float
) -> None:
    reference = get_row_kernels(prefer="reference")
    weights = make_weight_set(dtype, 33, 7)
    host_set = make_index_set(weights, density, seed=1)
    host_bound = bind_all(host_set, weights)
    words = ordinary_words(host_bound.words_bytes, dtype)
    there = {name: weight.to(device) for name, weight in weights.items()}
    moved = IndexSet(
        digest=host_set.digest,
        table=host_set.table,
        offsets=host_set.offsets.to(device),
        indices=host_set.indices.to(device),
    )
    x = torch.randn(21, 33, generator=torch.Generator().manual_seed(2)).to(dtype)
    for out_dtype in {dtype, torch.float32}:
        y = torch.zeros(21, 7, dtype=out_dtype)
        layout = reference.layout(host_bound)
        reference.correct_(y, x, weights["w0"], plan_with(RowTargets(layout=layout, words=words)))
        on_device = torch.zeros(21, 7, dtype=out_dtype, device=device)
        layout = triton_kernels.layout(bind_all(moved, there))
        targets = RowTargets(layout=layout, words=words.to(device))
        triton_kernels.correct_(on_device, x.to(device), there["w0"], plan_with(targets))
        torch.testing.assert_close(on_device.cpu(), y, rtol=1e-2, atol=1e-4)
        assert bool(y.any()) == (density > 0)


def plan_with(targets: RowTargets) -> RowPlan:
    """A few rows without a blend of their own, then more of them with one than a program takes."""
    return RowPlan([RowGroup(start=0, stop=3), RowGroup(start=3, stop=21, targets=targets)])


def ordinary_words(num_bytes: int, dtype: torch.dtype) -> Tensor:
    """A words buffer of ordinary numbers."""
    numbers = torch.randn(num_bytes // dtype.itemsize, generator=torch.Generator().manual_seed(3)).to(dtype)
    return numbers.view(torch.uint8)
