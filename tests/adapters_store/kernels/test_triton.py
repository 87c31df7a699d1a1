"""The Triton passes against the reference: in Triton's interpreter on the CPU, and on a device where there is one."""

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
from adapters_store.kernels import Journal, Kernels, get_kernels, new_words, rollback
from tests.adapters_store.kernels.sets import (
    DTYPES,
    Weights,
    arbitrary_bits,
    bind_all,
    copy_of,
    differing,
    displaced_by,
    make_index_set,
    make_weights,
    random_words,
    same_words,
)

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
MODULES = ("adapters_store.kernels.triton_passes", "adapters_store.kernels.triton_exchange")
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
def triton_kernels(device: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernels]:
    """Compiled on CUDA. On the CPU from a fresh import of the modules, interpreted; the old ones come back after."""
    if device == "cuda":
        yield get_kernels("cuda", prefer="triton")
        return
    for name in MODULES:
        original = importlib.import_module(name)
        monkeypatch.setattr(package, name.rpartition(".")[2], original)
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    interpreted = [importlib.import_module(name) for name in MODULES]
    with np.errstate(all="ignore"):  # the interpreter computes with numpy, which warns of NaN and overflow
        yield interpreted[1].TritonKernels()


def put(device: str, weights: Weights, *sets: IndexSet) -> tuple[Weights, list[IndexSet]]:
    moved = [
        IndexSet(digest=s.digest, table=s.table, offsets=s.offsets.to(device), indices=s.indices.to(device))
        for s in sets
    ]
    return {name: weight.to(device, copy=True) for name, weight in weights.items()}, moved


@pytest.mark.parametrize("density", [0.0, 0.01, 0.3])
def test_exchange_and_overwrite_do_what_the_reference_does(
    triton_kernels: Kernels, reference: Kernels, device: str, density: float
) -> None:
    weights = make_weights(DTYPES)
    index_set = make_index_set(weights, density, seed=1)
    bound = bind_all(index_set, copy := copy_of(weights))
    words = random_words(bound, seed=2)
    expected = displaced_by(reference, bound, words)

    there, (there_set,) = put(device, weights, index_set)
    there_bound, journal = bind_all(there_set, there), Journal()
    displaced = new_words(there_bound)
    triton_kernels.exchange(there_bound, words.to(device), displaced, journal)

    assert same_words(bound, displaced.cpu(), expected)
    assert differing(host(there), copy) == []
    assert journal.num_weights_displaced == len(weights) or density == 0
    rollback(triton_kernels, journal, there_bound, displaced)
    assert differing(host(there), weights) == []


@pytest.mark.parametrize("names", [("0123456", "0123456"), ("024", "135"), ("6543", "012345")], ids=str)
def test_a_switch_is_a_restore_followed_by_an_exchange(
    triton_kernels: Kernels, reference: Kernels, device: str, names: tuple[str, str]
) -> None:
    weights = make_weights(DTYPES)
    sets = [make_index_set({f"w{i}": weights[f"w{i}"] for i in part}, 0.02, seed) for seed, part in enumerate(names)]
    there, (out_set, into_set) = put(device, weights, *sets)
    out, into = bind_all(out_set, there), bind_all(into_set, there)
    words = random_words(bind_all(sets[1], weights), seed=4).to(device)
    out_words = random_words(bind_all(sets[0], weights), seed=3).to(device)
    for _ in range(2):  # the second time the pairs are known
        out_displaced = displaced_by(triton_kernels, out, out_words)
        into_displaced = new_words(into)
        triton_kernels.switch(out, out_displaced, into, words, into_displaced)
        expected_weights = copy_of(weights)
        twin = bind_all(sets[1], expected_weights)
        expected = displaced_by(reference, twin, words.cpu())
        assert differing(host(there), expected_weights) == []
        assert same_words(twin, into_displaced.cpu(), expected)
        triton_kernels.overwrite(into, into_displaced)
        assert differing(host(there), weights) == []


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_staging_rounds_arbitrary_bits_as_the_reference_does(
    triton_kernels: Kernels, reference: Kernels, device: str, dtype: torch.dtype
) -> None:
    weights = make_weights((dtype,))
    index_set = make_index_set(weights, 0.1, seed=1)
    bound = bind_all(index_set, weights)
    for seed in range(3):
        delta = arbitrary_bits((bound.num_entries,), torch.float32, torch.Generator().manual_seed(seed))
        expected = reference.stage(bound, delta)
        there, (there_set,) = put(device, weights, index_set)
        staging = triton_kernels.stage(bind_all(there_set, there), delta.to(device))
        assert same_words(bound, staging.words.cpu(), expected.words)
        assert staging.num_out_of_range == expected.num_out_of_range


def test_weights_that_share_memory_without_being_the_same_are_refused(triton_kernels: Kernels, device: str) -> None:
    whole: Tensor = torch.zeros(100, 100, device=device)
    out_set = make_index_set({"whole": whole}, 0.5, seed=1)
    into_set = make_index_set({"inner": whole[10:20]}, 0.5, seed=2)
    _, sets = put(device, {}, out_set, into_set)
    out, into = bind_all(sets[0], {"whole": whole}), bind_all(sets[1], {"inner": whole[10:20]})
    with pytest.raises(ValueError, match="overlap without being the same"):
        triton_kernels.switch(out, new_words(out), into, new_words(into), new_words(into))


def host(weights: Weights) -> Weights:
    return {name: weight.cpu() for name, weight in weights.items()}
