from __future__ import annotations

import pytest
import torch

from adapters_store.adapter import BLOCK_ELEMENTS
from adapters_store.kernels import Journal, Kernels, new_words
from tests.adapters_store.kernels.sets import (
    DTYPES,
    bind_all,
    copy_of,
    differing,
    displaced_by,
    index_set_at,
    make_index_set,
    make_weights,
    random_words,
    same_words,
)

DTYPE_MIXES = [*((dtype,) for dtype in DTYPES), DTYPES]
DENSITIES = [0.0, 0.001, 0.01, 0.3, 1.0]


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("dtypes", DTYPE_MIXES, ids=str)
def test_exchange_writes_and_saves_what_the_reference_does(
    kernels: Kernels, reference: Kernels, dtypes: tuple[torch.dtype, ...], density: float
) -> None:
    weights = make_weights(dtypes)
    expected_weights = copy_of(weights)
    index_set = make_index_set(weights, density, seed=1)
    bound, expected_bound = bind_all(index_set, weights), bind_all(index_set, expected_weights)
    words = random_words(bound, seed=2)

    displaced = displaced_by(kernels, bound, words)
    expected_displaced = displaced_by(reference, expected_bound, words)

    assert differing(weights, expected_weights) == []
    assert same_words(bound, displaced, expected_displaced)


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("dtypes", DTYPE_MIXES, ids=str)
def test_overwriting_with_the_displaced_words_restores_every_bit(
    kernels: Kernels, dtypes: tuple[torch.dtype, ...], density: float
) -> None:
    weights = make_weights(dtypes)
    base = copy_of(weights)
    bound = bind_all(make_index_set(weights, density, seed=1), weights)

    displaced = displaced_by(kernels, bound, random_words(bound, seed=2))
    assert density == 0 or differing(weights, base) != []
    kernels.overwrite(bound, displaced)

    assert differing(weights, base) == []


def test_exchange_touches_only_the_positions_of_the_index_set(kernels: Kernels) -> None:
    weights = {"w": torch.zeros(3 * BLOCK_ELEMENTS + 5, dtype=torch.float16)}
    positions = torch.tensor([0, BLOCK_ELEMENTS - 1, BLOCK_ELEMENTS, 3 * BLOCK_ELEMENTS, 3 * BLOCK_ELEMENTS + 4])
    bound = bind_all(index_set_at(weights, {"w": positions}), weights)
    words = torch.arange(1, 6, dtype=torch.int16).view(torch.uint8)
    words = torch.cat([words, torch.zeros(bound.words_bytes - words.numel(), dtype=torch.uint8)])

    displaced_by(kernels, bound, words)

    touched = weights["w"].view(torch.int16)
    assert torch.nonzero(touched).flatten().tolist() == positions.tolist()
    assert touched[positions].tolist() == [1, 2, 3, 4, 5]


def test_a_completed_exchange_has_journalled_every_weight(kernels: Kernels) -> None:
    weights = make_weights(DTYPES)
    bound = bind_all(make_index_set(weights, 0.01, seed=1), weights)
    journal = Journal()
    kernels.exchange(bound, random_words(bound, seed=2), new_words(bound), journal)
    assert journal.num_weights_displaced == len(weights)


def test_several_threads_write_what_one_does(kernels: Kernels) -> None:
    weights = make_weights(DTYPES)
    base = copy_of(weights)
    bound = bind_all(make_index_set(weights, 0.1, seed=1), weights)
    words = random_words(bound, seed=2)
    displaced = displaced_by(kernels, bound, words)
    once = copy_of(weights)
    kernels.overwrite(bound, displaced)
    try:
        torch.set_num_threads(2)
        again = displaced_by(kernels, bound, words)
        assert differing(weights, once) == []
        kernels.overwrite(bound, again)
    finally:
        torch.set_num_threads(1)
    assert differing(weights, base) == []


def test_a_wrong_words_buffer_is_refused_before_anything_is_written(kernels: Kernels) -> None:
    weights = make_weights(DTYPES)
    base = copy_of(weights)
    bound = bind_all(make_index_set(weights, 0.01, seed=1), weights)
    words, journal = random_words(bound, seed=2), Journal()
    wrong = [
        words[:-4],
        words.view(torch.int8),
        words.repeat(2)[::2],
        torch.zeros(len(words) + 1, dtype=torch.uint8)[1:],
    ]
    for buffer in wrong:
        with pytest.raises(ValueError, match=r"words: expected .* got"):
            kernels.exchange(bound, buffer, new_words(bound), journal)
        with pytest.raises(ValueError, match=r"displaced: expected .* got"):
            kernels.exchange(bound, words, buffer, journal)
        with pytest.raises(ValueError, match=r"words: expected .* got"):
            kernels.overwrite(bound, buffer)
    with pytest.raises(ValueError, match="displaced: expected memory of its own, got memory of words"):
        kernels.exchange(bound, words, words, journal)
    assert differing(weights, base) == []
    assert journal.num_weights_displaced == 0
