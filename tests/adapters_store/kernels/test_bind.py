from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from adapters_store.errors import BaseMismatch
from adapters_store.kernels import bind
from tests.adapters_store.kernels.sets import DTYPES, bind_all, make_index_set, make_weights

WEIGHTS = make_weights(DTYPES)
INDEX_SET = make_index_set(WEIGHTS, 0.01, seed=1)


def test_a_words_buffer_holds_each_weights_words_from_a_multiple_of_four() -> None:
    bound = bind_all(INDEX_SET, WEIGHTS)
    assert all(start % 4 == 0 for start in bound.words_starts)
    for part, weight in zip(bound.parts(), WEIGHTS.values(), strict=True):
        assert part.words_bytes.stop - part.words_bytes.start == part.entry.count * weight.element_size()


def test_a_head_uses_a_prefix_of_the_whole_words_buffer() -> None:
    bound = bind_all(INDEX_SET, WEIGHTS)
    head = bound.head(3)
    assert head.words_starts == bound.words_starts[:4]
    assert head.num_entries == INDEX_SET.entry_starts[3]
    assert bound.head(0).words_bytes == 0


def test_visits_cover_every_entry_once_in_order_of_address() -> None:
    visits = bind_all(INDEX_SET, WEIGHTS).visits
    assert bool((visits[1:, 0] >= visits[:-1, 0] + visits[:-1, 1]).all())
    assert int(visits[:, 3].sum()) == INDEX_SET.num_entries
    assert bool((visits[:, 3] > 0).all())


def test_a_table_for_other_weights_is_refused() -> None:
    with pytest.raises(BaseMismatch, match="weights: expected 7 weights, got 6"):
        bind(INDEX_SET, list(WEIGHTS.values())[:-1])
    with pytest.raises(BaseMismatch, match=r"w0: shape: expected \(40, 50\), got \(50, 40\)"):
        bind_all(INDEX_SET, {**WEIGHTS, "w0": WEIGHTS["w0"].reshape(50, 40)})


def test_weights_in_a_form_that_kernels_cannot_write_are_refused() -> None:
    with pytest.raises(ValueError, match="w0: expected a contiguous weight"):
        bind_all(INDEX_SET, {**WEIGHTS, "w0": WEIGHTS["w0"].reshape(50, 40).T})
    with pytest.raises(ValueError, match="w0: expected one of"):
        bind_all(INDEX_SET, {**WEIGHTS, "w0": torch.zeros(40, 50, dtype=torch.float64)})
    with pytest.raises(ValueError, match="w0: expected the index set's device"):
        bind_all(INDEX_SET, {**WEIGHTS, "w0": torch.zeros(40, 50, device="meta")})


def test_one_storage_under_two_names_is_refused() -> None:
    weight = torch.zeros(30, 30)
    tied = {"a": weight, "b": weight}
    with pytest.raises(ValueError, match="memory of its own"):
        bind_all(make_index_set(tied, 0.1, seed=1), tied)


def test_an_index_outside_its_weight_is_refused_wherever_it_hides() -> None:
    for name, end in (("w0", INDEX_SET.entry_starts[1]), ("w4", INDEX_SET.entry_starts[5])):
        indices = INDEX_SET.indices.view(torch.int16).clone()
        indices[end - 1] = -1  # 65,535: inside a full block only
        broken = replace(INDEX_SET, indices=indices.view(torch.uint16))
        with pytest.raises(ValueError, match="indices: expected below"):
            bind_all(broken, WEIGHTS)
        assert WEIGHTS[name].numel() % 65_536


def test_offsets_that_lie_are_refused() -> None:
    offsets = INDEX_SET.offsets.clone()
    offsets[2] = 2**60
    with pytest.raises(ValueError, match="offsets: expected"):
        bind_all(replace(INDEX_SET, offsets=offsets), WEIGHTS)
    with pytest.raises(ValueError, match="indices: expected contiguous uint16"):
        bind_all(replace(INDEX_SET, indices=INDEX_SET.indices.to(torch.int32)), WEIGHTS)
