"""One text in three parts that share nothing: what is trained on, what chooses, what is reported."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from adapters_store.errors import TrainingRefused
from adapters_store.tools.data import Examples


@dataclass(frozen=True, slots=True, kw_only=True)
class Splits:
    train: Examples
    validation: Examples
    test: Examples

    def drawn(self, num_examples: int, seed: int) -> Examples:
        """Training examples without repetition, in the order of the seed: every method of one seed sees the same."""
        draw = torch.Generator().manual_seed(seed)
        return self.train.take(torch.randperm(len(self.train), generator=draw)[:num_examples])


def split(examples: Examples, *, num_validation: int, num_test: int) -> Splits:
    """Held-out rows are spread evenly over the text, validation and test taking turns in proportion; the row before
    and after each is dropped, so that no training row continues one. The same for every method and seed.

    Raises TrainingRefused for a text with too few rows."""
    num_held_out = num_validation + num_test
    if len(examples) < 4 * num_held_out:
        raise TrainingRefused(
            "data", expected=f"{4 * num_held_out} sequences or more", got=f"{len(examples)} in {examples.digest}"
        )
    held_out = (torch.arange(num_held_out) * len(examples) + len(examples) // 2) // num_held_out
    is_validation = _spread(num_validation, num_held_out)
    is_near = torch.zeros(len(examples), dtype=torch.bool)
    for shift in (-1, 0, 1):
        is_near[(held_out + shift).clamp(0, len(examples) - 1)] = True
    return Splits(
        train=examples.take(~is_near),
        validation=examples.take(held_out[is_validation]),
        test=examples.take(held_out[~is_validation]),
    )


def _spread(count: int, total: int) -> Tensor:
    """bool (total,): ``count`` of them true, evenly."""
    steps = torch.arange(total + 1) * count // total
    return steps[1:] > steps[:-1]
