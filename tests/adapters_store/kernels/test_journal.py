"""Whatever operation a write fails at, rolling back leads to the base bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from adapters_store.kernels import Journal, Kernels, new_words, rollback
from tests.adapters_store.kernels.sets import (
    DTYPES,
    bind_all,
    copy_of,
    differing,
    displaced_by,
    make_index_set,
    make_weights,
    random_words,
)


class InjectedFailure(Exception):
    pass


class FailAt(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Raises in place of the torch operation number ``at``."""

    def __init__(self, at: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.left = at

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.left == 0:
            raise InjectedFailure
        self.left -= 1
        return func(*args, **(kwargs or {}))


def attempt(at: int, write: Any) -> bool:
    """True when the write came to its end before operation ``at``."""
    try:
        with FailAt(at):
            write()
    except InjectedFailure:
        return False
    return True


def test_an_exchange_that_fails_anywhere_can_be_rolled_back(reference: Kernels) -> None:
    weights = make_weights(DTYPES)
    base = copy_of(weights)
    into = bind_all(make_index_set(weights, 0.05, seed=1), weights)
    words = random_words(into, seed=2)
    num_written = set()
    for at in range(10_000):
        displaced, journal = random_words(into, seed=at), Journal()
        if attempt(at, lambda d=displaced, j=journal: reference.exchange(into, words, d, j)):
            break
        num_written.add(len(differing(weights, base)))
        rollback(reference, journal, into, displaced)
        assert differing(weights, base) == []
    assert num_written == set(range(6))  # failures fell between any two of the six weights that have entries


def test_a_switch_that_fails_anywhere_can_be_rolled_back(kernels: Kernels, reference: Kernels) -> None:
    weights = make_weights(DTYPES)
    base = copy_of(weights)
    out = bind_all(make_index_set(weights, 0.05, seed=1), weights)
    into = bind_all(make_index_set(weights, 0.05, seed=2), weights)
    out_words, into_words = random_words(out, seed=3), random_words(into, seed=4)
    for at in range(0, 10_000, 3):
        out_displaced = displaced_by(kernels, out, out_words)
        into_displaced, journal = random_words(into, seed=at), Journal()
        if attempt(
            at,
            lambda o=out_displaced, i=into_displaced, j=journal: reference.switch(
                out, o, into, into_words, i, journal=j
            ),
        ):
            break
        rollback(kernels, journal, into, into_displaced, out=out, out_displaced=out_displaced)
        assert differing(weights, base) == []


def test_rolling_back_a_write_that_came_to_its_end_restores_too(kernels: Kernels) -> None:
    weights = make_weights(DTYPES)
    base = copy_of(weights)
    into = bind_all(make_index_set(weights, 0.05, seed=1), weights)
    displaced, journal = new_words(into), Journal()
    kernels.exchange(into, random_words(into, seed=2), displaced, journal)
    rollback(kernels, journal, into, displaced)
    assert differing(weights, base) == []


def test_nothing_is_rolled_back_before_the_first_write(kernels: Kernels) -> None:
    weights = make_weights(DTYPES)
    base = copy_of(weights)
    into = bind_all(make_index_set(weights, 0.05, seed=1), weights)
    with pytest.raises(ValueError, match="words"):
        kernels.exchange(into, torch.zeros(0, dtype=torch.uint8), new_words(into), journal := Journal())
    rollback(kernels, journal, into, random_words(into, seed=5))
    assert differing(weights, base) == []
