from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from adapters_store.kernels import Bound, Journal, Kernels, available_kernels, get_kernels, new_words
from tests.adapters_store.kernels.sets import (
    DTYPES,
    Weights,
    bind_all,
    copy_of,
    differing,
    displaced_by,
    make_index_set,
    make_weights,
    random_words,
    same_words,
)


def part_of(weights: Weights, names: str) -> Weights:
    return {f"w{i}": weights[f"w{i}"] for i in names}


@pytest.mark.parametrize(
    ("out_names", "into_names"),
    [("0123456", "0123456"), ("024", "135"), ("0123", "23456"), ("6543210", "0123456"), ("2", "0123456")],
)
@pytest.mark.parametrize("densities", [(0.01, 0.02), (0.3, 0.0), (0.0, 0.3), (1.0, 1.0)], ids=str)
def test_a_switch_is_a_restore_followed_by_an_exchange(
    kernels: Kernels, reference: Kernels, out_names: str, into_names: str, densities: tuple[float, float]
) -> None:
    weights = make_weights(DTYPES)
    twin = copy_of(weights)
    out_set = make_index_set(part_of(weights, out_names), densities[0], seed=1)
    into_set = make_index_set(part_of(weights, into_names), densities[1], seed=2)
    out, into = bind_all(out_set, weights), bind_all(into_set, weights)
    words = random_words(into, seed=4)
    out_displaced = displaced_by(kernels, out, random_words(out, seed=3))
    into_displaced, journal = new_words(into), Journal()

    kernels.switch(out, out_displaced, into, words, into_displaced, journal=journal)

    twin_into = bind_all(into_set, twin)
    expected_displaced = displaced_by(reference, twin_into, words)  # the base under `into`
    assert differing(weights, twin) == []
    assert same_words(into, into_displaced, expected_displaced)
    assert journal.num_weights_displaced == len(into_names)


def test_weights_that_share_memory_without_being_the_same_are_refused(kernels: Kernels) -> None:
    whole = torch.zeros(100, 100)
    inner = {"inner": whole[10:20]}
    out = bind_all(make_index_set({"whole": whole}, 0.5, seed=1), {"whole": whole})
    into = bind_all(make_index_set(inner, 0.5, seed=2), inner)
    out_displaced = displaced_by(kernels, out, random_words(out, seed=3))
    before, journal = whole.clone(), Journal()
    with pytest.raises(ValueError, match="overlap without being the same"):
        kernels.switch(out, out_displaced, into, random_words(into, seed=4), new_words(into), journal=journal)
    assert torch.equal(whole.view(torch.int32), before.view(torch.int32))
    assert journal.num_weights_displaced == 0


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), variant=st.sampled_from(available_kernels("cpu")))
def test_any_sequence_of_writes_that_ends_in_a_restore_ends_at_the_base(seed: int, variant: str) -> None:
    chance = random.Random(seed)
    kernels = get_kernels("cpu", prefer=variant)
    weights = make_weights(DTYPES, seed)
    base = copy_of(weights)
    sets = [make_index_set(weights, density, seed + i) for i, density in enumerate((0.01, 0.01, 0.2, 0.0))]
    bounds = [bind_all(index_set, weights) for index_set in sets]
    active: tuple[Bound, Tensor] | None = None
    for step in range(20):
        into = chance.choice(bounds)
        words, displaced = random_words(into, step), new_words(into)
        if active is None:
            kernels.exchange(into, words, displaced)
            active = (into, displaced)
        elif chance.random() < 0.2:
            kernels.overwrite(*active)
            active = None
        elif into is active[0]:
            kernels.overwrite(into, words)
        else:
            kernels.switch(*active, into, words, displaced)
            active = (into, displaced)
    if active is not None:
        kernels.overwrite(*active)
    assert differing(weights, base) == []
