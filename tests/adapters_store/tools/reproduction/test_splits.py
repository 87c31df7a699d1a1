from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adapters_store.adapter import Digest
from adapters_store.errors import TrainingRefused
from adapters_store.tools.data import Examples
from adapters_store.tools.reproduction.splits import split


def numbered(num_rows: int) -> Examples:
    """A row is its own number."""
    rows = torch.arange(num_rows).unsqueeze(1).expand(-1, 2)
    return Examples(rows, rows, Digest("sha256:" + "0" * 64))


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 200))
def test_no_row_is_in_two_parts_and_no_training_row_is_next_to_a_held_out_one(
    num_validation: int, num_test: int, num_more: int
) -> None:
    parts = split(
        numbered(4 * (num_validation + num_test) + num_more), num_validation=num_validation, num_test=num_test
    )
    train, validation, test = (part.input_ids[:, 0].tolist() for part in (parts.train, parts.validation, parts.test))
    assert (len(set(validation)), len(set(test))) == (num_validation, num_test)
    assert not set(validation) & set(test)
    assert not {row + shift for row in (*validation, *test) for shift in (-1, 0, 1)} & set(train)
    assert train


def test_both_held_out_parts_reach_over_the_whole_text() -> None:
    parts = split(numbered(4000), num_validation=16, num_test=24)
    for part in (parts.validation, parts.test):
        gaps = part.input_ids[:, 0].diff()
        assert gaps.max() <= 4000 // 16 + 100
        assert part.input_ids[0, 0] < 400
        assert part.input_ids[-1, 0] > 3600


def test_rows_are_drawn_without_repetition_and_by_the_seed_alone() -> None:
    parts = split(numbered(100), num_validation=2, num_test=2)
    first, again, other = (parts.drawn(40, seed).input_ids[:, 0].tolist() for seed in (7, 7, 8))
    assert first == again
    assert first != other
    assert len(set(first)) == 40


def test_a_text_that_is_too_short_is_refused() -> None:
    with pytest.raises(TrainingRefused, match="data: expected 40 sequences or more, got 39"):
        split(numbered(39), num_validation=4, num_test=6)
